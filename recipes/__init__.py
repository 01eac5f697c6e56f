"""Recipes: one self-contained YAML per run in ``<family>/<model>_<data>.yaml``. The command line ``zoo`` is in ``cli``."""

"""The command line ``zoo``, and the recipes: one self-contained YAML a run, in ``<family>/<model>_<data>.yaml``."""

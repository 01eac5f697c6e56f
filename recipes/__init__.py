"""The recipes, one self-contained YAML a run, in ``<family>/<model>_<data>.yaml``; and the command line ``zoo``, in ``cli``."""

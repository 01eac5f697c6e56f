"""The verbs of the command line, one per file: each module has ``HELP`` and ``run``."""

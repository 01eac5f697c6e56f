"""One verb of the command line, one file: its ``HELP`` and its ``run``."""

"""The checks of ``zoo check``: each looks at a run before it is trained, and gives a row of its table."""

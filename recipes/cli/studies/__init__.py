"""Verbs that train more than once and compare."""

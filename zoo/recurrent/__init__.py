"""Recurrent nets."""

from zoo.recurrent.language_model import RecurrentLanguageModel, RecurrentLM

__all__ = ["RecurrentLM", "RecurrentLanguageModel"]

"""Torchmetrics objects of our own, exact over processes, and running means of training."""

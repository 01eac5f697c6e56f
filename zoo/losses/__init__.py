"""Losses, each a function of sums where it can be: the same over batches, accumulation and processes."""

"""What is found by trying before a run: a learning rate, a batch size."""

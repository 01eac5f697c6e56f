"""Pictures: tensors in, uint8 images ``(3, H, W)`` out."""

"""Hand-crafted convolution kernels by name: Gonzalez and Woods 2018, "Digital Image Processing", chapter 3."""

import torch
from torch import Tensor

from zoo.spelling import suggest

_PASCAL = torch.tensor([1.0, 2.0, 1.0])
KERNELS = {
    "identity": torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]]),
    "laplacian": torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]),
    "edge": torch.tensor([[-1.0, -1, -1], [-1, 8, -1], [-1, -1, -1]]),  # the Laplacian with diagonals, negated
    "sobel_x": torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]),  # vertical edges
    "sobel_y": torch.tensor([[-1.0, -2, -1], [0, 0, 0], [1, 2, 1]]),  # horizontal edges
    "box": torch.full((3, 3), 1 / 9),
    "gaussian": torch.outer(_PASCAL, _PASCAL) / 16,
    "gaussian5": torch.tensor(
        [[1.0, 4, 7, 4, 1], [4, 16, 26, 16, 4], [7, 26, 41, 26, 7], [4, 16, 26, 16, 4], [1, 4, 7, 4, 1]]
    )
    / 273,
    "sharpen": torch.tensor([[0.0, -1, 0], [-1, 5, -1], [0, -1, 0]]),
}


def kernel(name: str, size: int | None = None) -> Tensor:
    """Return a kernel for a cross-correlation, which is what a convolution layer computes.

    Args:
        name: "identity", "laplacian", "edge", "sobel_x", "sobel_y", "box", "gaussian" (3x3, 1/16), "gaussian5" (5x5, 1/273) or
            "sharpen".
        size: Side in pixels, at least the kernel's own; zeros are added around it. None for its own side.

    Shape:
        ``(size, size)``.

    Raises:
        ValueError: An unknown name, or a size that is even or smaller than the kernel.

    Example:
        >>> kernel("sobel_x")[1].tolist()
        [-2.0, 0.0, 2.0]
    """
    if name not in KERNELS:
        raise ValueError(f"unknown kernel {name!r}{suggest(name, KERNELS)}; known: {', '.join(KERNELS)}")
    own = KERNELS[name]
    size = len(own) if size is None else size
    margin, odd = divmod(size - len(own), 2)
    if odd or margin < 0:
        raise ValueError(
            f"kernel {name!r} has {len(own)}x{len(own)} values: it does not fit the middle of {size}x{size}; take an odd size of "
            f"{len(own)} or more"
        )
    return torch.nn.functional.pad(own, (margin,) * 4)

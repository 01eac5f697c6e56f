"""Dropout, scaled in training or in evaluation: Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from
Overfitting", JMLR 15.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

DropoutKind = Literal["inverted", "vanilla"]


class VanillaDropout(nn.Dropout):
    """Dropout as it was published: what is kept in training is left as it is, and evaluation scales by 1 - p (section 4, figure 2).

    From the same random numbers it drops what ``nn.Dropout`` drops, and gives 1 - p times its output, in training and in
    evaluation: both keep the expectation, and a linear layer whose weights are divided by 1 - p makes one of the other. In one net
    they differ by the scale of the weights, and so by what the learning rate and the initialization mean.

    Args:
        p: Probability in [0, 1) that a value is dropped in training.

    Shape:
        ``(...)`` -> the same.

    Example:
        >>> VanillaDropout(0.25).eval()(torch.ones(2))
        tensor([0.7500, 0.7500])
    """

    @override
    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return input * (1 - self.p)
        # the mask of ones is drawn as that of the input would be; scaling it back would not keep the values to the bit
        return input * (F.dropout(torch.ones_like(input), self.p) != 0)

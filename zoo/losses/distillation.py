"""Losses of a student and its teacher: of their logits (Hinton et al. 2015, arXiv:1503.02531), and of their features
(Romero et al. 2015, "FitNets", arXiv:1412.6550)."""

import torch.nn.functional as F
from torch import Tensor


def soft_losses(logits: Tensor, teacher: Tensor, temperature: float, independent: bool = False) -> Tensor:
    """Return the Kullback-Leibler divergence from the teacher's softened probabilities to the student's, in nats.

    Logits are divided by the temperature. The gradient with respect to the student's is ``(q - p) / T``, so that of the divergence
    times T^2 keeps its size while T grows (Hinton et al., section 2.1). It is computed in float32 at least.

    Args:
        logits: Of the student.
        teacher: Logits of the teacher.
        temperature: T, > 0.
        independent: Whether each logit is that of an event by itself (binary, multi-label), not of one of K classes.

    Shape:
        ``(B, K)`` twice -> ``(B,)``; independent: ``(B, K)``.

    Example:
        >>> import torch
        >>> soft_losses(torch.zeros(1, 2), torch.tensor([[3.0, 3.0]]), temperature=2.0)
        tensor([0.])
    """
    student, target = ((x if x.element_size() > 2 else x.float()) / temperature for x in (logits, teacher))
    if independent:
        p = target.sigmoid()
        yes = p * (F.logsigmoid(target) - F.logsigmoid(student))
        return yes + (1 - p) * (F.logsigmoid(-target) - F.logsigmoid(-student))
    log_p, log_q = target.log_softmax(dim=1), student.log_softmax(dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def feature_losses(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of two feature maps of the same size, of each example.

    Shape:
        ``(B, C, H, W)`` twice -> ``(B,)``.
    """
    student, teacher = (x if x.element_size() > 2 else x.float() for x in (student, teacher))
    return (student - teacher).square().flatten(1).mean(dim=1)

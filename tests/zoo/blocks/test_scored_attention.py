"""Attention with a score of one's choice: against the formulas written out, number by number, in float64."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from zoo.blocks import ScoredAttention

S, H, K = 6, 10, 4  # sizes of a query, of what it looks at, and k
COUNTS = {"general": S * H, "reduced_rank": K * (S + H), "additive": K * (S + H) + K}
SCORES = ("dot", "scaled_dot", *COUNTS)


def build(score: Any, **options: Any) -> tuple[ScoredAttention, Tensor, Tensor]:
    """A module, three queries each for two examples, and the five vectors that they look at."""
    torch.manual_seed(0)
    size = S if score in ("dot", "scaled_dot") else H
    module = ScoredAttention(S, size, score, K, **options).double()
    return module, torch.randn(2, 3, S).double(), torch.randn(2, 5, size).double()


def dot(one: list[float], other: list[float]) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


def score_by_hand(module: ScoredAttention, s: list[float], h: list[float]) -> float:
    """The five scores as they are published, with the module's matrices as lists of rows."""
    rows = {name: p.tolist() for name, p in module.named_parameters()}
    if module.score in ("dot", "scaled_dot"):
        return dot(s, h) / (math.sqrt(S) if module.score == "scaled_dot" else 1)
    if module.score == "general":  # s' W h
        return math.fsum(s[i] * w * h[j] for i, row in enumerate(rows["key.weight"]) for j, w in enumerate(row))
    of_s, of_h = ([dot(row, x) for row in rows[f"{name}.weight"]] for name, x in (("query", s), ("key", h)))
    if module.score == "reduced_rank":  # (U s)' (V h)
        return dot(of_s, of_h)
    return dot(rows["v.weight"][0], [math.tanh(a + b) for a, b in zip(of_s, of_h, strict=True)])  # v' tanh(W h + U s)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("score", SCORES)
def test_weights_are_the_softmax_of_the_scores(score: str, masked: bool) -> None:
    module, query, memory = build(score)
    real = [5, 2] if masked else [5, 5]
    mask = torch.arange(5) < torch.tensor(real)[:, None] if masked else None
    context, weights = (part.detach() for part in module(query, memory, mask))
    assert (context.shape, weights.shape) == ((2, 3, memory.shape[2]), (2, 3, 5))
    for b in range(2):
        for t in range(3):
            scores = [score_by_hand(module, query[b, t].tolist(), memory[b, j].tolist()) for j in range(real[b])]
            total = math.fsum(math.exp(v) for v in scores)
            wanted = [math.exp(v) / total for v in scores]
            assert weights[b, t].tolist() == pytest.approx([*wanted, *[0.0] * (5 - real[b])], abs=1e-14)
            for d in range(memory.shape[2]):
                mean = math.fsum(w * float(memory[b, j, d]) for j, w in enumerate(wanted))
                assert float(context[b, t, d]) == pytest.approx(mean, abs=1e-13)


@pytest.mark.parametrize("score", SCORES)
def test_published_numbers_of_parameters(score: str) -> None:
    module, *_ = build(score)
    assert sum(p.numel() for p in module.parameters()) == COUNTS.get(score, 0)


@pytest.mark.parametrize("score", SCORES)
def test_what_is_masked_has_no_weight_and_no_gradient(score: str) -> None:
    module, query, memory = build(score)
    mask = torch.tensor([[True, True, False, True, False], [True] * 5])
    context, weights = module(query, memory.requires_grad_(), mask)
    assert (weights[0, :, ~mask[0]] == 0).all()
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(2, 3).double())
    context.square().sum().backward()
    assert memory.grad is not None
    assert (memory.grad[0, ~mask[0]] == 0).all()
    assert (memory.grad[0, mask[0]] != 0).all()
    other = memory.detach().masked_fill(~mask[..., None], 1e6)
    assert torch.equal(module(query, other, mask)[1], weights)


@pytest.mark.parametrize("score", SCORES)
def test_keys_are_computed_once_for_many_queries(score: str) -> None:
    module, query, memory = build(score)
    keys = module.keys(memory)
    for t in range(3):
        for one, all_at_once in zip(
            module(query[:, t : t + 1], memory, None, keys), module(query, memory), strict=True
        ):
            torch.testing.assert_close(one[:, 0], all_at_once[:, t], rtol=0, atol=1e-13)


@pytest.mark.parametrize("score", SCORES)
def test_gradients(score: str) -> None:
    module, query, memory = build(score)
    mask = torch.tensor([[True, True, True, False, False], [True] * 5])
    inputs = query.requires_grad_(), memory.requires_grad_()
    assert torch.autograd.gradcheck(lambda q, m: module(q, m, mask)[0], inputs)


def test_a_reduced_rank_is_general_with_the_product_of_its_matrices() -> None:
    reduced, query, memory = build("reduced_rank")
    general = ScoredAttention(S, H, "general").double()
    general.key.weight.data = reduced.query.weight.T @ reduced.key.weight
    torch.testing.assert_close(general(query, memory)[1], reduced(query, memory)[1], rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (6, 10, "dot"),
            "the score 'dot' multiplies vectors of one size, and queries have 6 numbers, what they look at 10: make",
        ),
        ((6, 10, "scaled_dot"), "the score 'scaled_dot' multiplies vectors of one size"),
        ((6, 10, "cosine"), "score must be one of dot, general, reduced_rank, additive, scaled_dot, got 'cosine'"),
        ((0, 10), "query_size must be 1 or more, got 0"),
        ((6, 0), "key_size must be 1 or more, got 0"),
        ((6, 10, "additive", 0), "size must be 1 or more, got 0"),
    ],
)
def test_wrong_arguments(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScoredAttention(*arguments)

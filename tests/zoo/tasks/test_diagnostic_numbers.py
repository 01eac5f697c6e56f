"""What the tasks tell ``callbacks.TrainingDiagnostics``, by hand and by numpy."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import zoo
from callbacks import TrainingDiagnostics
from callbacks.diagnoses import NAMES
from datamodules import CaptionedImage, SentencePair
from zoo.tasks import AdversarialTask


def seeded(build: Any, **arguments: Any) -> Any:
    torch.manual_seed(0)
    return build(**arguments).eval()


@torch.no_grad()
def test_the_share_of_active_numbers_is_that_of_the_posterior_means() -> None:
    task = seeded(zoo.VAE, input_shape=[1, 2, 2], latent_dim=4, widths=[3])
    x = torch.rand(20, 1, 2, 2)
    net: Any = task.net
    net.encode = lambda x, *_: (x.flatten(1) * torch.tensor([1.0, 0.05, 2.0, 0.0]), torch.zeros(len(x), 4))
    variances = np.var((x.flatten(1) * torch.tensor([1.0, 0.05, 2.0, 0.0])).numpy(), axis=0, ddof=1)
    assert [v > 0.01 for v in variances] == [True, False, True, False]
    assert task.diagnostic_numbers((x, torch.zeros(20))) == {"active_share": 0.5}
    assert task.diagnostic_numbers((x[:1], torch.zeros(1))) == {}


@torch.no_grad()
@pytest.mark.parametrize("conditional", [False, True])
def test_the_diversity_of_samples_is_their_distance_over_that_of_real_ones(conditional: bool) -> None:
    task: AdversarialTask = seeded(
        zoo.DCGAN,
        input_shape=[1, 8, 8],
        latent_dim=4,
        width=4,
        smallest=2,
        conditional=conditional,
        num_classes=2,
        output="sigmoid",
    )
    x, y = torch.rand(9, 1, 8, 8), torch.arange(9) % 2
    made = task(task.noise(9), y) if conditional else task(task.noise(9))

    def spread(images: Tensor) -> float:
        rows = images.flatten(1).double().numpy()
        pairs = [(i, j) for i in range(9) for j in range(i) if not conditional or (i - j) % 2 == 0]
        return float(np.mean([np.linalg.norm(rows[i] - rows[j]) for i, j in pairs]))

    found = task.diagnostic_numbers((x, y))
    assert found == {"sample_diversity": pytest.approx(spread(made) / spread(x), rel=1e-4)}
    assert 0 < found["sample_diversity"] < 1
    assert task.diagnostic_numbers((x * 1e-6, y)) == {"sample_diversity": 1.0}
    assert task.diagnostic_numbers((x[:1], y[:1])) == {}


class Counter(nn.Module):
    """Writes the token after the one that it read, 2..5 in turn; it looks at one place more each step."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(6, 6))
        with torch.no_grad():
            for token in range(6):
                self.table[token, 2 if token < 2 else 2 + (token - 1) % 4] = 5.0

    def forward(self, x: SentencePair) -> Tensor:
        return self.table[x.target]

    def encode(self, source: Tensor) -> Tensor:
        return torch.zeros(1, len(source), 1)

    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.table[tokens], state

    def attention(self, x: SentencePair) -> Tensor:
        steps, places = x.target.shape[1], x.source.shape[1]
        return torch.eye(places)[torch.arange(steps) // 2 % places].expand(len(x.source), -1, -1)


@torch.no_grad()
def test_accuracies_are_of_true_and_of_own_tokens_and_attention_moves_from_step_to_step() -> None:
    task = zoo.tasks.Seq2SeqTask(Counter(), vocab_size=6, source_vocab_size=6, padding=0, max_length=4).eval()
    source = torch.tensor([[2, 3, 1], [3, 1, 0]])
    target = torch.tensor([[1, 3, 4, 5], [1, 2, 3, 0]])
    y = torch.tensor([[3, 4, 5, 1], [2, 3, 1, 0]])
    found = task.diagnostic_numbers((SentencePair(source, target), y))
    # reading 1 3 4 5: 2 4 5 2, of 3 4 5 1 two are right; reading 1 2 3: 2 3 4, of 2 3 1 two
    # by itself: 2 3 4 5, of 3 4 5 1 none; 2 3 4, of 2 3 1 two
    assert found["forced_accuracy"] == pytest.approx(4 / 7)
    assert found["written_accuracy"] == pytest.approx(2 / 7)
    # places 0 0 1 1: of three steps of the first text one moves, of two steps of the second one
    assert found["attention_movement"] == pytest.approx(2 / 5)


@torch.no_grad()
def test_captions_with_several_references_are_judged_by_the_first() -> None:
    task = seeded(
        zoo.RecurrentCaptioning,
        vocab_size=6,
        encoder="resnet20",
        encoder_args={"width": 4},
        width=8,
        embedding_dim=4,
        attention="additive",
    )
    image, caption = torch.rand(3, 3, 16, 16), torch.randint(2, 6, (3, 2, 4))
    y = torch.randint(2, 6, (3, 2, 4))
    found = task.diagnostic_numbers((CaptionedImage(image, caption), y))
    assert set(found) == {"attention_movement", "forced_accuracy", "written_accuracy"}
    logits = task(CaptionedImage(image, caption))[:, 0]
    assert found["forced_accuracy"] == pytest.approx(float((logits.argmax(2) == y[:, 0]).double().mean()))
    weights = task.attention(CaptionedImage(image, caption))[:, 0].double().numpy()
    wanted = np.abs(np.diff(weights, axis=1)).sum(2).mean() / 2
    assert found["attention_movement"] == pytest.approx(wanted, rel=1e-5)


@torch.no_grad()
def test_the_loss_of_a_training_batch_is_that_of_evaluation() -> None:
    task = seeded(zoo.MLPClassifier, in_features=4, num_classes=3, widths=[8], dropout=0.5)
    x, y = torch.randn(7, 4), torch.arange(7) % 3
    wanted = torch.nn.functional.cross_entropy(task.net(x).double(), y)
    assert float(task.loss_in_evaluation((x, y))) == pytest.approx(float(wanted), rel=1e-6)


def test_names_that_make_no_sense_are_names() -> None:
    built = [
        zoo.VAE([1, 2, 2], latent_dim=2, widths=[3]),
        zoo.GAN([2], latent_dim=2, widths=[3]),
        zoo.MLPClassifier(4, 3, [2]),
    ]
    for task in built:
        assert set(task.unfit_diagnoses) <= set(NAMES)
    assert all("loss exploded" in task.unfit_diagnoses for task in built[:2])
    assert built[2].unfit_diagnoses == ()
    assert TrainingDiagnostics(leave_out=built[1].unfit_diagnoses).leave_out == built[1].unfit_diagnoses

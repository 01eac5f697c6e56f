"""``--fast``: bfloat16 where the machine supports it; given options take precedence."""

from pathlib import Path

import pytest
import yaml
from cli_kit import RECIPE, SHORT, Zoo, assert_one_line

from recipes.cli.run import fast

FIT = ("fit", "-c", RECIPE, "--trainer.max_epochs=1", *SHORT)


def precision() -> str | None:
    config = yaml.safe_load(Path("runs", RECIPE, "version_0", "config.yaml").read_text())
    return config["trainer"].get("precision")


@pytest.mark.parametrize(
    ("has", "options", "expected"),
    [
        (True, ("--fast",), "bf16-mixed"),
        (True, ("--fast", "--trainer.precision=32-true"), "32-true"),
        (True, (), None),
        (False, ("--fast",), None),
    ],
)
def test_precision(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch, has: bool, options: tuple[str, ...], expected: str | None
) -> None:
    monkeypatch.setattr(fast.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(fast, "cpu_has_bf16", lambda: has)
    result = zoo(*FIT, *options)
    assert result.code == 0, result.err
    assert precision() == expected
    assert ("--fast has no effect" in result.out) == (not has)


def test_on_a_gpu_cudnn_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast.torch.cuda, "is_available", lambda: True)
    for supported, name in ((True, "bf16-mixed"), (False, "16-mixed")):
        monkeypatch.setattr(fast.torch.cuda, "is_bf16_supported", lambda **_: supported)  # noqa: B023
        assert fast.fast_options() == [f"--trainer.precision={name}", "--trainer.benchmark=true"]


def test_a_resumed_run_refuses_fast(zoo: Zoo, trained: Path) -> None:
    assert_one_line(zoo("fit", "--resume", trained, "--fast"), "--resume continues with the run's own options")

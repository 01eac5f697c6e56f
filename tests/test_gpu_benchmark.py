"""``python -m benchmarks gpu``: tried at toy sizes where there is no GPU, and one failure leaves the other rows alone."""

import importlib
import re
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.__main__ import names
from benchmarks.harness import Row

main = importlib.import_module("benchmarks.__main__")


@pytest.mark.slow
def test_all_rows_are_measured_at_toy_sizes() -> None:
    """Whatever a GPU is asked for has run once; a target is for a GPU."""
    threads, rows = torch.get_num_threads(), gpu.run("cpu")
    torch.set_num_threads(threads)
    missed = [row for row in rows if row.comparison.startswith(("failed", "not measured"))]
    assert not missed
    assert len(rows) == 20
    assert {(row.target, row.met) for row in rows} == {("", None)}
    rates = [float(row.ours.split()[0].replace(",", "")) for row in rows if row.ours.endswith("/s")]
    assert len(rates) > 10
    assert min(rates[1:]) > 0  # the product of toy size is less than a tenth of a TFLOP/s


def test_a_row_that_fails_says_why_and_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(bench: gpu.Bench) -> None:
        gpu.needs("a_package_that_nobody_has")

    def breaks(bench: gpu.Bench) -> None:
        raise RuntimeError("a | b\nmore")

    def full(bench: gpu.Bench) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def late(bench: gpu.Bench) -> None:
        bench.add("late", "1", "2", "3", ">= 1", True)
        monkeypatch.setattr(gpu, "SECONDS", -1)

    rows = [("lacks", lacks), ("breaks", breaks), ("full", full), ("late", late), ("after", late)]
    monkeypatch.setattr(gpu, "ROWS", rows)
    monkeypatch.setattr(gpu.traceback, "print_exc", lambda: None)
    found = {row.what: (row.comparison, row.met) for row in gpu.run("cpu")}
    assert found == {
        "lacks": (
            "not measured: ImportError: a_package_that_nobody_has is not installed (pip install a_package_that_nobody_has)",
            None,
        ),
        "breaks": ("failed: RuntimeError: a / b", False),
        "full": ("not measured: OutOfMemoryError: CUDA out of memory", None),
        "late": ("3", None),
        "after": ("not measured: no time left", None),
    }


def test_targets_are_judged_on_a_gpu_alone() -> None:
    rows = []
    for device in ("cuda", "cpu"):
        bench = gpu.Bench(device, gpu.TOY)
        bench.faster("as fast, to two digits", [1.0, 1.004], [1.0, 1.0], "peer", 10, "images")
        bench.faster("slower", [1.0, 1.02], [1.0, 1.0], "peer", 10, "images")
        bench.slower("within 2%", [1.02], [1.0], "plain", 1.02)
        bench.slower("beyond 2%", [1.03], [1.0], "plain", 1.02)
        rows.append([(row.target, row.met) for row in bench.rows])
    assert rows[0] == [(">= 1.0x", True), (">= 1.0x", False), ("<= 1.02x", True), ("<= 1.02x", False)]
    assert set(rows[1]) == {("", None)}


def test_the_loop_by_hand_is_over_the_same_net_as_ours() -> None:
    """With the same weights, the same logits; else the comparison would tell nothing."""
    ours, hand = gpu.gpt(gpu.Bench("cpu", gpu.TOY)).net.eval(), gpu.NanoGPT(**gpu.TOY.gpt).eval()
    names = {"self_attn.in_proj_": "qkv.", "self_attn.out_proj": "join", "linear1": "up", "linear2": "down"}
    names |= {"embedding": "tokens", "positions": "places", "fc": "head"}
    state = {
        re.sub("|".join(names), lambda found: names[found[0]], key): value for key, value in ours.state_dict().items()
    }
    hand.load_state_dict(state)
    x = torch.randint(11, (2, 8))
    torch.testing.assert_close(hand(x), ours(x))


def test_the_section_says_that_sizes_are_toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "gpu" in names()
    monkeypatch.setattr(main, "RESULTS", tmp_path / "RESULTS.md")
    monkeypatch.setattr(gpu, "run", lambda device: [Row("a row", "1", "2", "3", "", None)])
    monkeypatch.setattr(gpu, "DEVICES", ("cpu",))
    monkeypatch.setattr(main, "quiet", lambda: None)
    assert main.main(["gpu"]) == 0
    written = (tmp_path / "RESULTS.md").read_text()
    assert "## gpu (cpu, toy sizes)\n" in written
    assert gpu.NOTE in written
    assert "| a row | 1 | 2 | 3 |  |  |" in written

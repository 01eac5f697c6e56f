"""``zoo fit --fast``: trainer options for the arithmetic in which this machine is fastest."""

from typing import Any

import torch


def fast_options() -> list[str]:
    """Mixed bfloat16 where the machine has instructions for it (on a GPU without: float16), and cuDNN's choice by trial."""
    if torch.cuda.is_available():
        precision = "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
        return [f"--trainer.precision={precision}", "--trainer.benchmark=true"]
    return ["--trainer.precision=bf16-mixed"] if cpu_has_bf16() else []


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 matrices itself (AVX512-BF16, AMX, or Arm's BF16)."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))

"""``zoo fit --fast``: trainer options for the fastest arithmetic of this machine."""

from typing import Any

import torch


def fast_options() -> list[str]:
    """Return the options for mixed bfloat16 where the machine supports it (float16 on other GPUs) and cuDNN's benchmark mode."""
    if torch.cuda.is_available():
        precision = "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
        return [f"--trainer.precision={precision}", "--trainer.benchmark=true"]
    return ["--trainer.precision=bf16-mixed"] if cpu_has_bf16() else []


def cpu_has_bf16() -> bool:
    """Return whether the CPU has instructions for bfloat16 matrix products (AVX512-BF16, AMX, or Arm's BF16)."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))

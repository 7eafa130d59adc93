"""Which devices compute faster in bf16 than in fp32."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from transformers.utils import is_torch_bf16_gpu_available

AUTO = "auto"  # bf16 where it is faster
CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16", "sve_bf16"}  # of x86 (first two) and ARM processors that multiply bf16
CPU_INFO = Path("/proc/cpuinfo")


def is_bf16_fast(on_cpu: bool) -> bool:
    """Return True if this machine computes in bf16 faster than in fp32.

    Args:
        on_cpu: the run uses the processor, not an accelerator.
    """
    return has_cpu_bf16() if on_cpu or not torch.accelerator.is_available() else bool(is_torch_bf16_gpu_available())


def has_cpu_bf16(cpu_info: Path = CPU_INFO) -> bool:
    """Return True if the processor multiplies bf16; False too where the system does not say, as on macOS.

    Others emulate it, and are slower than in fp32.

    Args:
        cpu_info: the system's description of its processors.
    """
    if not cpu_info.is_file():
        return False
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", cpu_info.read_text("utf-8", "replace"), re.MULTILINE)
    return flags is not None and bool(CPU_FLAGS & set(flags[1].split()))

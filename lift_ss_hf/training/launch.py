"""What a launcher says about a run: its precision, its devices and DeepSpeed; the same for every training recipe.

Arguments that only one version of transformers has are here too.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from transformers import TrainingArguments

from .precision import AUTO, has_cpu_bf16, is_bf16_fast

logger = logging.getLogger(__name__)

BUILD_TIME = 300  # [s] that compiling one of DeepSpeed's operators may take
LAUNCHER_PRECISION = "ACCELERATE_MIXED_PRECISION"  # set by `accelerate launch`, and by transformers.TrainingArguments


@dataclass
class LaunchedArguments(TrainingArguments):
    """`transformers.TrainingArguments` that take from the launcher what a recipe leaves open."""

    bf16: bool | None = field(  # type: ignore[assignment]  # a bool once initialised
        default=None,
        metadata={
            "help": "bf16 mixed precision: true, false, or auto, where the device computes faster in it than in fp32; "
            "unset: as the launcher says (--mixed_precision)"
        },
    )
    fp16: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "use fp16 mixed precision; unset: as the launcher says"}
    )
    # transformers 5 has neither of these
    overwrite_output_dir: bool = field(default=False, metadata={"help": "replace what another run left in output_dir"})
    warmup_ratio: float = field(
        default=0.0, metadata={"help": "raise the learning rate over this part of the steps [fraction]"}
    )
    # What the last instance left in the launcher's variable, and what was there before.
    _precision_left: ClassVar[tuple[str, str] | None] = None

    def __post_init__(self):
        # Without it and without an accelerator, the Trainer refuses bf16 and DeepSpeed looks for a GPU.
        if not torch.accelerator.is_available():
            self.use_cpu = True
        launched = self._set_precision()
        uses_fsdp = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
        if uses_fsdp and not torch.accelerator.is_available():  # accelerate would silently use DDP
            raise ValueError("FSDP needs GPUs, found none. Use --config_file accelerate_configs/cpu_ddp.yaml.")
        if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
            _warn_of_abandoned_builds()
        if not 0 <= self.warmup_ratio <= 1:
            raise ValueError(f"warmup_ratio is {self.warmup_ratio}. Expected a fraction from 0 to 1.")
        super().__post_init__()
        LaunchedArguments._precision_left = os.environ.get(LAUNCHER_PRECISION, "no"), launched

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Return the number of steps of the warm-up: `warmup_steps`, or else `warmup_ratio` of all."""
        if self.warmup_steps or not self.warmup_ratio:
            return super().get_warmup_steps(num_training_steps)
        return math.ceil(num_training_steps * self.warmup_ratio)

    def _set_precision(self) -> str:
        """Take the launcher's precision where the recipe sets none, and return the launcher's.

        Raises:
            ValueError: if recipe and launcher contradict each other. A launcher that says `no` leaves it to the recipe,
                as that is what it says without being asked.
        """
        launched = os.environ.get(LAUNCHER_PRECISION, "no").lower()
        if self._precision_left is not None and self._precision_left[0] == launched:
            launched = self._precision_left[1]
        if self.bf16 == AUTO:
            is_left_open = launched not in ("bf16", "fp16") and not self.fp16
            self.bf16 = is_bf16_fast(self.use_cpu) if is_left_open else None
            if is_left_open and not self.bf16:
                logger.info("bf16: auto: fp32, as this device does not compute faster in bf16.")
        chosen = {"bf16": self.bf16, "fp16": self.fp16}
        wanted = next((name for name, value in chosen.items() if value), None)
        if launched in chosen and (chosen[launched] is False or wanted not in (None, launched)):
            said = f"{wanted}: true" if wanted not in (None, launched) else f"{launched}: false"
            raise ValueError(
                f"the recipe says {said}, but the launcher says {launched} (mixed_precision in the --config_file of "
                f"accelerate launch). Change the recipe, or launch with --mixed_precision {wanted or 'no'}."
            )
        self.bf16 = bool(self.bf16) or (wanted is None and launched == "bf16")
        self.fp16 = bool(self.fp16) or (wanted is None and launched == "fp16")
        if self.bf16 and self.use_cpu and not has_cpu_bf16():
            logger.warning(
                "bf16 on a processor without avx512_bf16 or amx_bf16 is about 2 times slower than fp32. Write bf16: "
                "auto, or leave it out (--mixed_precision no)."
            )
        return launched

    @property
    def _setup_devices(self) -> torch.device:
        # accelerate calls the CPU of a distributed run `cpu:0`, to which torch.load cannot map when the run is resumed.
        # Drop when transformers > 4.57 does not ask it to.
        device = super()._setup_devices
        if self._n_gpu > 1:  # the Trainer would use torch's DataParallel, whose replicas have no parameters
            logger.info("using one of %d GPUs; to use all, start it with: accelerate launch", self._n_gpu)
            self._n_gpu = 1
        return torch.device("cpu") if device.type == "cpu" else device


def _warn_of_abandoned_builds() -> None:
    # A process killed while it compiles leaves its lock, and torch waits for the lock without end and without a word.
    from torch.utils.cpp_extension import get_default_build_root  # slow to import, and needed under DeepSpeed only

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    for lock in (*root.glob("*/lock"), *root.glob("*/*/lock")):
        with contextlib.suppress(FileNotFoundError):  # released in between
            if time.time() - lock.stat().st_mtime > BUILD_TIME:
                logger.warning(
                    "%s is old: DeepSpeed waits for it until the process that compiles there has ended. If no process "
                    "does, one was killed while compiling: stop this run, remove the file and start again.", lock
                )  # fmt: skip

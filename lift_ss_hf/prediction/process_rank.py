"""Which of several processes this is, as accelerate and torchrun tell it."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class ProcessRank:
    """Which of several processes this is.

    Attributes:
        rank: of this process, from 0.
        size: number of processes.

    Raises:
        ValueError: if no process has this rank; it would compute nothing.
    """

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(
                f"RANK is {self.rank} and WORLD_SIZE is {self.size}. Ranks count from 0: expected 0 <= RANK < "
                "WORLD_SIZE."
            )

    @classmethod
    def from_environment(cls) -> ProcessRank:
        """Read the variables that accelerate and torchrun set. The processes never communicate, so none waits."""
        return cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))

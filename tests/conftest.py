"""Fixtures that several test modules need: the real data, where a machine has it."""

import os
from pathlib import Path

import pytest

# Sums depend on how they are split: what is compared bit for bit with another process needs equally many threads.
# Set before torch is imported; the processes that tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test of the default run may reach for the network


@pytest.fixture(scope="session")
def shared_corpora() -> Path:
    """The folder of the real corpora; the test is skipped where there is none."""
    folder = os.environ.get("LIFT_SS_DATA_DIR") or Path(__file__).parents[2] / "shared" / "corpora"
    if not Path(folder).is_dir():
        pytest.skip("needs the real corpora: set LIFT_SS_DATA_DIR")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def shared_esm2(shared_corpora) -> Path:
    """The folder of the real ESM-2 8M, beside the corpora; the test is skipped where there is none."""
    folder = shared_corpora.parent / "backbones" / "esm2_t6_8M"
    if not folder.is_dir():
        pytest.skip("needs the real ESM-2 8M in backbones/esm2_t6_8M beside LIFT_SS_DATA_DIR")
    return folder


@pytest.fixture(autouse=True)
def accelerate_environment():
    """TrainingArguments(bf16=True) sets a variable for all that comes after it in the process: take it back."""
    before = {name: value for name, value in os.environ.items() if name.startswith("ACCELERATE_")}
    yield
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        del os.environ[name]
    os.environ.update(before)

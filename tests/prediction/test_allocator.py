"""Memory that tensors no longer need goes back to the system."""

import ctypes
import sys
from pathlib import Path

import pytest
import torch

from lift_ss_hf.prediction.allocator import return_free_memory


def own_memory():
    """Return the resident memory of this process that is not a file's [bytes]."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_gaps_in_the_heap_go_back_to_the_system():
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("needs glibc")
    large = [torch.ones(2**22)]
    large.clear()  # 16 MiB: from now on, glibc takes smaller blocks from its heap
    blocks = [torch.ones(2**17) for _ in range(400)]  # 200 MiB
    kept = blocks.pop()  # at the end of the heap: the gaps stay below it
    blocks.clear()
    before = own_memory()
    assert return_free_memory()
    assert before - own_memory() > 150 * 2**20
    assert kept.sum() == 2**17


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_nothing_happens_without_glibc(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not return_free_memory()

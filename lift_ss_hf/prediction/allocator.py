"""Return memory that tensors no longer need to the system; glibc keeps it in its heap."""

from __future__ import annotations

import ctypes
import sys


def return_free_memory() -> bool:
    """Return the free pages of the heap to the system.

    Returns:
        Whether there were any; False if the C library is not glibc.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None  # not in musl
    return malloc_trim is not None and bool(malloc_trim(0))

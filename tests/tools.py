"""Marks of tests that need programs which a newcomer's machine may lack."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest


def _needs(program: str, package: str) -> Callable[[Any], Any]:
    def mark(test: Any) -> Any:
        skip = pytest.mark.skipif(shutil.which(program) is None, reason=f"needs {program} (Debian: {package})")
        return pytest.mark.tools(pytest.mark.process(skip(test)))

    return mark


needs_mkdssp = _needs("mkdssp", "dssp")
needs_mmseqs = _needs("mmseqs", "mmseqs2")

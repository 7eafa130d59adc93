"""Marks of tests that need programs which a newcomer's machine may lack."""

import importlib.util
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

skip_without_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="needs gradio (pip install '.[page]')"
)
# `needs_gradio` and `needs_browser` are for a module, as `pytestmark`
needs_gradio = [pytest.mark.tools, skip_without_gradio]
needs_browser = [
    *needs_gradio,
    pytest.mark.slow,
    pytest.mark.process,
    pytest.mark.skipif(
        shutil.which("chromium") is None or importlib.util.find_spec("playwright") is None,
        reason="needs playwright and chromium (Debian: chromium)",
    ),
]
needs_ray = [
    pytest.mark.tools,
    pytest.mark.process,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray Data (pip install '.[ray]')"),
]

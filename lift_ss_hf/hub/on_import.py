"""Doing something as soon as another module is imported, and nothing if it never is."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module as everyone else would, and calls back after it has been executed."""

    def __init__(self, module: str, callback: Callable[[], None]):
        self.module, self.callback = module, callback

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module's own spec with our loader around its loader; None for all other modules."""
        if fullname != self.module:
            return None
        sys.meta_path.remove(self)  # once is enough, and the search below must not find us again
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self.callback)
        return spec


class _Loader(importlib.abc.Loader):
    """Another loader, and a call when it is done."""

    def __init__(self, loader: importlib.abc.Loader, callback: Callable[[], None]):
        self.loader, self.callback = loader, callback

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """As the other loader does."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As the other loader does, and then the call."""
        self.loader.exec_module(module)
        assert module.__spec__ is not None
        module.__spec__.loader = self.loader
        self.callback()


def call_on_import(module: str, callback: Callable[[], None]) -> None:
    """Call back once, after `module` was imported; now, if it has been."""
    if module in sys.modules:
        callback()
    else:
        sys.meta_path.insert(0, _Finder(module, callback))

"""Make models, tokenizer and pipeline known to transformers, without importing them before they are used.

`import lift_ss_hf` must make `AutoConfig`, `AutoModelForTokenClassification`, `AutoTokenizer` and `pipeline` find our
classes, and must not import torch, which takes seconds: `lift-ss --help` imports the package too. transformers has no
entry points for this, and its `register` functions take the classes themselves. So, when transformers' own tables are
imported, our names are entered without their classes, and the first look-up imports and registers the classes. They
cannot be imported at that moment: our models import transformers' models, and those import the tables.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, ItemsView, Mapping, Sequence, ValuesView
from types import ModuleType
from typing import Any

from ..models.adapters_names import MISSING, give_missing_names

# Not imported from where they are defined, since that would import torch; a test compares them.
TASK = "protein-secondary-structure"
MODEL_TYPES = (
    "bert_secondary_structure",
    "esm_secondary_structure",
    "esmc_secondary_structure",
    "t5_secondary_structure",
)


def model_types() -> tuple[str, ...]:
    """Return those of `MODEL_TYPES` over backbones that the installed transformers has; 4.57 has no ESM C."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return tuple(name for name in MODEL_TYPES if name.removesuffix("_secondary_structure") in CONFIG_MAPPING)


def register_family(model_class: type[Any]) -> None:
    """Make a family of backbones known, here and to transformers' Auto classes.

    Args:
        model_class: a subclass of `SecondaryStructureModel` with a `family` and a `config_class` of its own.

    Raises:
        TypeError: if it is not such a class.
        ValueError: if another class is for backbones of this model type.
    """
    from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer

    from ..models.families import add_family
    from ..models.tokenization import ResidueTokenizer

    add_family(model_class)
    config_class = model_class.config_class
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModelForTokenClassification.register(config_class, model_class, exist_ok=True)
    AutoTokenizer.register(config_class, fast_tokenizer_class=ResidueTokenizer, exist_ok=True)


def register() -> None:
    """Make the families that come with the package known to transformers; a second call changes nothing."""
    from ..models.families import MODEL_CLASSES

    for model_class in list(MODEL_CLASSES.values()):
        register_family(model_class)


def register_pipeline() -> None:
    """Make `pipeline("protein-secondary-structure")` work, with the bundled model by default."""
    import transformers
    from transformers import AutoModelForTokenClassification
    from transformers.pipelines import PIPELINE_REGISTRY

    from ..models.backbones import BUNDLED, locate
    from ..models.pipeline import SecondaryStructurePipeline

    model = locate(BUNDLED, "predictor"), "main"
    PIPELINE_REGISTRY.supported_tasks[TASK] = {
        "impl": SecondaryStructurePipeline,
        "pt": (AutoModelForTokenClassification,),
        "tf": (),
        "default": {"model": {"pt": model} if transformers.__version__.startswith("4.") else model},
        "type": "text",
    }


class _Entries(dict[Any, Any]):
    """One of transformers' tables, with our names added; their values are filled in when one is first looked up.

    Args:
        names: to add.
        entries: the table so far.
        fill: fills in the values.
    """

    def __init__(self, names: Sequence[str], entries: Mapping[Any, Any], fill: Callable[[], None]):
        super().__init__({**dict.fromkeys(names), **entries})
        self.fill = fill

    def __getitem__(self, key: Any) -> Any:
        if super().__getitem__(key) is None:
            self.fill()
        return super().__getitem__(key)

    def get(self, key: Any, default: Any = None) -> Any:
        try:
            return self[key]
        except KeyError:
            return default

    def items(self) -> ItemsView[Any, Any]:  # type: ignore[override]  # dict's own view types cannot be named
        return {key: self[key] for key in [*self]}.items()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        return {key: self[key] for key in [*self]}.values()


# transformers 4.57 and 5 have no public way to enter a name without its class: `_extra_content` is what the Auto
# classes' `register` writes to.


def _announce_models() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    CONFIG_MAPPING._extra_content = _Entries(model_types(), CONFIG_MAPPING._extra_content, register)


def _announce_tokenizer() -> None:
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING

    # Searched for classes by name, after transformers' own. The key matches no configuration.
    def fill() -> None:
        TOKENIZER_MAPPING._extra_content[__name__] = ()
        register()

    TOKENIZER_MAPPING._extra_content = _Entries((__name__,), TOKENIZER_MAPPING._extra_content, fill)


def _announce_pipeline() -> None:
    from transformers.pipelines import PIPELINE_REGISTRY

    PIPELINE_REGISTRY.supported_tasks = _Entries((TASK,), PIPELINE_REGISTRY.supported_tasks, register_pipeline)


def register_on_use() -> None:
    """Register when an Auto class looks for one of our models, or when our models are imported directly."""
    call_on_import("transformers.models.auto.configuration_auto", _announce_models)
    call_on_import("transformers.models.auto.tokenization_auto", _announce_tokenizer)
    call_on_import("transformers.pipelines", _announce_pipeline)
    call_on_import("lift_ss_hf.models.families", register)
    for module in MISSING:  # for users who import adapters themselves
        call_on_import(module, functools.partial(give_missing_names, module))


# ---- calling back on an import ------------------------------------------------------------------------------------


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module as usual, and calls back after it has been executed."""

    def __init__(self, module: str, callback: Callable[[], None]):
        self.module, self.callback = module, callback

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the module's own spec with our loader around its loader; None for all other modules."""
        if fullname != self.module:
            return None
        sys.meta_path.remove(self)  # the search below must not find this finder again
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)
        return spec


class _Loader(importlib.abc.Loader):
    """Calls another loader, and calls back when it is done."""

    def __init__(self, loader: importlib.abc.Loader, finder: _Finder):
        self.loader, self.finder = loader, finder

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Delegate to the other loader."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Delegate to the other loader, then call back; if the import fails, wait for the next one."""
        try:
            self.loader.exec_module(module)
        except BaseException:
            sys.meta_path.insert(0, self.finder)
            raise
        assert module.__spec__ is not None
        module.__spec__.loader = self.loader
        self.finder.callback()


def call_on_import(module: str, callback: Callable[[], None]) -> None:
    """Call back once, after `module` has been imported; at once if it already is."""
    if module in sys.modules:
        callback()
    else:
        sys.meta_path.insert(0, _Finder(module, callback))

"""Presets: recipes in YAML, one file each, with a reason for each setting."""

from __future__ import annotations

from importlib import resources

from ...models.configuration import check_choice

DEFAULT_PRESET = "quick"
SUFFIX = ".yaml"


def preset_names() -> list[str]:
    """Return the names of all presets, sorted.

    Example:
        >>> "quick" in preset_names()
        True
    """
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(SUFFIX) for file in files if file.name.endswith(SUFFIX))


def preset_text(name: str) -> str:
    """Return the file of a preset, which can be copied and used as a recipe.

    Raises:
        ValueError: if there is no such preset.
    """
    check_choice("preset", name, preset_names())
    return resources.files(__name__).joinpath(name + SUFFIX).read_text("utf-8")

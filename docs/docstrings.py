"""Lets mkdocstrings show the examples of our docstrings as code.

Docstrings in Google's style may call them `Example:` or `Examples:`; griffe reads only the second as code.
"""

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^( *)Example:$", re.M)


class ExampleSections(griffe.Extension):
    """Renames the section `Example` of each docstring to `Examples`."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the sections of one object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub(r"\1Examples:", obj.docstring.value)

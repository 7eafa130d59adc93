"""Parts of sentences that many messages share: counted things, and names close to one that does not exist."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

MOST_OF_A_PATH = 200  # characters in a message: what was taken for a path may be as long as a sequence


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number and what it counts, in the singular or the plural.

    Args:
        number: how many.
        noun: in the singular.
        plural: of the noun; by default the noun with an s.

    Example:
        >>> counted(1, "chain"), counted(1042, "residue"), counted(0, "entry", "entries")
        ('1 chain', '1,042 residues', '0 entries')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its type if it has none.

    Example:
        >>> first_line(ValueError("too long" + chr(10) + "by far")), first_line(EOFError())
        ('too long', 'EOFError')
    """
    return (str(error).splitlines() or [type(error).__name__])[0]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean ...?` with the known name closest to one that does not exist, empty if none is close.

    Example:
        >>> did_you_mean("adaptor", ["adapter", "backbone"])
        " Did you mean 'adapter'?"
        >>> did_you_mean("x", ["adapter", "backbone"])
        ''
    """
    return _question(difflib.get_close_matches(name, known, n=1))


def no_such_file(path: str | os.PathLike, what: str = "file") -> str:
    """Return the message `PATH: no such file.`, with the paths closest to it.

    Args:
        path: of the missing file.
        what: kind of file that was expected.

    Example:
        >>> no_such_file("/nowhere/chains.fasta")
        '/nowhere/chains.fasta: no such file.'
    """
    shown = os.fspath(path)
    if len(shown) > MOST_OF_A_PATH:
        shown = f"{shown[:MOST_OF_A_PATH]}..."
    return f"{shown}: no such {what}.{did_you_mean_path(path)}"


def did_you_mean_path(path: str | os.PathLike) -> str:
    """Return ` Did you mean ...?` with the paths closest to a missing one, empty if none is close."""
    return _question(close_paths(path))


def close_paths(path: str | os.PathLike) -> list[str]:
    """Return up to three existing paths that are close to a missing one, the closest first.

    The first part of the path that does not exist is compared with its neighbours, so a misspelt folder is found too.
    """
    missing = Path(path)
    try:
        while missing.parent != missing and not missing.parent.is_dir():
            missing = missing.parent
        beside = [entry.name for entry in missing.parent.iterdir()]
    except (OSError, ValueError):  # a folder that cannot be read, a name that is too long or has a zero byte
        return []
    return [str(missing.with_name(name)) for name in difflib.get_close_matches(missing.name, beside)]


def _question(names: Sequence[str]) -> str:
    return f" Did you mean {' or '.join(map(repr, names))}?" if names else ""

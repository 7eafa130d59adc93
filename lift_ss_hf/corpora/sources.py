"""Find source files: in a folder, in the cache, or on the network; each is verified by its checksum.

The folder is given by `data_dir` or the environment variable LIFT_SS_DATA_DIR. A download is verified before it gets
its name in the cache, so an interrupted one is never mistaken for a complete file.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import datasets
import pooch
import requests

from ..models.atomic import replacing
from .catalogue import SourceFile, versions_of
from .chains import CorpusError

DATA_DIR_VARIABLE = "LIFT_SS_DATA_DIR"
TIMEOUT = 30  # [seconds] without a byte before a download fails
CHUNK = 1 << 20


class MissingSourceError(CorpusError):
    """A source file is in no folder and could not be downloaded."""


def download_dir() -> Path:
    """Return the folder of downloads, which is in the cache of the datasets library."""
    return Path(datasets.config.HF_DATASETS_CACHE) / "lift_ss_hf" / "downloads"


def source_folders(data_dir: str | Path | None = None) -> list[Path]:
    """Return the folders to search: `data_dir`, then LIFT_SS_DATA_DIR.

    Raises:
        ValueError: if one of them is given but is not a folder.
    """
    folders = []
    for origin, folder in (("", data_dir), (f"{DATA_DIR_VARIABLE}: ", os.environ.get(DATA_DIR_VARIABLE))):
        if not folder:
            continue
        if not Path(folder).is_dir():
            raise ValueError(f"{origin}{folder} is not a folder. Name the folder that holds the corpora.")
        folders.append(Path(folder))
    return folders


def find_source(source: SourceFile, data_dir: str | Path | None = None) -> Path:
    """Return the path of a source file, from a folder, the cache or the network.

    Args:
        source: the file's entry in the catalogue.
        data_dir: a folder that holds it as `<folder of the origin>/<file name>` or `<file name>`. Another catalogued
            version of the file (PISCES_30_train.txt of 2022 and of 2023) is passed over.

    Raises:
        MissingSourceError: if the file is not available; the message lists the ways to get it.
        CorpusError: if a file of that name exists but does not have the pinned checksum.
    """
    searched = []
    for folder in source_folders(data_dir):
        searched.append(str(folder))
        for path in (folder / source.origin.folder / source.name, folder / source.name):
            if not path.is_file():
                continue
            if other := _other_version(path, source):
                searched[-1] += f", where {path.relative_to(folder)} is that of {other}"
                continue
            _verify(path, source)
            return path
    cached = download_dir() / f"{source.checksum.split(':')[1][:16]}-{source.name}"
    if not cached.is_file() or _checksum(cached, source) != source.checksum:  # missing, or damaged on disk
        _download(source, cached, searched)
    return cached


def _other_version(path: Path, source: SourceFile) -> str | None:
    """Return the corpus that a file belongs to if it is another version of the source file, else None."""
    others = {checksum: name for checksum, name in versions_of(source.name).items() if checksum != source.checksum}
    return others.get(_checksum(path, source)) if others else None


def _download(source: SourceFile, target: Path, searched: list[str]) -> None:
    """Download a file with a progress bar; it is renamed only after verification."""
    if source.url is None:
        raise MissingSourceError(_how_to_get(source, searched, "it has no download address"))
    if datasets.config.HF_HUB_OFFLINE:
        raise MissingSourceError(_how_to_get(source, searched, "offline mode is on"))
    # pooch.retrieve() knows no git blob ids, which are the checksums that the repositories give: verified here.
    fetch = pooch.HTTPDownloader(progressbar=True, chunk_size=CHUNK, timeout=TIMEOUT)
    with replacing(target) as part:
        try:
            fetch(source.url, str(part), None)
        except requests.RequestException as error:
            raise MissingSourceError(_how_to_get(source, searched, f"download failed: {_reason(error)}")) from None
        _verify(part, source, shown=source.url)


def _reason(error: requests.RequestException) -> object:
    """Return why a request failed, without the layers that requests and urllib3 put around it."""
    cause = error.args[0] if error.args and isinstance(error.args[0], Exception) else error
    return getattr(cause, "reason", None) or (cause.args[0] if cause.args else cause)


def _how_to_get(source: SourceFile, searched: list[str], problem: str) -> str:
    where = f"not in {', '.join(searched)}" if searched else "no source folder given"
    ways = [f"name a folder that holds it (--source DIR, data_dir=, or {DATA_DIR_VARIABLE})"]
    if source.url is None:
        ways.append((source.instead or "").rstrip("."))
    else:
        ways.append(f"or download {source.url} into such a folder")
    return f"{source.name} is not available ({where}; {problem}). To get it: {'; '.join(ways)}."


def _checksum(path: Path, source: SourceFile) -> str:
    """Return a file's checksum, of the kind that is pinned for it."""
    if source.git_blob:
        digest, kind = hashlib.sha1(f"blob {path.stat().st_size}\0".encode()), "git_blob"
    else:
        digest, kind = hashlib.sha256(), "sha256"
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return f"{kind}:{digest.hexdigest()}"


def _verify(path: Path, source: SourceFile, shown: str | None = None) -> None:
    """Compare a file's checksum with the pinned one; `shown` is its name in the message."""
    found = _checksum(path, source)
    if found == source.checksum:
        return
    with path.open("rb") as file:
        start = file.read(256).lstrip(b"\xef\xbb\xbf \r\n\t")
    problem = "HTML instead of data" if start[:1] == b"<" else "not the file in the catalogue"
    raise CorpusError(
        f"{shown or path}: {problem}: found checksum {found}, expected {source.checksum} "
        f"({path.stat().st_size} bytes). Get the file again, or remove it."
    )

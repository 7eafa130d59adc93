"""Getting a source's file: a folder, then the local cache, then the network; never without its checksum.

A folder is named by `data_dir`, or by the environment variable LIFT_SS_DATA_DIR. What the network gives lands in the
cache in one step, after its checksum was verified, so a killed download leaves nothing that looks whole.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import datasets
from tqdm.auto import tqdm

from .catalogue import SourceFile
from .chains import CorpusError

DATA_DIR_VARIABLE = "LIFT_SS_DATA_DIR"
TIMEOUT = 30  # [seconds] without a byte before a download is given up
CHUNK = 1 << 20


class MissingSourceError(CorpusError):
    """A source's file is in no folder and cannot be downloaded."""


def download_dir() -> Path:
    """Where downloads are kept: beside the datasets library's own cache."""
    return Path(datasets.config.HF_DATASETS_CACHE) / "lift_ss_hf" / "downloads"


def source_folders(data_dir: str | Path | None = None) -> list[Path]:
    """The folders to look in, `data_dir` before LIFT_SS_DATA_DIR.

    Raises:
        ValueError: if one that was named is no folder.
    """
    folders = []
    for origin, folder in ((None, data_dir), (DATA_DIR_VARIABLE, os.environ.get(DATA_DIR_VARIABLE))):
        if not folder:
            continue
        if not Path(folder).is_dir():
            raise ValueError(
                f"{origin + ': ' if origin else ''}{folder} is no folder. Name one that holds the corpora."
            )
        folders.append(Path(folder))
    return folders


def find_source(source: SourceFile, data_dir: str | Path | None = None) -> Path:
    """The verified file of a source: from a folder, the cache or the network.

    Args:
        source: the catalogue's file.
        data_dir: a folder that holds it as `<origin's folder>/<file name>` or `<file name>`.

    Raises:
        MissingSourceError: if it is nowhere; the message lists the ways to get it.
        CorpusError: if a file is there but is not the pinned one.
    """
    folders = source_folders(data_dir)
    for folder in folders:
        for path in (folder / source.origin.folder / source.name, folder / source.name):
            if path.is_file():
                _verify(path, source)
                return path
    cached = download_dir() / f"{source.checksum.split(':')[1][:16]}-{source.name}"
    if cached.is_file():
        if _checksum_of(cached, source) == source.checksum:
            return cached
        cached.unlink()  # damaged on disk: get it again
    if source.url is None:
        raise MissingSourceError(_how_to_get(source, folders, None))
    if datasets.config.HF_HUB_OFFLINE:
        raise MissingSourceError(_how_to_get(source, folders, "offline mode is on"))
    try:
        _download(source, cached)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise MissingSourceError(_how_to_get(source, folders, f"download failed: {reason}")) from None
    return cached


def _how_to_get(source: SourceFile, folders: list[Path], problem: str | None) -> str:
    looked = f"not in {', '.join(map(str, folders))}" if folders else "no source folder named"
    ways = [f"name a folder that holds it (--source DIR, data_dir=, or {DATA_DIR_VARIABLE})"]
    if source.url is None:
        problem, instead = "it has no download address", source.instead
        ways.append((instead or "").rstrip("."))
    else:
        ways.append(f"or download {source.url} into such a folder")
    return f"{source.name} is not at hand ({looked}; {problem}). To get it: {'; '.join(ways)}."


def _download(source: SourceFile, target: Path) -> None:
    """Download to `target` in one step, with a progress bar; verified before it has its name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.incomplete")
    assert source.url is not None
    try:
        with urllib.request.urlopen(source.url, timeout=TIMEOUT) as response, part.open("wb") as file:
            total = int(response.headers.get("Content-Length") or 0) or None
            with tqdm(total=total, unit="B", unit_scale=True, desc=source.name) as bar:
                for chunk in _chunks(response):
                    file.write(chunk)
                    bar.update(len(chunk))
        size = part.stat().st_size
        if total is not None and size != total:
            raise CorpusError(f"{source.url}: download is truncated: {size} of {total} bytes. Run it again.")
        _verify(part, source, shown=source.url)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := response.read(CHUNK):
            yield chunk
    except http.client.IncompleteRead as error:
        yield error.partial  # the sizes are compared afterwards, with a better message


def _checksum_of(path: Path, source: SourceFile) -> str:
    if source.git_blob:
        digest, kind = hashlib.sha1(f"blob {path.stat().st_size}\0".encode()), "git_blob"
    else:
        digest, kind = hashlib.sha256(), "sha256"
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return f"{kind}:{digest.hexdigest()}"


def _verify(path: Path, source: SourceFile, shown: str | None = None) -> None:
    found = _checksum_of(path, source)
    if found != source.checksum:
        with path.open("rb") as file:
            start = file.read(256).lstrip(b"\xef\xbb\xbf \r\n\t")
        what = "HTML instead of data" if start[:1] == b"<" else "not the file the catalogue pins"
        raise CorpusError(
            f"{shown or path}: {what}: checksum {found}, expected {source.checksum} "
            f"({path.stat().st_size} bytes). Get the file again, or remove it."
        )

"""Backbones whose weights are on the Hub, or in a folder, as pickles only: where the same weights are as safetensors.

No pickle is read here. Two places are searched, both by the checksum of the pickle, which the Hub reports without a
download: the local cache, where `conversion` keeps what it has converted, and the repository itself, to which the
Hub's conversion bot offers safetensors in a pull request. The cache is `lift_ss_hf` in `HF_HOME`:

    backbones/CHECKSUM/            the weights as safetensors, config.json, and origin.json: where they came from
    checksums/HASH_OF_PATH.json    of weights in folders, with their size and time, so that each is read once
    folders/ORG--NAME@COMMIT.json  the folder in which a converted backbone was used (`origins`)
    lookups/ORG--NAME@COMMIT.json  what the Hub answered, once the weights are found: from then on they load offline
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled
from transformers.utils import (
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)

from .atomic import replacing, restore
from .safety import check_index, in_one_line, read_json_object

try:
    from huggingface_hub.utils import httpx  # from huggingface_hub 1 on
except ImportError:
    HUB_ERRORS: tuple[type[Exception], ...] = (OSError,)
else:
    HUB_ERRORS = (OSError, httpx.HTTPError)

ROBOT = "SFconvertbot"  # its pull requests are those that transformers takes, too
TAKEN = ("open", "merged")  # a closed pull request was rejected
NOTHING_TO_SEE = (401, 403, 404, 410)  # answers where there are no discussions, or none that may be read
SHA256 = re.compile(r"[0-9a-f]{64}")


class Pickles(NamedTuple):
    """The files that hold a checkpoint's weights as pickles.

    Attributes:
        name: Hub id or folder.
        commit: on the Hub; None for a folder.
        checksums: SHA-256 of each file, by its name.
        num_bytes: of all files.
        copy: commit of the repository that has the same weights as safetensors too, if one is known.
    """

    name: str
    commit: str | None
    checksums: Mapping[str, str]
    num_bytes: int
    copy: str | None = None

    @property
    def checksum(self) -> str:
        """SHA-256 of the file; of several files, of their names and checksums."""
        if len(self.checksums) == 1:
            return next(iter(self.checksums.values()))
        lines = (f"{checksum}  {file}\n" for file, checksum in sorted(self.checksums.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def cache_folder(self) -> Path:
        """Where the converted weights are kept."""
        return _cache() / "backbones" / self.checksum

    def describe(self) -> str:
        """Return the name of the first file, the number of the others, and the size."""
        others = f" and {len(self.checksums) - 1} more" if len(self.checksums) > 1 else ""
        return f"{min(self.checksums)}{others} ({readable_size(self.num_bytes)})"


def readable_size(num_bytes: float) -> str:
    """Return a number of bytes in GB, MB or kB.

    Example:
        >>> readable_size(2_416_000_000), readable_size(93_500)
        ('2.4 GB', '94 kB')
    """
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f} {name}"
    return f"{num_bytes / 1e3:.0f} kB"


def file_checksum(path: Path) -> str:
    """Return the SHA-256 of a file without reading it again and again.

    In the Hub's cache it is the name of the file that a link leads to. Elsewhere it is computed once, and again when
    the file's size or time has changed; `conversion` computes that of what it converts in any case.
    """
    blob = path.resolve()
    if blob.parent.name == "blobs" and SHA256.fullmatch(blob.name):
        return blob.name
    facts = blob.stat()
    state = {"path": str(blob), "size": facts.st_size, "time": facts.st_mtime_ns}
    kept = _cache() / "checksums" / f"{hashlib.sha256(str(blob).encode()).hexdigest()}.json"
    with contextlib.suppress(OSError, ValueError, TypeError, LookupError):  # there is none, or it is damaged
        known = json.loads(kept.read_text("utf-8"))
        if known == state | {"sha256": known["sha256"]}:
            return known["sha256"]
    checksum = computed_checksum(blob)
    keep(kept, state | {"sha256": checksum})
    return checksum


def computed_checksum(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- the pickles -----------------------------------------------------------------------------------------------------


def find_pickles(name: str, commit: str | None, **hub_options: Any) -> Pickles | None:
    """Return the pickles of a checkpoint, None if it has none; nothing is downloaded but the index of several files.

    Args:
        name: Hub id or folder.
        commit: of the repository.
        hub_options: cache_dir, local_files_only, token, ... Checkpoints in a subfolder are not searched.

    Raises:
        OSError: if the Hub cannot be asked.
    """
    if hub_options.get("subfolder"):
        return None
    is_folder = Path(name).is_dir()
    hub_options = {**hub_options, "revision": commit}
    if not is_folder and commit and (known := _read_lookup(name, commit)):
        return known
    files = _look_at([WEIGHTS_NAME], name, **hub_options)
    if not files:
        index = read_json_object(name, WEIGHTS_INDEX_NAME, **hub_options)
        names = [] if index is None else check_index(index, f"the {WEIGHTS_INDEX_NAME} of {name!r}", ".bin")
        files = _look_at(names, name, **hub_options)
    if not files:
        return None
    checksums = {file: checksum for file, (checksum, _) in files.items()}
    return Pickles(name, None if is_folder else commit, checksums, sum(size for _, size in files.values()))


def _look_at(files: list[str], name: str, **hub_options: Any) -> dict[str, tuple[str, int]]:
    """Return checksum and size of files; none if one of them does not exist."""
    found = {file: _look_at_file(file, name, **hub_options) for file in files}
    known = {file: facts for file, facts in found.items() if facts is not None}
    return known if len(known) == len(files) else {}


def _look_at_file(
    file: str,
    name: str,
    revision: str | None = None,
    cache_dir: str | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    **_: Any,
) -> tuple[str, int] | None:
    cached: Any = Path(name, file) if Path(name).is_dir() else None
    if cached is None:
        cached = try_to_load_from_cache(name, file, cache_dir=cache_dir, revision=revision)
    if isinstance(cached, (str, Path)):
        path = Path(cached)
        return (file_checksum(path), path.stat().st_size) if path.is_file() else None
    if local_files_only:
        return None
    try:
        facts = get_hf_file_metadata(hf_hub_url(name, file, revision=revision), token=token)
    except EntryNotFoundError:
        return None
    except HUB_ERRORS as error:
        raise OSError(f"the Hub cannot be asked for {file}: {error}") from error
    return str(facts.etag), int(facts.size or 0)


# ---- the same weights as safetensors ---------------------------------------------------------------------------------


def find_copy(pickles: Pickles, **hub_options: Any) -> tuple[str, str | None] | None:
    """Return where the weights of pickles are as safetensors: name or folder, and revision; None if nowhere.

    What was converted here is preferred to the Hub's copy, which would have to be downloaded. A copy on the Hub is
    taken if the very same pickles lie beside it. transformers asks for a copy whose commit follows the newest one of
    the main branch instead; so it finds none for a commit that was named, or once a README has changed, and then has
    one made on the Hub, for which it sends the user's token.

    Args:
        pickles: from `find_pickles`.
        hub_options: local_files_only, token, ...

    Raises:
        OSError: if the Hub cannot be asked, though it is not turned off: a large pickle would be fetched in vain.
    """
    folder = pickles.cache_folder
    restore(folder)
    if (folder / CONFIG_NAME).is_file():
        write_lookup(pickles)  # they may have been converted for another commit or name
        return str(folder), None
    if pickles.commit is None:
        return None
    copy = pickles.copy
    if copy is None and not hub_options.get("local_files_only"):
        copy = _find_copy_on_hub(pickles, hub_options.get("token"))
        if copy is not None:
            write_lookup(pickles._replace(copy=copy))
    return None if copy is None else (pickles.name, copy)


def _find_copy_on_hub(pickles: Pickles, token: str | bool | None) -> str | None:
    """Return the commit of the main branch, or of a pull request of the Hub's conversion bot, with the same pickles."""
    api = HfApi(token=token)
    try:
        for revision in _revisions(api, pickles.name):
            about = api.model_info(pickles.name, revision=revision, files_metadata=True)
            files = {file.rfilename: file.lfs.sha256 if file.lfs else None for file in about.siblings or []}
            has_copy = SAFE_WEIGHTS_NAME in files or SAFE_WEIGHTS_INDEX_NAME in files
            if has_copy and pickles.checksums.items() <= files.items():
                return about.sha
    except OfflineModeIsEnabled:
        pass  # nothing can be fetched
    except HUB_ERRORS as error:
        if not isinstance(error, HfHubHTTPError) or error.response.status_code not in NOTHING_TO_SEE:
            raise OSError(
                f"the Hub cannot be asked for a converted copy of {pickles.describe()}: {in_one_line(error)}. Try "
                "again later, or set HF_HUB_OFFLINE=1 to use local files only."
            ) from error
    return None


def _revisions(api: HfApi, name: str) -> Iterator[str]:
    yield "main"
    for discussion in api.get_repo_discussions(name, author=ROBOT, discussion_type="pull_request"):
        if discussion.author == ROBOT and discussion.status in TAKEN and discussion.git_reference:
            yield discussion.git_reference


def refusal(pickles: Pickles, revision: str | None = None) -> str:
    """Return why pickles are not read, and what to do.

    Args:
        pickles: from `find_pickles`.
        revision: as the user gave it.
    """
    command = f"lift-ss convert-backbone {pickles.name}" + (f" --revision {revision}" if revision else "")
    costs = "" if pickles.commit is None else f"downloads {readable_size(pickles.num_bytes)}, "
    return (
        f"the backbone {pickles.name!r} has no safetensors, only {pickles.describe()}: a pickle. A pickle can "
        f"run any code when it is read, so it is not read. Run `{command}` once (training does it with "
        f"--convert_backbone True): it {costs}reads nothing but numbers, and keeps the encoder's as safetensors."
    )


# ---- the cache -------------------------------------------------------------------------------------------------------


def _cache() -> Path:
    return Path(constants.HF_HOME) / "lift_ss_hf"


def kept_file(folder: str, name: str, commit: str) -> Path:
    """Return the file in a folder of the cache for a commit of a repository."""
    return _cache() / folder / f"{name.replace('/', '--')}@{commit}.json"


def keep(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file to the cache, or do without it: others may own the cache."""
    with contextlib.suppress(OSError, ValueError), replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def write_lookup(pickles: Pickles) -> None:
    """Keep what the Hub answered about the pickles of a commit, unless it is known."""
    if pickles.commit is None or _read_lookup(pickles.name, pickles.commit) == pickles:
        return
    keep(kept_file("lookups", pickles.name, pickles.commit), pickles._asdict())


def _read_lookup(name: str, commit: str) -> Pickles | None:
    path = kept_file("lookups", name, commit)
    try:
        return Pickles(**json.loads(path.read_text("utf-8")))
    except (OSError, TypeError, ValueError):  # there is none, or one of another version
        return None

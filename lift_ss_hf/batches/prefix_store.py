"""Hidden states on disk: the output of the frozen blocks for each chain, kept in half precision across epochs and runs.

    store = PrefixStore(folder, origin)
    with store.locked():
        missing = store.open(keys, repair=True)   # verifies checksums; damaged parts are removed
        with store.writing(missing) as add:       # a new part, published only when complete
            add(key, hidden_states)
    store.open(keys)
    store.read(key)

A store is a folder `DIR/ORIGIN/`, where ORIGIN is a digest of everything the hidden states depend on. `origin.json` in
it lists these in plain text, to help decide which store to remove. A store consists of parts: folders that never
change once they have their name. Each holds `hidden_states.bin` (raw 16-bit floats, memory-mapped) and
`index.safetensors` (the position of each chain, and its checksum). A part is filled under a private name and then
renamed, so a part is either complete or absent. One writer at a time holds the folder's lock; others wait for it and
find the store filled.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..models.atomic import remove_leftovers, replacing, replacing_folder, require_folder

logger = logging.getLogger(__name__)

FORMAT = 1
BYTES_PER_VALUE = 2
DATA_FILE, INDEX_FILE, LOCK_FILE, ORIGIN_FILE = "hidden_states.bin", "index.safetensors", "lock", "origin.json"
DTYPES = (torch.float16, torch.bfloat16)  # an entry of the index stores the position in this tuple


class Entry(NamedTuple):
    """Position of a chain's hidden states in a part; `start` and the shape count values, not bytes."""

    start: int
    outputs: int
    rows: int
    tokens: int
    hidden: int
    dtype: int
    checksum: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the hidden states: (outputs, rows, tokens, hidden)."""
        return self.outputs, self.rows, self.tokens, self.hidden

    @property
    def size(self) -> int:
        """Number of values."""
        return self.outputs * self.rows * self.tokens * self.hidden

    def checksum_of(self, key: str, values: np.ndarray) -> int:
        """Return the CRC-32 of the values together with this entry's chain, shape and dtype."""
        return zlib.crc32(values.view(np.uint8).data, zlib.crc32(f"{key} {self.shape} {self.dtype}".encode()))


def chain_key(token_ids: Sequence[int] | np.ndarray) -> str:
    """Return the digest of a chain's tokens; equal chains share their hidden states.

    Example:
        >>> chain_key([0, 5, 2]) == chain_key(np.array([0, 5, 2]))
        True
    """
    return hashlib.sha256(np.asarray(token_ids, dtype="<i8").tobytes()).hexdigest()[:32]


def to_half(hidden_states: torch.Tensor) -> torch.Tensor:
    """Round to 16 bits: to float16 (11 significant bits), or to bfloat16 (8) if float16 overflows.

    bfloat16 is returned unchanged.
    """
    half = hidden_states.to(torch.float16)
    if hidden_states.dtype == torch.bfloat16 or not torch.isfinite(half).all():
        return hidden_states.to(torch.bfloat16)
    return half


class PrefixStore:
    """Hidden states of chains that share one origin.

    Args:
        folder: folder of all stores.
        origin: everything the hidden states depend on besides the chain: weights, depth, dtype, ...; JSON values.
    """

    def __init__(self, folder: str | Path, origin: Mapping[str, Any]):
        self._origin_text = json.dumps({**origin, "format": FORMAT}, sort_keys=True)
        self.origin = _digest(self._origin_text)
        self.folder = Path(folder) / self.origin
        self._found: dict[str, tuple[Path, Entry]] = {}
        self._data: dict[Path, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the memory maps: a worker of a data loader maps the files itself."""
        return self.__dict__ | {"_data": {}}

    @contextmanager
    def locked(self) -> Iterator[PrefixStore]:
        """Hold the store's lock, waiting for another writer if there is one; a killed writer's lock is released."""
        require_folder(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOCK_FILE).open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("prefix cache: waiting for another run that is filling %s", self.folder)
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_store(self.folder):  # new, or damaged
                with replacing(self.folder / ORIGIN_FILE) as part:
                    part.write_text(self._origin_text + "\n", "utf-8")
            remove_leftovers(self.folder)
            for folder in self._other_folders():
                _remove_leftovers_unless_locked(folder)
            yield self

    def open(self, keys: Iterable[str], repair: bool = False) -> list[str]:
        """Look up chains and verify their checksums.

        Args:
            keys: keys of the chains.
            repair: remove parts that are damaged or of another origin; call only while holding the lock.

        Returns:
            The keys that no intact part has, in order and without repetitions.
        """
        wanted = dict.fromkeys(keys)
        self._found, self._data = {}, {}
        for part in sorted(path for path in self.folder.glob("[!.]*") if path.is_dir()):
            try:
                self._found |= self._read_part(part, wanted)
            except (ValueError, OSError, SafetensorError) as error:
                logger.warning("prefix cache: ignoring %s%s: %s", part, ", will rebuild it" if repair else "", error)
                if repair:
                    shutil.rmtree(part)
        return [key for key in wanted if key not in self._found]

    def _read_part(self, part: Path, wanted: Mapping[str, Any]) -> dict[str, tuple[Path, Entry]]:
        """Return the wanted chains of a part, after verifying them."""
        with safe_open(part / INDEX_FILE, framework="numpy") as file:
            metadata, names = file.metadata() or {}, set(file.keys())
            origin = metadata.get("origin")
            if origin != self.origin or names != {"keys", "entries"}:
                raise ValueError(f"its origin is {origin}, expected {self.origin}")
            keys, entries = file.get_tensor("keys"), file.get_tensor("entries")
        if metadata.get("sum") != _index_sum(keys, entries):
            raise ValueError("its index is damaged")
        data = self._data_of(part)
        found = {}
        for raw, fields in zip(keys, entries.tolist(), strict=True):
            key, entry = raw.tobytes().hex(), Entry(*fields)
            if key not in wanted:
                continue
            values = data[entry.start : entry.start + entry.size]
            if len(values) != entry.size or entry.checksum_of(key, values) != entry.checksum:
                raise ValueError(f"the hidden states of chain {key} are damaged")
            found[key] = part, entry
        return found

    def _data_of(self, part: Path) -> np.ndarray:
        """Return all values of a part, memory-mapped."""
        if part not in self._data:
            self._data[part] = np.memmap(part / DATA_FILE, dtype=np.int16, mode="c")  # "c": never written back
        return self._data[part]

    def read(self, key: str) -> torch.Tensor:
        """Return the hidden states of a chain that `open` found.

        Returns:
            (outputs, rows, tokens, hidden) float16 or bfloat16, memory-mapped.
        """
        part, entry = self._found[key]
        values = self._data_of(part)[entry.start : entry.start + entry.size]
        return torch.from_numpy(values).view(DTYPES[entry.dtype]).view(entry.shape)

    def num_bytes(self) -> int:
        """Return how much this store takes on disk [bytes]."""
        return _num_bytes(self.folder)

    def others(self) -> list[tuple[Path, int]]:
        """Return the stores of other backbones and depths in the same folder, and how much each takes [bytes]."""
        return [(folder, _num_bytes(folder)) for folder in self._other_folders()]

    def _other_folders(self) -> list[Path]:
        folders = sorted(path.parent for path in self.folder.parent.glob(f"*/{ORIGIN_FILE}"))
        return [folder for folder in folders if folder != self.folder and _is_store(folder)]

    def free_bytes(self) -> int:
        """Return the free space on the store's disk [bytes]."""
        return shutil.disk_usage(self.folder).free

    @contextmanager
    def writing(self, keys: Sequence[str]) -> Iterator[Callable[[str, torch.Tensor], None]]:
        """Fill a new part, which is published when the block ends without an error, and discarded otherwise.

        Args:
            keys: keys of the chains that will be added; they determine the part's name.

        Yields:
            `add(key, hidden_states)`, with hidden_states (outputs, rows, tokens, hidden) of any float dtype.

        Raises:
            OSError: if the disk is full, or cannot be written to.
        """
        name = hashlib.sha256("".join(sorted(keys)).encode()).hexdigest()[:16]
        with replacing_folder(self.folder / name) as part, (part / DATA_FILE).open("wb") as file:
            entries: dict[str, Entry] = {}

            def add(key: str, hidden_states: torch.Tensor) -> None:
                entries[key] = _append(file, key, hidden_states)

            yield add
            file.flush()
            index: dict[str, np.ndarray] = {
                "keys": np.frombuffer(bytes.fromhex("".join(entries)), np.uint8).reshape(len(entries), -1),
                "entries": np.array([*entries.values()], np.int64).reshape(len(entries), -1),
            }
            try:
                save_file(index, part / INDEX_FILE, metadata={"origin": self.origin, "sum": _index_sum(**index)})
            except SafetensorError as error:  # safetensors raises this for a full disk
                raise OSError(f"cannot write {part / INDEX_FILE}: {error}") from error


def _num_bytes(store: Path) -> int:
    return sum(path.stat().st_size for path in store.glob(f"*/{DATA_FILE}"))


def _digest(origin_text: str) -> str:
    return hashlib.sha256(origin_text.encode()).hexdigest()[:32]


def _is_store(folder: Path) -> bool:
    """Return True if a folder is certainly a store: it has the name that its origin.json gives."""
    try:
        return folder.name == _digest((folder / ORIGIN_FILE).read_text("utf-8").removesuffix("\n"))
    except (OSError, ValueError):
        return False


def _remove_leftovers_unless_locked(store: Path) -> None:
    with contextlib.suppress(OSError), (store / LOCK_FILE).open("ab") as lock:  # in use, or another user's
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove_leftovers(store)


def _index_sum(keys: np.ndarray, entries: np.ndarray) -> str:
    return hashlib.sha256(f"{keys.shape} {entries.shape}".encode() + keys.tobytes() + entries.tobytes()).hexdigest()


def _append(file: BinaryIO, key: str, hidden_states: torch.Tensor) -> Entry:
    """Append a chain's hidden states to a file."""
    half = to_half(hidden_states).cpu().contiguous()
    values = half.view(torch.int16).numpy().reshape(-1)
    outputs, rows, tokens, hidden = hidden_states.shape
    start = file.tell() // BYTES_PER_VALUE
    entry = Entry(start, outputs, rows, tokens, hidden, DTYPES.index(half.dtype), 0)
    file.write(values.data)
    return entry._replace(checksum=entry.checksum_of(key, values))

"""Hidden states on disk: what the frozen blocks make of each chain, kept in half precision between epochs and runs.

    store = PrefixStore(folder, origin)
    with store.locked():
        missing = store.open(keys, repair=True)   # verified; what is damaged is removed
        with store.writing(missing) as add:       # a new part, published whole
            add(key, states)
    store.open(keys)
    store.read(key)

A store is a folder `DIR/ORIGIN/`, ORIGIN being a digest of all that the states depend on; `origin.json` in it says what
that is, for who wants to know which store to remove. It holds parts: folders that are never changed once they have
their name, each with `states.bin` (raw 16-bit floats, memory-mapped) and `index.safetensors` (where each chain lies,
and its checksum). A part is filled under a private name and renamed, so a part is whole or absent; one writer at a time
holds the folder's lock, the others wait and then find it filled.
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

from ..models.atomic import replacing, replacing_folder

logger = logging.getLogger(__name__)

FORMAT = 1
BYTES_PER_VALUE = 2
DATA_FILE, INDEX_FILE, LOCK_FILE, ORIGIN_FILE = "states.bin", "index.safetensors", "lock", "origin.json"
DTYPES = (torch.float16, torch.bfloat16)  # by number, as in the index


class Entry(NamedTuple):
    """Where a chain's states lie in a part: `start` and the shape count values, not bytes."""

    start: int
    outputs: int
    rows: int
    tokens: int
    hidden: int
    dtype: int
    checksum: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Outputs, rows, tokens, hidden."""
        return self.outputs, self.rows, self.tokens, self.hidden

    @property
    def size(self) -> int:
        """Number of values."""
        return self.outputs * self.rows * self.tokens * self.hidden

    def sum_of(self, key: str, values: np.ndarray) -> int:
        """CRC-32 of the values, and of the chain, shape and dtype they are said to have."""
        return zlib.crc32(values.view(np.uint8).data, zlib.crc32(f"{key} {self.shape} {self.dtype}".encode()))


def chain_key(token_ids: np.ndarray) -> str:
    """Digest of a chain's tokens: equal chains share their states."""
    return hashlib.sha256(np.asarray(token_ids, dtype="<i8").tobytes()).hexdigest()[:32]


def to_half(states: torch.Tensor) -> torch.Tensor:
    """Round to 16 bits: float16, which keeps 11 significant bits; bfloat16, which keeps 8, where that overflows.

    What is bfloat16 already is kept exactly.
    """
    half = states.to(torch.float16)
    if states.dtype == torch.bfloat16 or not torch.isfinite(half).all():
        return states.to(torch.bfloat16)
    return half


class PrefixStore:
    """The states of chains that go back to one origin.

    Args:
        folder: of all stores.
        origin: all that the states depend on besides the chain: weights, depth, dtype, ...; JSON values.
    """

    def __init__(self, folder: str | Path, origin: Mapping[str, Any]):
        self._origin_text = json.dumps({**origin, "format": FORMAT}, sort_keys=True)
        self.origin = hashlib.sha256(self._origin_text.encode()).hexdigest()[:32]
        self.folder = Path(folder) / self.origin
        self._found: dict[str, tuple[Path, Entry]] = {}
        self._data: dict[Path, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without the states: another process, as a worker of a data loader, maps them into its own memory."""
        return self.__dict__ | {"_data": {}}

    @contextmanager
    def locked(self) -> Iterator[PrefixStore]:
        """Keep other writers out; waits for the one who is in. A writer that was killed keeps nobody out."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOCK_FILE).open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("prefix cache: waiting for another run that fills %s", self.folder)
                fcntl.flock(lock, fcntl.LOCK_EX)
            _remove_left_behind(self.folder)
            for folder, _ in self.others():
                _remove_left_behind_unless_locked(folder)
            with replacing(self.folder / ORIGIN_FILE) as part:
                part.write_text(self._origin_text + "\n", "utf-8")
            yield self

    def open(self, keys: Iterable[str], repair: bool = False) -> list[str]:
        """Look chains up, and verify their checksums: what is read later is what was written.

        Args:
            keys: of the chains.
            repair: remove parts that are damaged or of another origin; only for who holds the lock.

        Returns:
            keys that no sound part has, each once, in their order.
        """
        wanted = dict.fromkeys(keys)
        self._found, self._data = {}, {}
        for part in sorted(path for path in self.folder.glob("[!.]*") if path.is_dir()):
            try:
                self._found |= self._read_part(part, wanted)
            except (ValueError, OSError, SafetensorError) as error:
                logger.warning("prefix cache: %s is not used%s: %s", part, " but made anew" if repair else "", error)
                if repair:
                    shutil.rmtree(part)
        return [key for key in wanted if key not in self._found]

    def _read_part(self, part: Path, wanted: Mapping[str, Any]) -> dict[str, tuple[Path, Entry]]:
        """The wanted chains of a part, verified."""
        with safe_open(part / INDEX_FILE, framework="numpy") as file:
            metadata, names = file.metadata() or {}, set(file.keys())
            origin = metadata.get("origin")
            if origin != self.origin or names != {"keys", "entries"}:
                raise ValueError(f"it was made for {origin}, expected {self.origin}")
            keys, entries = file.get_tensor("keys"), file.get_tensor("entries")
        if metadata.get("sum") != _index_sum(keys, entries):
            raise ValueError("its index is damaged")
        data = self._data_of(part)
        found = {}
        for raw, values in zip(keys, entries.tolist(), strict=True):
            key, entry = raw.tobytes().hex(), Entry(*values)
            if key not in wanted:
                continue
            states = data[entry.start : entry.start + entry.size]
            if len(states) != entry.size or entry.sum_of(key, states) != entry.checksum:
                raise ValueError(f"the states of chain {key} are damaged")
            found[key] = part, entry
        return found

    def _data_of(self, part: Path) -> np.ndarray:
        """All states of a part, end to end, memory-mapped."""
        if part not in self._data:
            self._data[part] = np.memmap(part / DATA_FILE, dtype=np.int16, mode="c")  # "c": never written back
        return self._data[part]

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def read(self, key: str) -> torch.Tensor:
        """The states of a chain that `open` found: (outputs, rows, tokens, hidden), fp16 or bf16, memory-mapped."""
        part, entry = self._found[key]
        states = self._data_of(part)[entry.start : entry.start + entry.size]
        return torch.from_numpy(states).view(DTYPES[entry.dtype]).view(entry.shape)

    def num_bytes(self) -> int:
        """What this store takes on the disk [bytes]."""
        return _num_bytes(self.folder)

    def others(self) -> list[tuple[Path, int]]:
        """The stores beside this one, of other backbones and depths, and what they take on the disk [bytes]."""
        folders = sorted(path.parent for path in self.folder.parent.glob(f"*/{LOCK_FILE}"))
        return [(folder, _num_bytes(folder)) for folder in folders if folder != self.folder]

    def free_bytes(self) -> int:
        """Room on the disk [bytes]."""
        return shutil.disk_usage(self.folder).free

    @contextmanager
    def writing(self, keys: Sequence[str]) -> Iterator[Callable[[str, torch.Tensor], None]]:
        """Fill a new part. It is there when the block is left without an error, and not at all otherwise.

        Args:
            keys: of the chains that will be added; they name the part.

        Returns:
            `add(key, states)`, states being (outputs, rows, tokens, hidden) of any float dtype.

        Raises:
            OSError: if the disk is full, or cannot be written to.
        """
        name = hashlib.sha256("".join(sorted(keys)).encode()).hexdigest()[:16]
        with replacing_folder(self.folder / name) as part, (part / DATA_FILE).open("wb") as file:
            entries: dict[str, Entry] = {}

            def add(key: str, states: torch.Tensor) -> None:
                entries[key] = _append(file, key, states)

            yield add
            file.flush()
            index: dict[str, np.ndarray] = {
                "keys": np.frombuffer(bytes.fromhex("".join(entries)), np.uint8).reshape(len(entries), -1),
                "entries": np.array([*entries.values()], np.int64).reshape(len(entries), -1),
            }
            try:
                save_file(index, part / INDEX_FILE, metadata={"origin": self.origin, "sum": _index_sum(**index)})
            except SafetensorError as error:  # what safetensors makes of a full disk
                raise OSError(f"cannot write {part / INDEX_FILE}: {error}") from error


def _num_bytes(store: Path) -> int:
    return sum(path.stat().st_size for path in store.glob(f"*/{DATA_FILE}"))


def _remove_left_behind(store: Path) -> None:
    """Remove what writers that were killed had begun; for who holds the lock."""
    for left_behind in [*store.glob(".*.incomplete"), *store.glob(".*.old")]:
        shutil.rmtree(left_behind, ignore_errors=True)


def _remove_left_behind_unless_locked(store: Path) -> None:
    with (store / LOCK_FILE).open("ab") as lock, contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove_left_behind(store)


def _index_sum(keys: np.ndarray, entries: np.ndarray) -> str:
    return hashlib.sha256(f"{keys.shape} {entries.shape}".encode() + keys.tobytes() + entries.tobytes()).hexdigest()


def _append(file: BinaryIO, key: str, states: torch.Tensor) -> Entry:
    """Write a chain's states at the end of a file."""
    half = to_half(states).cpu().contiguous()
    values = half.view(torch.int16).numpy().reshape(-1)
    outputs, rows, tokens, hidden = states.shape
    start = file.tell() // BYTES_PER_VALUE
    entry = Entry(start, outputs, rows, tokens, hidden, DTYPES.index(half.dtype), 0)
    file.write(values.data)
    return entry._replace(checksum=entry.sum_of(key, values))

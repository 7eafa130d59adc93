"""Write files and folders whole or not at all, even if the process is killed or the machine loses power.

New content is written under a hidden name, synced to disk and then renamed. A folder cannot be renamed over another
one, so the existing folder is first moved aside, to a hidden name that follows from its own. If the writer is killed
between the two renames, `restore`, or the next writer, moves it back: at every moment the old or the new folder exists.

The hidden names carry a mark of this package, so nobody else's files are ever removed. A writer locks its temporary
file or folder; an unlocked one was left by a killed writer, and the next writer of the same name removes it.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where there are no locks, and leftovers of killed writers stay
    fcntl = None  # type: ignore[assignment]

INCOMPLETE, OLD = ".lift_ss_hf.incomplete", ".lift_ss_hf.old"  # endings of the hidden names
CANNOT_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)  # network file systems that cannot sync a folder


def require_folder(folder: str | Path) -> None:
    """Raise ValueError if a folder cannot be written because its path, or a parent's, is something else.

    Call it before work whose result goes there; the folder need not exist.

    Example:
        >>> require_folder("/dev/null/run")
        Traceback (most recent call last):
        ValueError: /dev/null exists and is not a directory. Give another directory to write to.
    """
    folder = Path(folder)
    found = next(filter(os.path.lexists, (folder, *folder.parents)), None)
    if found is not None and not found.is_dir():  # lexists: a link that leads nowhere counts, too
        raise ValueError(f"{found} exists and is not a directory. Give another directory to write to.")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Provide a temporary file beside `path`, which replaces it if the context ends without an error.

    Missing parent folders are created.
    """
    path = Path(path)
    with _temporary(path, is_folder=False) as temporary:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp's are private
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)


@contextmanager
def replacing_folder(folder: str | Path) -> Iterator[Path]:
    """Provide a new folder beside `folder`, which replaces it if the context ends without an error.

    Missing parent folders are created.

    Raises:
        ValueError: if the path, or a parent's, is not a folder.
    """
    folder = Path(folder)
    with _temporary(folder, is_folder=True) as temporary:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        _sync_tree(temporary)
        with _locked(folder.parent):
            _settle(folder)
            try:
                if os.path.lexists(folder):
                    folder.rename(_old(folder))
                temporary.rename(folder)
                _sync(folder.parent)
            finally:
                _settle(folder)


def restore(folder: str | Path) -> None:
    """Bring back a folder whose writer was killed while replacing it; call before reading a folder that may be one."""
    folder = Path(folder)
    if not folder.exists() and _old(folder).exists():
        with _locked(folder.parent):
            _settle(folder)


def is_leftover(path: Path) -> bool:
    """Return True if a path has a hidden name of this module: it is being written, or its writer was killed."""
    return path.name.startswith(".") and path.name.endswith((INCOMPLETE, OLD))


def remove_leftovers(folder: Path) -> None:
    """Remove or restore what killed writers left in a folder; call only if nobody else is writing to it."""
    for path in filter(is_leftover, list(folder.iterdir())):
        if path.name.endswith(OLD):
            _settle(path.with_name(path.name[1 : -len(OLD)]))
        else:
            _remove(path)


@contextmanager
def _temporary(path: Path, is_folder: bool) -> Iterator[Path]:
    """Create a locked temporary file or folder beside `path`, and remove it at the end unless it was renamed."""
    require_folder(path if is_folder else path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with _locked(path.parent):  # else another writer could find the temporary before it is locked
            _settle(path)
            for left in path.parent.glob(f".{glob.escape(path.name)}.????????{INCOMPLETE}"):
                if _is_abandoned(left):
                    _remove(left)
            make = tempfile.mkdtemp if is_folder else _make_file
            temporary = Path(make(dir=path.parent, prefix=f".{path.name}.", suffix=INCOMPLETE))
            stack.callback(_remove, temporary)
            stack.enter_context(_locked(temporary))
        yield temporary


def _make_file(dir: Path, prefix: str, suffix: str) -> str:
    handle, name = tempfile.mkstemp(dir=dir, prefix=prefix, suffix=suffix)
    os.close(handle)
    return name


def _old(folder: Path) -> Path:
    """Return the hidden name of a folder that is being replaced."""
    return folder.with_name(f".{folder.name}{OLD}")


def _settle(folder: Path) -> None:
    """Restore the old folder if the new one does not have its name yet; remove it otherwise."""
    old = _old(folder)
    if not os.path.lexists(old):
        return
    if not os.path.lexists(folder):
        old.rename(folder)
        _sync(folder.parent)
        return
    _remove_whole(old, folder)


def remove_whole(folder: Path) -> None:
    """Remove a folder; if that is killed, all of it is left, or a hidden rest that `remove_leftovers` removes."""
    _remove_whole(folder, folder)


def _remove_whole(path: Path, folder: Path) -> None:
    """Remove a folder, or its old content, under another hidden name: half of it must never be taken for all of it."""
    removed = folder.with_name(f".{folder.name}.replaced{INCOMPLETE}")
    _remove(removed)
    path.rename(removed)
    _remove(removed)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file or folder until the end of the context or of the process, if the system has locks."""
    if fcntl is None:  # Windows cannot open a folder either
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        _lock(handle, is_shared=False)
        yield
    finally:
        os.close(handle)


@contextmanager
def locked_file(path: str | Path, is_shared: bool = False) -> Iterator[None]:
    """Hold the lock of a file, which is created if it is missing; wait for other processes that hold it.

    Args:
        path: the file. Whoever removes it must hold its lock.
        is_shared: other processes may share the lock.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # NFS locks only what is open for writing
        try:
            _lock(handle, is_shared)
            if _is_file_of(handle, path):
                yield
                return
        finally:
            os.close(handle)


@contextmanager
def claimed_file(path: str | Path) -> Iterator[bool]:
    """Hold the lock of a file if nobody else does, and say so: yield False at once if another process holds it.

    The lock is let go at the end of the context, or with the process, however that ends. Without locks of files, as on
    Windows and some network file systems, everybody gets True.

    Args:
        path: the file, which is created if it is missing and stays.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield _try_lock(handle)
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    """Lock an open file without waiting; return False if another process holds its lock."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a network file system without locks
        return True
    return True


def _lock(handle: int, is_shared: bool) -> None:
    if fcntl is not None:
        with suppress(OSError):  # network file systems without locks
            fcntl.flock(handle, fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX)


def _is_file_of(handle: int, path: str | Path) -> bool:
    """Return True if an open file still has its name: it may have been removed while we waited for its lock."""
    try:
        return os.path.samestat(os.fstat(handle), Path(path).stat())
    except OSError:
        return False


def _is_abandoned(temporary: Path) -> bool:
    """Return True if a temporary file or folder is certainly no longer locked by its writer."""
    if fcntl is None:
        return False
    try:
        handle = os.open(temporary, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _sync_tree(folder: Path) -> None:
    """Wait until all files of a folder are on disk."""
    if _sync_file_system(folder):
        return
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync(Path(parent, name))
        _sync(Path(parent))


def _sync_file_system(folder: Path) -> bool:
    """Sync the folder's file system by Linux's syncfs, which os lacks; return False where that does not exist.

    It takes 0.02 s for a part of a prediction, however many files it has; fsync took 0.007 s for each file.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        if not hasattr(libc, "syncfs"):
            return False
        if libc.syncfs(handle) == 0:
            return True
        error = ctypes.get_errno()
        if error == errno.ENOSYS:
            return False
        raise OSError(error, os.strerror(error), str(folder))
    finally:
        os.close(handle)


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on disk."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in CANNOT_SYNC:
            raise
    finally:
        os.close(handle)


def _umask() -> int:
    with suppress(OSError, StopIteration):  # the other way changes it for a moment, for all threads
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
    umask = os.umask(0)
    os.umask(umask)
    return umask

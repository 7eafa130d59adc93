"""Run a command line of this project: errors in one line, exit statuses, logging, standard streams."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TextIO

from ..corpora.file_kinds import printable

CLOSED_BY_READER = 141  # what a shell reports for SIGPIPE
INVALID, INTERRUPTED = 2, 130
LESS_MEMORY = (
    "Lower --max_tokens, in training --max_tokens_per_batch, where the command has it; or set CUDA_VISIBLE_DEVICES= to "
    "run on the CPU."
)


def run(main: Callable[[], int | None]) -> None:
    """Run a command line and exit with its status.

    Errors that the user can fix (ValueError, OSError and their subclasses, and a GPU's memory that is full) are printed
    in one line on standard error with status 2; output that could not be written is one of them. An interruption gives
    status 130, an output closed by its reader 141. A SystemExit passes through: a training run stopped by a scheduler
    exits with 75. Any other exception is a bug of ours and keeps its traceback. Log messages of the package are shown
    by the first of several processes only.

    Args:
        main: the command line; returns the exit status, None for success.
    """
    _replace_closed_streams()
    logging.basicConfig(format="%(message)s", handlers=[message_handler()])
    is_first = os.environ.get("RANK", "0") == "0"
    logging.getLogger("lift_ss_hf").setLevel(logging.INFO if is_first else logging.ERROR)
    try:
        check_launch(os.environ)
        status = main() or 0
    except BrokenPipeError:
        status = CLOSED_BY_READER
    except (ValueError, OSError) as error:
        status = _report(f"error: {printable(str(error))}", INVALID)
    except _out_of_memory() as error:
        wanted = str(error).partition(". GPU ")[0].rstrip(".")  # the rest is about all of its memory
        status = _report(f"error: {printable(wanted)}. {LESS_MEMORY}", INVALID)
    except KeyboardInterrupt:
        status = _report("interrupted", INTERRUPTED)
    except SystemExit as left:
        if left.code:
            raise
        status = 0  # of --help, whose text is not written yet
    output_failure = _flush(sys.stdout)
    if isinstance(output_failure, BrokenPipeError):
        status = status or CLOSED_BY_READER
    elif output_failure and not status:
        status = _report(f"error: cannot write to standard output: {output_failure}", INVALID)
    _flush(sys.stderr)
    sys.exit(status)


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the garbage collector while modules are imported: they create many objects and no garbage."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class MessageHandler(logging.StreamHandler):
    """Write messages to standard error, on lines of their own even where tqdm shows a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message; a bar is taken off the screen before, and shown again after."""
        tqdm = sys.modules.get("tqdm")  # imported by whoever shows a bar; importing it here would delay every command
        with tqdm.tqdm.external_write_mode(self.stream) if tqdm else contextlib.nullcontext():
            super().emit(record)


def message_handler() -> logging.Handler:
    """Return a handler that shows messages on standard error, except those that their library shows itself.

    huggingface_hub writes its own messages and passes them on, so each of its retries would be shown twice.
    """
    handler = MessageHandler()
    handler.addFilter(lambda record: not _is_shown(logging.getLogger(record.name)))
    return handler


def _is_shown(logger: logging.Logger) -> bool:
    """Return True if a logger, or one above it that is not the root, writes messages itself."""
    above: logging.Logger | None = logger
    while above is not None and above.parent is not None:
        if above.handlers and not all(isinstance(handler, logging.NullHandler) for handler in above.handlers):
            return True
        above = above.parent
    return False


def _out_of_memory() -> tuple[type[Exception], ...]:
    """Return the error of a GPU whose memory is full; importing torch for it would delay every command."""
    torch = sys.modules.get("torch")
    return () if torch is None else (torch.OutOfMemoryError,)


def _report(line: str, status: int) -> int:
    """Print a line on standard error, if that can be written to, and return the status."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr)
    return status


# ---- standard streams ------------------------------------------------------------------------------------------------


class ClosedOutput(io.TextIOBase):
    """Standard output where there is none. A long job is not stopped by a message, but the loss is told at its end.

    Attributes:
        is_lost: something was written.
    """

    is_lost = False

    def write(self, text: str) -> int:
        """Drop the text."""
        self.is_lost = self.is_lost or bool(text)
        return len(text)


def _replace_closed_streams() -> None:
    """Replace standard streams that are closed (`>&-`), which Python sets to None.

    Their numbers are taken, too: the next file that is opened would get them, and with it what libraries print.
    """
    if sys.stdin is None:
        sys.stdin = os.fdopen(_open_devnull(os.O_RDONLY))
    if sys.stdout is None:
        _open_devnull(os.O_WRONLY)
        sys.stdout = ClosedOutput()
    if sys.stderr is None:
        sys.stderr = os.fdopen(_open_devnull(os.O_WRONLY), "w")


def _open_devnull(flags: int) -> int:
    """Open the null device under the lowest free number, for child processes too."""
    number = os.open(os.devnull, flags)
    os.set_inheritable(number, True)
    return number


def _flush(stream: TextIO) -> OSError | None:
    """Write what a stream has buffered; return the error if that fails, which Python would exit with 120 for."""
    try:
        if isinstance(stream, ClosedOutput) and stream.is_lost:
            raise OSError("it is closed. Redirect it to a file or to /dev/null.")
        stream.flush()
    except OSError as error:
        if not isinstance(stream, ClosedOutput):  # let the rest go nowhere, or it fails once more at the exit
            with Path(os.devnull).open("w") as devnull:
                os.dup2(devnull.fileno(), stream.fileno())
        return error
    return None


def check_launch(environment: Mapping[str, str]) -> None:
    """Raise ValueError if accelerate silently started one process on a CPU although several were requested.

    Args:
        environment: variables of this process.

    Example:
        >>> check_launch({"ACCELERATE_USE_CPU": "true", "MASTER_PORT": "29500", "WORLD_SIZE": "2"})
    """
    if environment.get("ACCELERATE_USE_CPU", "").lower() != "true":
        return
    # accelerate 1.15 sets a port if several processes are requested, and their number only if it starts them.
    if "MASTER_PORT" in environment and "WORLD_SIZE" not in environment and "PMI_SIZE" not in environment:
        raise ValueError(
            "several processes were requested, but accelerate started one. On a CPU use "
            "--config_file accelerate_configs/cpu_ddp.yaml, or torchrun; for one process use --num_processes 1."
        )

"""Serve the page until it is stopped."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..prediction.loading import load_predictor
from ..prediction.predictor import Predictor
from . import check_gradio
from .chains import Limits
from .view import STYLE

logger = logging.getLogger(__name__)


# What gradio reads from the environment: no telemetry, no history of predictions, and its files in our folder.
GRADIO_SETTINGS = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}
GRADIO_FOLDERS = ("GRADIO_TEMP_DIR", "GRADIO_EXAMPLES_CACHE")


@contextlib.contextmanager
def open_page(
    models: Mapping[str, Predictor],
    limits: Limits,
    host: str = "127.0.0.1",
    port: int = 0,
    about: str = "",
) -> Iterator[str]:
    """Serve the page in a thread while the context lasts; all its files are in a temporary folder, and go with it.

    Args:
        models: by the name that visitors see; the first is chosen.
        limits: of one prediction.
        host: address to listen at; 0.0.0.0 for all of this machine.
        port: to listen at; 0 for any that is free.
        about: Markdown below the title.

    Returns:
        The address of the page.

    Raises:
        ValueError: if gradio is not installed.
        OSError: if nothing can be served at the address and port.
    """
    check_gradio()
    # gradio may still delete the files of a visitor who just left while the folder goes
    temporary = tempfile.TemporaryDirectory(prefix="lift_ss_page_", ignore_cleanup_errors=True)
    with temporary as folder, _gradio_settings(folder):
        import gradio
        from starlette.middleware import Middleware

        from .app import build_page
        from .guard import Guard

        page = build_page(models, limits, Path(folder), about)
        try:
            page.launch(
                server_name=host,
                server_port=port or _free_port(),
                # JSON may write a character as \uXXXX, 6 bytes; the rest of a request is small
                app_kwargs={"middleware": [Middleware(Guard, max_bytes=8 * limits.characters)]},
                theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
                css=STYLE,
                footer_links=[],
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                ssr_mode=False,
                _frontend=False,  # no visit of its own, which must succeed in 3 s: a busy machine needs longer
                enable_monitoring=False,
            )
        except OSError as error:
            raise OSError(
                f"cannot listen at {host}, port {port}: the port is in use or not allowed, or the host is not an "
                "address of this machine. Choose another --port, or correct --host."
            ) from error
        try:
            yield str(page.local_url)
        finally:
            page.close(verbose=False)
            page.server.thread.join()


@contextlib.contextmanager
def _gradio_settings(folder: str) -> Iterator[None]:
    """Set the variables that gradio reads, and restore them."""
    settings = GRADIO_SETTINGS | dict.fromkeys(GRADIO_FOLDERS, folder)
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def load_models(names: Sequence[str], backbone: str | None = None) -> dict[str, Predictor]:
    """Load the models that visitors may choose from.

    Args:
        names: Hub ids, folders of saved models, or `bundled`.
        backbone: Hub id or folder of their backbone; by default the one that each names.

    Returns:
        The models by the name that visitors see, which does not say where a folder is.

    Raises:
        ValueError: if a model cannot be loaded, or two have the same name.
    """
    shown = [shown_name(name) for name in names]
    if twice := {name for name in shown if shown.count(name) > 1}:
        raise ValueError(f"--model: two models are called {min(twice)!r}. Rename a folder, or give one of them.")
    return {label: load_predictor(name, backbone) for label, name in zip(shown, names, strict=True)}


def shown_name(name: str) -> str:
    """Return the name of a model for visitors: of a folder, its last two parts.

    Example:
        >>> shown_name("ORG/NAME"), shown_name("bundled")
        ('ORG/NAME', 'bundled')
    """
    return "/".join(Path(name).resolve().parts[-2:]) if Path(name).is_dir() else name


def serve(models: Mapping[str, Predictor], limits: Limits, host: str, port: int, about: str = "") -> None:
    """Serve the page until SIGINT or SIGTERM.

    Arguments and errors are those of `open_page`.
    """
    stopped = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    try:
        with open_page(models, limits, host, port, about) as address:
            logger.info("The page is at %s; Ctrl+C stops it.", address)
            stopped.wait()
    finally:
        signal.signal(signal.SIGTERM, before)

"""The page that `lift-ss serve` shows in a browser, and the Space made of it.

May import `prediction` and the rooms below it. Only `app` and `guard` need gradio (`pip install 'lift_ss_hf[page]'`).
Nothing is imported here, so that `lift-ss --help` is fast.
"""

import importlib.util
from pathlib import Path

SPACE = Path(__file__).parent / "space"  # what a Space has besides the package


def check_gradio() -> None:
    """Raise ValueError unless gradio is installed; it is not imported, which takes seconds."""
    if importlib.util.find_spec("gradio") is None:
        raise ValueError("the page needs gradio. Install it: pip install 'lift_ss_hf[page]'.")

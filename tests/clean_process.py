"""Another user's process, in an empty folder, with the test Hub instead of the real one.

A reader is started anew (`in_clean_process`): empty caches, the package only where it is asked for. What pushes runs
in a fork of the test's process (`in_forked_process`), which has everything imported already.
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import datasets
import huggingface_hub
from forked_runs import Finished, run_forked

ROOT = Path(__file__).parents[1]
TOKEN = "hf_testtokentesttoken"


def hub_environment(hub, folder, token):
    environment = {"HF_HOME": str(folder / "hf"), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1"}
    return environment | ({"HF_TOKEN": token} if token else {})


def in_clean_process(hub, folder, *command, package=True, token=TOKEN):
    """Run a new Python; the package is not on its path unless `package`."""
    folder.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "PYTHONPATH"))}
    environment |= hub_environment(hub, folder, token)
    if package:
        environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, cwd=folder, env=environment
    )


def in_forked_process(hub, folder, script, *arguments, token=TOKEN) -> Finished:
    """Run a script in a fork of this process."""
    folder.mkdir()

    def patch(rank):
        os.environ.pop("HF_HUB_OFFLINE", None)
        # what was read from the environment when it was imported
        importlib.reload(huggingface_hub.constants)
        huggingface_hub.hf_api.api.endpoint = datasets.config.HF_ENDPOINT = hub.url
        os.chdir(folder)

    environment = hub_environment(hub, folder, token)
    log = folder.with_name(f"{folder.name}.log")
    return run_forked(list(map(str, arguments)), log, script=Path(script), environment=environment, patch=patch)

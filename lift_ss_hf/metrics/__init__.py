"""The metrics as modules of the evaluate library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Q8_SOV = Path(__file__).parent / "q8_sov"


def load_q8_sov(states: str = "q9", **options: Any) -> Any:
    """Load the secondary structure metric, without the network.

    Args:
        states: the level it scores at unless `compute(states=...)` says otherwise.
        options: passed to `evaluate.load`: `num_process`, `process_id`, `experiment_id`, `keep_in_memory`, ...

    Returns:
        an `evaluate.Metric`.

    Raises:
        ValueError: for an unknown level.

    Example:
        >>> metric = load_q8_sov("q3")
        >>> metric.compute(references=["HHHHHH"], predictions=["HHHLHH"])["sov99"]
        0.5833333333333334
    """
    import evaluate  # here, so that what only scores needs numpy alone

    return evaluate.load(str(Q8_SOV), states, **options)


def push_metric(repo: str) -> str:
    """Push the metric as a Space, in one commit; links are followed, so that it stands alone.

    Args:
        repo: `ORG/NAME`; made where absent.

    Returns:
        the commit's address.

    Raises:
        ValueError: for what is no name of a repository.
        OSError: what the Hub's client raises: no token, no right, no connection.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    api = HfApi()
    try:
        api.create_repo(repo, repo_type="space", space_sdk="gradio", exist_ok=True)
        return str(
            api.upload_folder(
                repo_id=repo,
                repo_type="space",
                folder_path=Q8_SOV,
                ignore_patterns="__pycache__/*",
                commit_message="Push the metric",
            )
        )
    except HFValidationError as error:
        raise ValueError(f"{repo!r} is no name of a repository: {error} Expected ORG/NAME.") from error

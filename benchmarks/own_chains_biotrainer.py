"""Train biotrainer 2.1.1 on own chains: its CNN over embeddings, or LoRA in the backbone below that CNN.

A program of own_chains.py, which starts it with the Python of an environment that has biotrainer. What differs from
biotrainer's defaults, and why:

- The backbone goes by its name on the Hub, which a link in the working directory leads to. Under another name
  biotrainer 2.1.1 pads embeddings to the longest chain of a batch, and then refuses them.
- No dropout, as in its own benchmark of secondary structure (default: 0.25), and batches of 32 chains, as in the
  example of its documentation (default: 128): twelve steps in an epoch would be few. The CNN trains for up to 200
  epochs, and stops after 10 without improvement, as by default.
- LoRA trains for three epochs, as peft's, in batches of 8. Its pipeline is replaced, since that of 2.1.1 hashes chains
  that it has not read yet. The chains are sorted by length, and not shuffled: it sorts the chains of a batch, but not
  their states.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from biotrainer.shared import get_logger
from biotrainer.training import BiotrainerModel
from biotrainer.training.trainers import steps
from biotrainer.training.trainers.default_pipeline import DefaultPipeline
from biotrainer_core.data_classes import SequenceData
from junban import Pipeline
from measuring import finish, read_chains

HUB_NAME = "facebook/esm2_t6_8M_UR50D"
SETTINGS = {
    "cnn": {"num_epochs": 200, "patience": 10, "batch_size": 32, "dropout_rate": 0.0},
    "lora": {
        "num_epochs": 3,
        "batch_size": 8,
        "dropout_rate": 0.0,
        "shuffle": False,
        "finetuning_config": {"method": "lora"},
    },
}
# biotrainer wants a test set: a chain that costs nothing
A_TEST_CHAIN = SequenceData(seq_id="test", seq="MKVLAAGIVGLLLAQPS", label="CCHHHHHHHHHEEEECC", set="test")


def main(method: str, chains: str, backbone: str, seed: str) -> None:
    """Train, write `usage.json`, and write the states of the test chains to `states.json`.

    Args:
        method: cnn or lora.
        chains: folder with train.txt, validation.txt and tests.json.
        backbone: folder of ESM-2 8M.
        seed: biotrainer's seed.
    """
    link = Path(HUB_NAME)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(Path(backbone).resolve())
    config = {
        "protocol": "residue_to_class",
        "output_dir": "biotrainer",
        "model_choice": "CNN",
        "embedder_name": HUB_NAME,
        "external_writer": "none",
        "bootstrapping_iterations": 0,
        "sanity_check": False,
        "device": "cpu",
        "seed": int(seed),
    }
    DefaultPipeline._default_finetuning_pipeline = staticmethod(_lora_pipeline)
    model = BiotrainerModel()
    data = [*_records(chains, "train", method), *_records(chains, "val", method), A_TEST_CHAIN]
    model.train(config | SETTINGS[method], input_data=data)
    libraries = f"biotrainer {version('biotrainer')}, torch {version('torch')}, transformers {version('transformers')}"
    libraries += f" on Python {platform.python_version()}"
    finish(chains, lambda sequences: _states(model, sequences), libraries=libraries)


def _records(chains: str, part: str, method: str) -> list[Any]:
    read = read_chains(Path(chains, {"train": "train.txt", "val": "validation.txt"}[part]))
    if method == "lora":
        read.sort(key=lambda chain: -len(chain[1]))
    return [SequenceData(seq_id=name, seq=sequence, label=states, set=part) for name, sequence, states in read]


def _lora_pipeline() -> Any:
    """Return biotrainer's pipeline for LoRA, with the first two steps in the order of its other pipeline."""
    return Pipeline(
        name="LoRA",
        logger=get_logger("biotrainer"),
        steps=[
            steps.InputValidationStep(),
            steps.SetupStep(),
            steps.FineTuningEmbeddingStep(),
            steps.DataLoadingStep(),
            steps.DatasetCreationStep(),
            steps.TrainingStep(),
            steps.TestingStep(),
            steps.PostProcessStep(),
        ],
    )


def _states(model: Any, sequences: list[str]) -> list[str]:
    # once each: biotrainer files embeddings by sequence, and waits for ever if two are the same
    distinct = dict.fromkeys(sequences)
    records = [SequenceData(seq_id=str(number), seq=sequence) for number, sequence in enumerate(distinct)]
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):  # it prints every probability
        predictions = model.predict(records).predictions
    by_hash = {prediction.seq_id: prediction.prediction for prediction in predictions}
    states = {record.seq: by_hash[record.get_hash()] for record in records}
    return [states[sequence] for sequence in sequences]


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Predict on a cluster of Ray, or on one machine: a model in each actor, and Ray's checkpoint to resume from.

    lift_ss_hf.prediction.ray.predict_with_ray(Inputs(["proteins.fasta"]), "out")

`ResiduePredictor` is for pipelines of your own. Ray is imported where it is used: `pip install 'lift_ss_hf[ray]'`.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ..models.states import fold_index, get_alphabet
from .formats import ParquetTable
from .inputs import Inputs
from .loading import GPU_MAX_TOKENS, load_predictor
from .ray_folder import ID_COLUMN, RayFolder
from .result import Prediction
from .run_folder import Counts
from .running import PART_RESIDUES, check_alphabets

logger = logging.getLogger(__name__)

# Reading and writing take one; when a run is resumed, Ray's checkpoint filter takes another. Ray would wait for them
# without end if the actors had all.
SPARE_CPUS = 2


@dataclass(frozen=True)
class RayOptions:
    """How to predict an input with Ray.

    Attributes:
        num_actors: models that predict at the same time; None takes as many as the cluster has room for.
        num_cpus: cores of each actor.
        num_gpus: GPUs of each actor; a fraction if several share one. With 0 actors predict on a CPU.
        chains_per_task: chains in a task of an actor, and in a file of results. A task that is interrupted is lost.
        resume: resume the run that is in the directory.
        skip_bad: list invalid records in rejected.tsv instead of stopping at the first.
        quiet: show no progress.

    Raises:
        ValueError: if a number is too small.
    """

    num_actors: int | None = None
    num_cpus: int = 1
    num_gpus: float = 0
    chains_per_task: int = 256
    resume: bool = False
    skip_bad: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        for name, least in (("num_actors", 1), ("num_cpus", 1), ("num_gpus", 0), ("chains_per_task", 1)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"--{name} is {value}. Expected {least} or more.")


class ResiduePredictor:
    """Predict the chains of Arrow tables, for `map_batches` of Ray Data with a pool of actors.

        chains = ray.data.read_parquet("chains")  # with a column `sequence`
        predicted = chains.map_batches(
            ResiduePredictor,
            fn_constructor_kwargs={"model": "bundled"},
            compute=ray.data.ActorPoolStrategy(size=4),
            batch_size=256,
            batch_format="pyarrow",
        )

    Args:
        model: Hub id or folder of a saved model, or `bundled`.
        backbone: Hub id or folder of the backbone; by default the one named in the model's configuration.
        precision: `fp32`, `bf16` or `int8`; by default fp32 on a CPU and bf16 on a GPU.
        max_tokens: per packed row; by default 2048 on a CPU and 16384 on a GPU.
        states: name of the alphabet to report; None reports the model's.
        device: `cpu` or `cuda`; by default the GPU if there is one.

    Raises:
        ValueError: if the model cannot be loaded, or its states do not reduce to the alphabet.

    Example:
        >>> predict = ResiduePredictor(states="q3")
        >>> (table,) = predict(pa.table({"id": [7], "sequence": ["MKTAYIAKQRQISFVK"]}))
        >>> table.column_names
        ['id', 'sequence', 'states', 'confidence', 'p_C', 'p_E', 'p_H']
        >>> table["states"].to_pylist()
        ['CCHHHHHHHHCCCCCC']
    """

    def __init__(
        self,
        model: str = "bundled",
        backbone: str | None = None,
        precision: str | None = None,
        max_tokens: int | None = None,
        states: str | None = None,
        device: str | None = None,
    ):
        where = None if device is None else torch.device(device)
        self.predictor = load_predictor(model, backbone, precision, max_tokens, where)
        self.alphabet = states or self.predictor.alphabet
        fold_index(self.predictor.alphabet, self.alphabet)

    def __call__(self, chains: pa.Table) -> Iterator[pa.Table]:
        """Predict the chains of a table.

        Args:
            chains: with a column `sequence`; the other columns are passed on.

        Returns:
            The rows, a few at a time, with more columns: `states`, a letter for each residue, and lists of a number for
            each residue, `confidence` and `p_X` for each state X of the alphabet.

        Raises:
            ResidueError: if a sequence has a character that is not a residue.
        """
        lengths = [len(sequence) for sequence in chains["sequence"].to_pylist()]
        start, num_residues = 0, 0
        for stop, length in enumerate(lengths):
            if stop > start and num_residues + length > PART_RESIDUES:
                yield self._predict(chains.slice(start, stop - start))
                start, num_residues = stop, 0
            num_residues += length
        if lengths:
            yield self._predict(chains.slice(start))

    def _predict(self, chains: pa.Table) -> pa.Table:
        sequences = chains["sequence"].to_pylist()
        found = dict(self.predictor.predict(sequences))
        predictions = [
            Prediction(
                number=index,
                name="",
                sequence=sequence,
                model_alphabet=self.predictor.alphabet,
                model_probabilities=found[index],
                alphabet=self.alphabet,
                temperature=self.predictor.temperature,
            )
            for index, sequence in enumerate(sequences)
        ]
        columns = {"states": pa.array([prediction.states for prediction in predictions], pa.string())}
        columns["confidence"] = _lists([prediction.confidence for prediction in predictions])
        for number, letter in enumerate(get_alphabet(self.alphabet).letters):
            columns[f"p_{letter}"] = _lists([prediction.probabilities[:, number] for prediction in predictions])
        for name, column in columns.items():
            chains = chains.append_column(name, column)
        return chains


def _lists(arrays: list[np.ndarray]) -> pa.Array:
    """Return a column of lists of numbers."""
    offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(arrays), pa.float32()))


def check_ray() -> None:
    """Raise ValueError unless Ray is installed; it is not imported, which takes seconds."""
    if importlib.util.find_spec("ray") is None:
        raise ValueError("predicting with Ray needs Ray Data. Install it: pip install 'lift_ss_hf[ray]'.")


def predict_with_ray(
    inputs: Inputs,
    out: str | Path,
    options: RayOptions | None = None,
    *,
    model: str = "bundled",
    backbone: str | None = None,
    precision: str | None = None,
    max_tokens: int | None = None,
    states: str | None = None,
) -> Counts:
    """Predict an input with Ray to a directory; a run killed at any moment can be resumed, and has every row once.

    Ray runs on this machine, or where the variable RAY_ADDRESS says. The input is first written to OUT as Parquet, so
    OUT must be on storage that all machines share, and each must have this package and the model.

    Args:
        inputs: the chains.
        out: the directory; `ray_folder` describes its content.
        options: see `RayOptions`.
        model: as for `ResiduePredictor`, as are the rest.
        backbone: of the model.
        precision: of the model.
        max_tokens: per packed row.
        states: name of the alphabet to report.

    Returns:
        What was predicted, and what was changed.

    Raises:
        ValueError: if Ray is missing, or the model, the input, the directory or an option is invalid.
        OSError: if there is no cluster at RAY_ADDRESS, or Ray stops.
    """
    options = options or RayOptions()
    check_ray()
    if "://" in str(out):
        raise ValueError(
            f"{out}: expected a folder, not a URL. Mount the storage on all machines, and give its folder."
        )
    precision = precision or ("bf16" if options.num_gpus else "fp32")
    if max_tokens is None and options.num_gpus:
        max_tokens = GPU_MAX_TOKENS
    # what is wrong with the model is found here, before Ray starts
    model, backbone = _on_all_machines(model), backbone and _on_all_machines(backbone)
    predictor = load_predictor(model, backbone, precision, max_tokens, torch.device("cpu"))
    states = states or predictor.alphabet
    check_alphabets(predictor, [ParquetTable(states)])
    arguments = {"model": model, "backbone": backbone, "precision": precision, "max_tokens": predictor.max_tokens}
    arguments |= {"states": states, "device": "cuda" if options.num_gpus else "cpu"}
    folder = RayFolder(out, predictor, states, inputs)
    with folder.claimed():
        folder.open(options.resume)
        if folder.is_joined:
            logger.info("the run in %s is finished: there was nothing left to do", out)
        else:
            folder.prepare(predictor, options.skip_bad, options.quiet)
            del predictor  # its memory is for the actors
            with connected(options) as num_actors:
                predict_chains(folder, arguments, options, num_actors)
        folder.join(num_parts=0)
    logger.info("wrote %s to %s", ", ".join(folder.results()), folder.folder)
    return folder.counts()


def _on_all_machines(name: str) -> str:
    """Return the name of a model as actors on other machines find it: the absolute path of a folder."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


@contextmanager
def connected(options: RayOptions) -> Iterator[int]:
    """Connect to the cluster at RAY_ADDRESS, or start Ray on this machine and stop it at the end.

    Args:
        options: of the run.

    Returns:
        The number of actors.

    Raises:
        ValueError: if the cluster has no room for the actors.
        OSError: if there is no cluster at RAY_ADDRESS.
    """
    import ray

    if ray.is_initialized():  # by the program that calls this
        yield choose_num_actors(options, ray.cluster_resources())
        return
    level = logging.ERROR if options.quiet else logging.WARNING
    os.environ.setdefault("RAY_DATA_NON_TTY_PROGRESS_LOG_INTERVAL", "60")  # [s]; Ray's default is 10
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=level)
    else:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report what is run to its authors
        num_actors = options.num_actors or max(1, len(os.sched_getaffinity(0)) // options.num_cpus)
        num_cpus = num_actors * options.num_cpus + SPARE_CPUS  # reading and writing need little of theirs
        ray.init("local", num_cpus=num_cpus, include_dashboard=False, logging_level=level)
    try:
        yield choose_num_actors(options, ray.cluster_resources())
    finally:
        ray.shutdown()


def choose_num_actors(options: RayOptions, resources: Mapping[str, float]) -> int:
    """Return the number of actors: as many as are asked for, or as many as a cluster has room for.

    Args:
        options: of the run.
        resources: of the cluster, as `ray.cluster_resources()` returns them.

    Raises:
        ValueError: if there is no room for them; Ray would wait for it without end.

    Example:
        >>> choose_num_actors(RayOptions(num_cpus=2), {"CPU": 64.0})
        31
        >>> choose_num_actors(RayOptions(num_actors=3, num_gpus=1), {"CPU": 16.0, "GPU": 2.0})
        Traceback (most recent call last):
        ...
        ValueError: --num_actors is 3, but there is room for 2: the cluster has 16 CPUs, of which 2 read and write, and
        2 GPUs. Give fewer, or smaller --num_cpus or --num_gpus.
    """
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    room = int((cpus - SPARE_CPUS) // options.num_cpus)
    if options.num_gpus:
        room = min(room, int(gpus / options.num_gpus + 1e-6))  # 1.0 // 0.2 is 4.0
    wanted = options.num_actors or max(1, room)
    if wanted > room:
        raise ValueError(
            f"--num_actors is {wanted}, but there is room for {max(0, room)}: the cluster has {cpus:g} CPUs, of which "
            f"{SPARE_CPUS} read and write, and {gpus:g} GPUs. Give fewer, or smaller --num_cpus or --num_gpus."
        )
    return wanted


def predict_chains(folder: RayFolder, arguments: dict[str, Any], options: RayOptions, num_actors: int) -> None:
    """Predict the chains of a directory that have not been predicted yet.

    Args:
        folder: with the chains.
        arguments: of `ResiduePredictor`.
        options: of the run.
        num_actors: that share the chains.

    Raises:
        OSError: if Ray stops: a model cannot be loaded on a machine, or all of them are lost.
    """
    import ray
    from ray.data.checkpoint import CheckpointConfig

    from .ray_sink import ResidueSink

    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars, context.enable_operator_progress_bars = not options.quiet, False
    context.checkpoint_config = CheckpointConfig(
        id_column=ID_COLUMN, checkpoint_path=str(folder.checkpoint), delete_checkpoint_on_success=False
    )
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it logs its plan, and that its bars are as we set them
    if not options.quiet:
        # progress where there is no terminal
        logging.getLogger("ray.data._internal.progress.logging_progress").setLevel(logging.INFO)
    with ray.data.DataContext.current(context):
        chains = ray.data.read_parquet([str(path) for path in sorted(folder.chains.glob("*.parquet"))])
        predicted = chains.repartition(target_num_rows_per_block=options.chains_per_task).map_batches(
            ResiduePredictor,
            fn_constructor_kwargs=arguments,
            compute=ray.data.ActorPoolStrategy(size=num_actors),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=options.num_cpus,
            num_gpus=options.num_gpus or None,
        )
        try:
            predicted.write_datasink(ResidueSink(str(folder.predictions), arguments["states"]))
        except ray.exceptions.RayError as error:
            reason = str(error).strip().rpartition("\n")[2].strip()  # below the traceback
            raise OSError(f"Ray stopped: {reason} What is done is kept; start again with --resume.") from error

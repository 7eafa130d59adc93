"""Embed a whole input: hidden states of a tuned model, or of a backbone by itself, to a directory part by part.

    embedder = Embedder(load_for_hidden_states("run/model"), layer="last", pooling="mean")
    embed_to_folder(embedder, Inputs(["proteins.fasta"]), "out", RunOptions(formats=["h5"]))

The chains run in packed rows, as for predictions. A chain too long for the model runs in overlapping windows; each of
its residues gets its hidden state from the window in which it is farthest from an edge, as in prediction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ..models.configuration import check_choice
from ..models.safety import check_finite
from .embedding_formats import BY_ID, MEAN, NO_POOLING, POOLINGS, Embedding, Layout, check_names, make_formats
from .inputs import Inputs
from .predictor import Predictor
from .process_rank import ProcessRank
from .records import Part, Query
from .run_folder import Counts, RunFolder
from .running import Computed, Progress, RunOptions, count, in_order, run_settings, run_to_folder

LAST, MIX = "last", "mix"
PART_RESIDUES = 1 << 14  # in memory at once: 64 MB of values for a backbone of width 1,024


def check_layer(layer: str) -> None:
    """Raise ValueError unless a layer is `last`, `mix` or a whole number.

    Example:
        >>> check_layer("top")
        Traceback (most recent call last):
        ValueError: unknown layer 'top'. Give last, mix or a number of blocks, 0 for the embeddings.
    """
    if layer not in (LAST, MIX) and not (layer.isascii() and layer.isdigit()):
        raise ValueError(f"unknown layer {layer!r}. Give last, mix or a number of blocks, 0 for the embeddings.")


class Embedder:
    """What to take of a model's hidden states.

    Args:
        predictor: the model.
        layer: `last`, the backbone's output; a number of blocks, whose output is taken, 0 for the embeddings (as in
            `hidden_states` of transformers, where the last one is normalised); or `mix`, the model's own mix of all.
        pooling: `none`, a vector for each residue; or `mean`, their mean over the chain. Special tokens have no part.
        half: store float16 instead of float32.

    Attributes:
        num_blocks: blocks that are run; None if the mix of all is taken.
        dtype: of the values.
        size: of a vector.

    Raises:
        ValueError: if the layer or the pooling is unknown, or the model has no such layer.

    Example:
        >>> from lift_ss_hf.prediction.loading import load_predictor
        >>> embedder = Embedder(load_predictor("bundled"), layer="last")
        >>> embedder.size
        256
    """

    def __init__(self, predictor: Predictor, layer: str = LAST, pooling: str = NO_POOLING, half: bool = False):
        check_layer(layer)
        check_choice("pooling", pooling, POOLINGS)
        config = predictor.model.config
        if layer == MIX and predictor.model.block_mix is None:
            raise ValueError(
                f"the model has no mix of its blocks; only models with block_mix have one. Give --layer {LAST}, or a "
                f"number from 0 to {config.num_blocks}."
            )
        if layer not in (LAST, MIX) and int(layer) > config.num_blocks:
            raise ValueError(
                f"layer {layer}, but the backbone has {config.num_blocks} blocks. Give {LAST}, or a number from 0 to "
                f"{config.num_blocks}."
            )
        self.predictor, self.layer, self.pooling = predictor, layer, pooling
        self.dtype = "float16" if half else "float32"
        self.size: int = config.head_input_size if layer == MIX else config.hidden_size
        self.num_blocks = None if layer == MIX else config.num_blocks if layer == LAST else int(layer)

    def embed(self, queries: Sequence[Query]) -> Iterator[tuple[int, np.ndarray]]:
        """Embed queries; results come in the order of computation.

        Returns:
            The index of a query and its values, (residues, size), or (size,) if pooled.

        Raises:
            ValueError: if a value is not a finite number, or float16 cannot hold it.
        """
        computed = self.predictor.hidden_states([query.sequence for query in queries], self.num_blocks)
        for index, hidden in computed:
            values = check_finite(hidden.cpu().numpy(), "hidden states")
            if self.pooling == MEAN:
                values = values.mean(axis=0, dtype=np.float64).astype(np.float32)
            yield index, self._stored(values, queries[index])

    def _stored(self, values: np.ndarray, query: Query) -> np.ndarray:
        """Return the values as they are stored."""
        if self.dtype == "float32":
            return values
        largest, limit = np.abs(values).max(), np.finfo(self.dtype).max
        if largest > limit:
            raise ValueError(
                f"record {query.number} ({query.name}): values of layer {self.layer} go up to {largest:,.0f}, but "
                f"half precision up to {limit:,.0f}. Leave out --half."
            )
        return values.astype(self.dtype)


def embed_part(embedder: Embedder, part: Part, bar: Progress | None = None) -> tuple[list[Embedding], Counts]:
    """Embed the chains of a part, and return the embeddings in the order of the input."""
    values = in_order(embedder.embed(part.queries), part, bar)
    embeddings = [
        Embedding(query.number, query.name, str(query.sequence), found)
        for query, found in zip(part.queries, values, strict=True)
    ]
    return embeddings, count(embedder.predictor, part)


def embed_to_folder(
    embedder: Embedder,
    inputs: Inputs,
    out: str | Path,
    options: RunOptions,
    names: str = BY_ID,
    process: ProcessRank | None = None,
) -> Counts | None:
    """Embed an input to a directory; a run killed at any moment can be resumed.

    Args:
        embedder: the model, and what to take of it.
        inputs: the chains.
        out: the directory; `run_folder` describes its content.
        options: see `RunOptions`; formats are those of `embedding_formats.EMBEDDING_FORMATS`.
        names: how arrays are named: `id`, by the chain's name, or `hash`, by the hash of its sequence, as biotrainer
            does.
        process: which of several processes this is; read from the environment by default.

    Returns:
        The counts of all processes; None while other processes have parts to do.

    Raises:
        ValueError: if the input, the directory or an option is invalid; parts already written are kept.
    """
    check_names(names, options.formats)
    layout = Layout(embedder.pooling, embedder.dtype, embedder.size, names)
    settings = {
        "layer": embedder.layer,
        **asdict(layout),
        **run_settings(embedder.predictor, options),
    }
    folder = RunFolder(out, settings, make_formats(settings["formats"], layout))

    def compute(part: Part, bar: Progress) -> Computed:
        return embed_part(embedder, part, bar)

    return run_to_folder(compute, inputs, folder, options, process, PART_RESIDUES)

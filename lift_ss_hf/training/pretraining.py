"""Masked-language-model pretraining of a small encoder of ESM-2's architecture on your own sequences.

Uses the stock `Trainer`, and `EsmForMaskedLM` with its weights saved under their own names. Batches are never padded:
chains of similar length are cropped to the shortest of the batch. This is faster, and it avoids a bug: with both
`<mask>` tokens and padding, the outputs of ESM in transformers 4.57 depend on the padding, because the embeddings'
scale ignores the attention mask.
"""

from __future__ import annotations

import copy
import itertools
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import PartialState
from torch.utils.data import Dataset, IterableDataset
from transformers import EsmConfig, EsmTokenizer, Trainer
from transformers.models.esm.tokenization_esm import VOCAB_FILES_NAMES

from ..batches.collator import budget_batches
from ..corpora.fasta import read_fasta
from ..models.atomic import require_folder
from ..models.backbones import quietly, whole_weights
from ..models.sequences import STANDARD_RESIDUES
from ..models.states import IGNORE_INDEX
from .callbacks import RemoveOldCheckpoints, ReturnFreeMemory, StopOnSigterm
from .checkpoint_files import read_trainer_state
from .checkpoints import remove_previous_run, reporting_full_disk, starting_checkpoint
from .launch import LaunchedArguments

logger = logging.getLogger(__name__)

# ESM-2's vocabulary, in its order, so that our backbones are drop-in replacements.
VOCABULARY = [
    *("<cls>", "<pad>", "<eos>", "<unk>"),
    *"LAGVSERTIDPKQNFYMHWCXBUZO.-",
    *("<null_1>", "<mask>"),
]
CLS, EOS, UNK, MASK = (VOCABULARY.index(token) for token in ("<cls>", "<eos>", "<unk>", "<mask>"))
AMINO_ACIDS = np.array([VOCABULARY.index(residue) for residue in STANDARD_RESIDUES])
RESIDUE_TOKENS = np.full(256, UNK, dtype=np.uint8)
# transformers 5 saves the norms of an ESM under TensorFlow's names, gamma and beta. `from_pretrained` renames them, but
# the Trainer resumes with `load_state_dict`, which would leave the norms as they were before training. 4.57 ignores the
# option. Drop it when 5 saves the names of the model.
OWN_NAMES: dict[str, Any] = {"save_original_format": False}
for _token, _letter in enumerate(VOCABULARY):
    if len(_letter) == 1:
        RESIDUE_TOKENS[ord(_letter)] = _token


@dataclass
class EncoderArguments:
    """The shape of the encoder."""

    _argument_group_name = "encoder"
    hidden_size: int = field(default=192, metadata={"help": "width of the blocks"})
    num_hidden_layers: int = field(default=6, metadata={"help": "number of blocks"})
    num_attention_heads: int = field(default=6, metadata={"help": "number of attention heads per block"})
    intermediate_size: int = field(default=768, metadata={"help": "width of the feed-forward layer"})


@dataclass
class SequenceArguments:
    """The sequences to pretrain on."""

    _argument_group_name = "sequences"
    train_file: str = field(default="", metadata={"help": "FASTA file to train on (plain, gz or xz)"})
    validation_file: str = field(
        default="", metadata={"help": "FASTA file of held-out clusters, to measure the perplexity"}
    )
    max_residues: int = field(default=256, metadata={"help": "crop longer chains to a random part [residues]"})
    tokens_per_batch: int = field(default=8192, metadata={"help": "size of a batch in each process [tokens]"})
    backbone_dir: str = field(
        default="", metadata={"help": "also save the encoder without its head, in half precision, to this folder"}
    )
    mask_fraction: float = field(default=0.15, metadata={"help": "part of the residues to predict [fraction]"})


class Sequences(Dataset):
    """Sequences of a FASTA file as tokens, concatenated in one array of one byte per residue.

    Args:
        path: FASTA file, plain, gz or xz.
        min_residues: shorter sequences are left out (default: 30) [residues].

    Raises:
        ValueError: if no sequence is left.
    """

    def __init__(self, path: str | Path, min_residues: int = 30):
        chunks = [
            RESIDUE_TOKENS[np.frombuffer(sequence.encode("latin-1", "replace"), dtype=np.uint8)]
            for _, sequence in read_fasta(path)
            if len(sequence) >= min_residues
        ]
        if not chunks:
            raise ValueError(f"{path}: found no sequence of at least {min_residues} residues.")
        self.lengths = np.array([len(chunk) for chunk in chunks])
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])
        self.tokens = np.concatenate(chunks)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.tokens[self.starts[index] : self.starts[index] + self.lengths[index]]


class UnpaddedBatches(IterableDataset):
    """Masked batches without padding: chains of similar length, cropped to the shortest of their batch.

    Args:
        sequences: the sequences.
        max_residues: crop chains to at most this length [residues].
        tokens_per_batch: size of a batch [tokens].
        mask_fraction: part of the residues to predict: 80 % of them become <mask>, 10 % another residue, and 10 % stay
            unchanged [fraction].
        seed: seed of order, crops and masks.
        endless: for training, repeat with new order, crops and masks; otherwise iterate once, for validation.
        rank: which of the processes this one is; they take the batches in turn.
        num_processes: number of processes that share the batches.
    """

    def __init__(
        self,
        sequences: Sequences,
        max_residues: int,
        tokens_per_batch: int,
        mask_fraction: float,
        seed: int,
        endless: bool,
        rank: int = 0,
        num_processes: int = 1,
    ):
        self.sequences, self.max_residues, self.tokens_per_batch = sequences, max_residues, tokens_per_batch
        self.mask_fraction, self.seed, self.endless = mask_fraction, seed, endless
        self.rank, self.num_processes = rank, num_processes

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return itertools.islice(self._passes(), self.rank, None, self.num_processes)

    def _passes(self) -> Iterator[dict[str, torch.Tensor]]:
        epoch = 0
        while True:
            rng = np.random.default_rng((self.seed, epoch))
            for indices in self._batches(rng):
                yield self._masked(indices, rng)
            epoch += 1
            if not self.endless:
                return

    def _batches(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Return the indices of each batch of chains of similar length; the order of the batches is random."""
        lengths = np.minimum(self.sequences.lengths, self.max_residues)
        # The jitter gives chains other partners in the next pass.
        order = np.argsort(lengths * rng.uniform(0.97, 1.03, len(lengths)))
        batches = budget_batches(lengths + 2, self.tokens_per_batch, order=order)  # + 2: <cls>, <eos>
        return [batches[i] for i in rng.permutation(len(batches))]

    def _masked(self, indices: np.ndarray, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        length = min(self.max_residues, int(self.sequences.lengths[indices].min()))
        tokens = np.empty((len(indices), length), dtype=np.int64)
        for row, index in enumerate(indices):
            sequence = self.sequences[index]
            start = rng.integers(len(sequence) - length + 1)
            tokens[row] = sequence[start : start + length]
        chosen = (rng.random(tokens.shape) < self.mask_fraction) & np.isin(tokens, AMINO_ACIDS)
        chosen[:, 0] |= ~chosen.any(1) & np.isin(tokens[:, 0], AMINO_ACIDS)  # a batch without a target has no loss
        labels = np.where(chosen, tokens, IGNORE_INDEX)
        fate = rng.random(tokens.shape)
        tokens = np.where(chosen & (fate < 0.8), MASK, tokens)
        tokens = np.where(chosen & (fate >= 0.9), rng.choice(AMINO_ACIDS, tokens.shape), tokens)
        cls, eos = np.full((len(indices), 1), CLS), np.full((len(indices), 1), EOS)
        blank = np.full((len(indices), 1), IGNORE_INDEX)
        return {
            "input_ids": torch.from_numpy(np.concatenate([cls, tokens, eos], 1)),
            "labels": torch.from_numpy(np.concatenate([blank, labels, blank], 1)),
        }


class EsmForMaskedLM(transformers.EsmForMaskedLM):
    """The stock model, saved under the names that its weights have: see `OWN_NAMES`.

    It has the stock model's name, since `config.json` names the class.
    """

    def save_pretrained(self, save_directory: Any, **options: Any) -> None:  # type: ignore[override]
        """Save the model as transformers does."""
        with quietly():
            super().save_pretrained(save_directory, **{**OWN_NAMES, **options})


def build_encoder(shape: EncoderArguments, max_residues: int) -> EsmForMaskedLM:
    """Build an encoder of ESM-2's architecture with a language model head, randomly initialised.

    Args:
        shape: width, depth and heads.
        max_residues: length of the training crops; recorded in the configuration, not a limit [residues].
    """
    config = EsmConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        intermediate_size=shape.intermediate_size,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=max_residues + 4,  # not a limit: positions are rotary
        position_embedding_type="rotary",
        emb_layer_norm_before=False,
        token_dropout=True,
        mask_token_id=MASK,
        pad_token_id=VOCABULARY.index("<pad>"),
    )
    return EsmForMaskedLM(config)


def save_backbone(saved: str | Path, folder: str | Path) -> None:
    """Save the encoder of a saved model without its language model head, in half precision, with its tokenizer.

    The contact head, which masked-language-model training does not change, is set to zeros.
    """
    with whole_weights(), quietly():
        encoder = transformers.EsmForMaskedLM.from_pretrained(saved).esm.half()
    for parameter in encoder.contact_head.parameters():
        torch.nn.init.zeros_(parameter)
    with quietly():
        encoder.save_pretrained(folder, **OWN_NAMES)
    save_tokenizer(folder)


def save_tokenizer(folder: str | Path) -> None:
    """Save the tokenizer's files, so that the folder loads like any ESM-2."""
    vocabulary = Path(folder) / VOCAB_FILES_NAMES["vocab_file"]
    vocabulary.write_text("\n".join(VOCABULARY), "utf-8")
    EsmTokenizer(str(vocabulary)).save_pretrained(folder)


def baseline_perplexities(train: Sequences, validation: Sequences) -> dict[str, float]:
    """Return the perplexity per residue of the validation sequences under `unigram` and `bigram` training counts."""
    size = len(VOCABULARY)
    unigram = np.bincount(train.tokens, minlength=size) + 1.0
    pairs = train.tokens[:-1].astype(np.int64) * size + train.tokens[1:]
    inner = np.ones(len(train.tokens) - 1, dtype=bool)
    inner[train.starts[1:] - 1] = False  # no pairs across chains
    bigram = np.bincount(pairs[inner], minlength=size * size).reshape(size, size) + 1.0
    unigram_cost, bigram_cost, count = 0.0, 0.0, 0
    log_unigram = -np.log(unigram / unigram.sum())
    log_bigram = -np.log(bigram / bigram.sum(1, keepdims=True))
    for index in range(len(validation)):
        tokens = validation[index]
        unigram_cost += log_unigram[tokens].sum()
        bigram_cost += log_unigram[tokens[0]] + log_bigram[tokens[:-1], tokens[1:]].sum()
        count += len(tokens)
    return {"unigram": math.exp(unigram_cost / count), "bigram": math.exp(bigram_cost / count)}


class PretrainingTrainer(Trainer):
    """The stock Trainer over ready-made batches, which accelerate must not distribute: it would join them."""

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """Return a loader over the dataset's batches."""
        return self._loader(self.train_dataset)

    def get_eval_dataloader(self, eval_dataset=None) -> torch.utils.data.DataLoader:
        """Return a loader over the batches of the evaluation dataset."""
        return self._loader(eval_dataset or self.eval_dataset)

    def _loader(self, batches: Any) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(batches, batch_size=None)


def pretrain(shape: EncoderArguments, sequences: SequenceArguments, training: LaunchedArguments) -> dict[str, float]:
    """Pretrain an encoder and save it, with its tokenizer, in `training.output_dir`.

    Args:
        shape: the encoder's shape.
        sequences: the files to train and validate on, and how to batch and mask them.
        training: arguments of the Trainer.

    Returns:
        Perplexities of the held-out sequences: `model`, and the baselines `unigram` and `bigram`.

    Raises:
        ValueError: if a sequence file is missing or empty, or the output directory holds another run.
    """
    for name in ("train_file", "validation_file"):
        if not getattr(sequences, name):
            raise ValueError(f"no {name} given. Give a FASTA file: --{name} sequences.fasta.gz")
    checkpoint = starting_checkpoint(training)
    if sequences.backbone_dir:
        require_folder(sequences.backbone_dir)
    train, validation = Sequences(sequences.train_file), Sequences(sequences.validation_file)
    batching = (sequences.max_residues, sequences.tokens_per_batch, sequences.mask_fraction, training.seed)
    unlimited = copy.copy(training)  # not dataclasses.replace, which would set up devices and plugins again
    unlimited.save_total_limit = None
    trainer = PretrainingTrainer(
        model=build_encoder(shape, sequences.max_residues),
        args=unlimited,
        callbacks=[RemoveOldCheckpoints(training.save_total_limit), ReturnFreeMemory()],
        train_dataset=UnpaddedBatches(train, *batching, True, training.process_index, training.world_size),
        # each process takes all of them: the losses of batches of different sizes cannot be gathered
        eval_dataset=UnpaddedBatches(validation, *batching, endless=False),
    )
    logger.info("%d sequences, %d residues", len(train), len(train.tokens))
    PartialState().wait_for_everyone()  # until all have looked for a checkpoint
    if checkpoint is None and PartialState().is_main_process:
        remove_previous_run(str(training.output_dir))
    PartialState().wait_for_everyone()
    with StopOnSigterm(resumable=checkpoint is not None) as stop:
        trainer.add_callback(stop)
        with reporting_full_disk(str(training.output_dir)):
            if checkpoint is not None and 0 < training.max_steps <= read_trainer_state(Path(checkpoint)).global_step:
                trainer._load_from_checkpoint(checkpoint)  # trained to the end; the Trainer would take one more step
            else:
                trainer.train(resume_from_checkpoint=checkpoint)
        loss = trainer.evaluate()["eval_loss"]
        trainer.save_model()
        if trainer.is_world_process_zero():
            save_tokenizer(str(training.output_dir))
            if sequences.backbone_dir:
                save_backbone(str(training.output_dir), sequences.backbone_dir)
    return {"model": math.exp(loss), **baseline_perplexities(train, validation)}

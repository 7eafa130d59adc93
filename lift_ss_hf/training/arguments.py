"""Arguments of a training recipe: what to train, on what data, and how; dataclasses for `--help` and YAML."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers.trainer_utils import IntervalStrategy

from ..batches.cached_chains import PrefixCacheSettings
from ..models.adapter_methods import ADAPTERS
from ..models.backbones import BUNDLED
from ..models.configuration import LIFT_SS_CHANNELS, LIFT_SS_EMBEDDING, LIFT_SS_SCALE, check_at_least, check_choice
from ..models.pretrained import as_dtype
from ..reports.tables import SCORE_TABLES, STANDARD_COLUMNS
from .launch import LaunchedArguments

BATCHINGS = ("length", "random")
LOSS_WEIGHTINGS = ("residue", "micro_batch")
PREFIX_CACHE_OFF, PREFIX_CACHE_IN_RUN = "off", "run"
CACHE_FOLDER = "prefix_cache"  # of a cache in the directory of the run
CACHE_SHARE = 0.5  # of --minutes, which the filling of the prefix cache may take; training goes without it otherwise
HELD_OUT = "split"  # stands for chains that are held out of the training chains
DEFAULT_STATES = "q9"


def unless_none(value: str | None) -> str | None:
    """Return a value, or None for `none`, with which a flag overrides a recipe that sets something.

    Example:
        >>> unless_none("lora"), unless_none("none"), unless_none(None)
        ('lora', None, None)
    """
    return None if str(value).lower() in ("none", "") else value


WIDEST_MIX = 4096  # measured with 7 outputs of 320; to cache all blocks of a large backbone takes a lot of disk


def default_block_mix(hidden_size: int, num_blocks: int) -> str | None:
    """Return the mix that `block_mix: auto` stands for: concat for small backbones, None for others.

    Args:
        hidden_size: of the backbone.
        num_blocks: of the backbone; the embeddings are one more output.

    Example:
        >>> default_block_mix(320, 6), default_block_mix(1280, 33)
        ('concat', None)
    """
    return "concat" if (num_blocks + 1) * hidden_size <= WIDEST_MIX else None


def default_head_channels(hidden_size: int) -> int:
    """Return the default width of a convolutional head: the backbone's, at most LIFT_SS's 1024.

    Args:
        hidden_size: width of the backbone.

    Example:
        >>> default_head_channels(320), default_head_channels(1280)
        (320, 1024)
    """
    return min(hidden_size, LIFT_SS_CHANNELS)


@dataclass
class ModelArguments:
    """The model: backbone, adapter, head, loss."""

    _argument_group_name = "model"
    backbone: str = field(default=BUNDLED, metadata={"help": "Hub id or folder of the backbone, or 'bundled'"})
    backbone_revision: str | None = field(
        default=None, metadata={"help": "commit, tag or branch of the backbone on the Hub"}
    )
    convert_backbone: bool = field(
        default=False,
        metadata={
            "help": "convert a backbone that the Hub has as a pickle only to safetensors, once; see lift-ss "
            "convert-backbone --help"
        },
    )
    backbone_dtype: str = field(
        default="float32", metadata={"help": "dtype of the frozen backbone: float32, bfloat16 or float16"}
    )
    adapter: str | None = field(
        default="bottleneck",
        metadata={
            "help": f"adapter method: {', '.join(sorted(ADAPTERS))}; none for feature extraction or full fine-tuning"
        },
    )
    adapter_options: str | None = field(
        default=None,
        metadata={
            "help": 'hyper-parameters of the adapter method, as JSON: {"reduction_factor": 16}, {"prefix_length": 48}'
        },
    )
    top_blocks: int | None = field(
        default=None,
        metadata={"help": "add adapters to this many of the upper blocks; unset: the upper third, as in LIFT_SS"},
    )
    leave_out: list[int] = field(
        default_factory=list,
        metadata={"help": "alternative to top_blocks: numbers of the blocks without an adapter; 0 is the lowest"},
    )
    prefix_shift: bool = field(
        default=False,
        metadata={
            "help": "T5: count prefix keys as tokens before the chain, as LIFT_SS's library does. Off, because a "
            "residue's distance to another one has not changed"
        },
    )
    backbone_dropout: str = field(
        default="frozen_eval",
        metadata={
            "help": "frozen_eval: no dropout below the lowest trained block, so that its input is constant and can be "
            "cached; reference: in all blocks, as LIFT_SS"
        },
    )
    freeze: str | None = field(
        default="all",
        metadata={"help": "all: freeze the backbone; none: full fine-tuning; a number: freeze that many lower blocks"},
    )
    block_mix: str | None = field(
        default=None,
        metadata={
            "help": "give the head the outputs of all blocks: mean (with learned weights), concat (side by side, for "
            f"small backbones), auto (concat if at most {WIDEST_MIX} wide), or none: the last block's output only"
        },
    )
    head: str = field(
        default="lift_ss",
        metadata={"help": "lift_ss (inception), dilated (a wider receptive field, for small backbones) or linear"},
    )
    head_channels: int | None = field(
        default=None,
        metadata={"help": "channels of a convolutional head; unset: the backbone's width, at most LIFT_SS's 1024"},
    )
    head_depth: int = field(
        default=2, metadata={"help": "inceptions, or rounds of dilations, of a convolutional head; LIFT_SS: 2"}
    )
    head_dropout: float = field(default=0.2, metadata={"help": "dropout in a convolutional head [fraction]"})
    embedding_size: int = field(
        default=LIFT_SS_EMBEDDING, metadata={"help": "dimensions of the head's output and of the centroids"}
    )
    centroid_init: str = field(
        default="normal",
        metadata={
            "help": "how centroids start: normal (standard normal numbers), or reference (then scaled, over the states "
            "of each dimension, to length one, as LIFT_SS); the two end equally accurate"
        },
    )
    loss: str = field(default="centroid", metadata={"help": "centroid (normalised softmax), cross_entropy or ldam"})
    loss_scale: float = field(
        default=LIFT_SS_SCALE, metadata={"help": "factor of the cosines in the centroid and ldam losses; LIFT_SS's tau"}
    )
    balance: str | None = field(
        default=None,
        metadata={"help": "weight states in the loss by their frequency: inverse or inverse_sqrt; none: all equally"},
    )
    states: str | None = field(
        default=None,
        metadata={"help": "states to train on: q9, q8, q3 or q3_lift_ss; unset: all that the training chains have"},
    )
    max_residues: int | None = field(
        default=None,
        metadata={"help": "split longer chains into overlapping windows; unset: the backbone's limit [residues]"},
    )

    def __post_init__(self):
        as_dtype(self.backbone_dtype)


@dataclass
class CorpusArguments:
    """The corpora: names from the catalogue, or paths of your own files."""

    _argument_group_name = "corpora"
    train: list[str] = field(
        default_factory=lambda: ["sample"], metadata={"help": "training corpora (their train split), or paths"}
    )
    validation: list[str] = field(
        default_factory=list,
        metadata={
            "help": "validation corpora (their validation split), or paths; split: held out of the training chains by "
            "identity; none: no validation. Unset: the training corpora's own, or split where they have none"
        },
    )
    tests: list[str] = field(
        default_factory=list,
        metadata={
            "help": "corpora to evaluate on (their test split), or paths; split, none and unset as for validation"
        },
    )
    validation_fraction: float = field(
        default=0.1, metadata={"help": "how much to hold out for validation [fraction of the chains]"}
    )
    test_fraction: float = field(
        default=0.1, metadata={"help": "how much to hold out as a test [fraction of the chains]"}
    )
    fold: str | None = field(
        default=None,
        metadata={
            "help": "cross-validation: 2/5 holds out the second of five folds of the training chains as a test, by "
            "identity, instead of test_fraction; recipes/sweep.py runs all folds"
        },
    )
    split_seed: int = field(default=0, metadata={"help": "seed of what is held out, apart from that of the training"})
    source: str | None = field(
        default=None, metadata={"help": "folder with the corpora's source files; unset: LIFT_SS_DATA_DIR"}
    )
    train_fraction: float = field(default=1.0, metadata={"help": "use this part of the training chains [fraction]"})
    max_train_residues: int | None = field(
        default=None, metadata={"help": "drop longer training chains; their number is logged [residues]"}
    )
    bootstrap: int = field(
        default=1000, metadata={"help": "number of bootstrap resamples of the chains for 95 percent intervals; 0: none"}
    )
    columns: str = field(
        default=STANDARD_COLUMNS,
        metadata={
            "choices": sorted(SCORE_TABLES),
            "help": "layout of each test's scores in results.md; lift_ss: the reference implementation's columns, in "
            "its order",
        },
    )
    keep_states: bool = field(
        default=False,
        metadata={"help": "write the predicted states of the test chains to predicted/TEST.txt in the run's directory"},
    )
    test_figures: bool = field(default=True, metadata={"help": "draw the figures of each test"})


# Why our defaults differ from those of transformers.TrainingArguments; --help shows the values.
CHANGED_DEFAULTS = {
    "output_dir": "runs/train_q8; transformers: trainer_output. All run directories are below runs/.",
    "learning_rate": "1e-3; transformers: 5e-5, meant for full fine-tuning. LIFT_SS trains adapters at 1e-3.",
    "lr_scheduler_type": "constant, as LIFT_SS; transformers: linear, which must know when training ends.",
    "weight_decay": "1e-3, as LIFT_SS, except on biases and norms; transformers: 0.",
    "num_train_epochs": "10, minutes for the demo; transformers: 3. The recipes use LIFT_SS's 100 as an upper bound.",
    "max_grad_norm": "0, no clipping, as LIFT_SS; transformers: 1.",
    "seed": "0, as LIFT_SS; transformers: 42.",
    "eval_strategy": "epoch; transformers: no. The epoch with the best validation accuracy is kept.",
    "save_strategy": "epoch; transformers: steps. Keeping the best epoch requires the same as eval_strategy.",
    "save_total_limit": "2; transformers: all. The best and the last checkpoint are what resuming requires.",
    "load_best_model_at_end": "true, as LIFT_SS keeps the best epoch; transformers: false.",
    "report_to": "tensorboard; transformers 4.57: all that is installed, services with a login too; 5: none.",
    "logging_steps": "20; transformers: 500, more steps than a small run has.",
    "remove_unused_columns": "false. Batches are built from chains, not from columns named after model arguments.",
    "per_device_train_batch_size": "1 batch of max_tokens_per_batch tokens; transformers: 8 chains of any length.",
    "bf16": "unset, which leaves the precision to the launcher; transformers: false.",
    "fp16": "as bf16.",
    "use_cpu": "true if there is no accelerator; transformers: false, which then refuses bf16.",
    "dataloader_pin_memory": "false. It does nothing on a CPU, and gains little for batches this small.",
}


@dataclass
class RecipeTrainingArguments(LaunchedArguments):
    """`transformers.TrainingArguments` with LIFT_SS's defaults; `CHANGED_DEFAULTS` gives the reason for each."""

    _argument_group_name = "training (transformers.TrainingArguments)"
    output_dir: str | None = field(default="runs/train_q8", metadata={"help": "directory of the run"})
    max_tokens_per_batch: int = field(
        default=2048,
        metadata={"help": "size of a batch of chains of similar length, padding included [tokens]"},
    )
    batching: str = field(
        default="length",
        metadata={
            "help": "length: batches of chains of similar length, with hardly any padding; random: "
            "per_device_train_batch_size chains of any length, as LIFT_SS"
        },
    )
    loss_weighting: str = field(
        default="residue",
        metadata={
            "help": "residue: all residues of a step weigh the same, whatever batches it is made of; micro_batch: the "
            "means of its batches do, as LIFT_SS, so that residues in short batches weigh more"
        },
    )
    mask_fraction: float = field(
        default=0.0,
        metadata={
            "help": "mask this part of the training residues, different ones every epoch, to reduce overfitting "
            "[fraction]"
        },
    )
    # Off unless requested: it writes gigabytes, and rounds the hidden states to 16 bits.
    prefix_cache: str = field(
        default=PREFIX_CACHE_OFF,
        metadata={
            "help": "folder in which to cache the output of the frozen lower blocks for later epochs and runs; run: in "
            "the run's directory, until it is finished; or off. Takes 2 bytes x hidden size per token, with block_mix "
            "as much for each frozen block and the embeddings"
        },
    )
    prefix_cache_gb: float = field(
        default=50.0,
        metadata={"help": "maximum size of the prefix_cache folder; train without the cache if it does not fit [GB]"},
    )
    prefix_cache_blocks: int | None = field(
        default=None,
        metadata={
            "help": "cache the output of at most this many of the lowest blocks, so that models that train different "
            "numbers of blocks can share it; set by sweeps. Unset: all frozen blocks"
        },
    )
    prefix_cache_tests: bool = field(
        default=False,
        metadata={
            "help": "cache the output of the frozen blocks for the test chains, too, and for scoring the validation "
            "chains: worth it for many runs that are scored on the same chains. Scores are then those of hidden states "
            "rounded to 16 bits"
        },
    )
    minutes: float | None = field(
        default=None,
        metadata={
            "help": "train for at most this long, evaluations and the filling of the prefix cache included; a cache "
            "that would take more than half of it is not used. A decaying schedule ends there. Scoring the tests comes "
            "after it [min]"
        },
    )
    early_stopping_patience: int = field(
        default=5,
        metadata={"help": "stop after this many evaluations without a better validation accuracy; 0: never stop early"},
    )
    learning_rate: float = field(default=1e-3, metadata={"help": "learning rate of AdamW"})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "learning rate schedule"})
    weight_decay: float = field(default=1e-3, metadata={"help": "weight decay, except on biases and norms"})
    num_train_epochs: float = field(default=10.0, metadata={"help": "maximum number of epochs"})
    max_grad_norm: float = field(default=0.0, metadata={"help": "clip gradients to this norm; 0: no clipping"})
    seed: int = field(default=0, metadata={"help": "seed of weights, batches, masks and dropout"})
    eval_strategy: str = field(default="epoch", metadata={"help": "when to evaluate: no, steps or epoch"})
    save_strategy: str = field(default="epoch", metadata={"help": "when to save checkpoints: no, steps or epoch"})
    save_total_limit: int | None = field(default=2, metadata={"help": "number of checkpoints to keep"})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "keep the best epoch"})
    report_to: str = field(default="tensorboard", metadata={"help": "tensorboard, trackio, ... or none"})
    logging_steps: float = field(default=20, metadata={"help": "log every this many steps"})
    remove_unused_columns: bool = field(default=False, metadata={"help": "leave it false"})
    per_device_train_batch_size: int = field(
        default=1, metadata={"help": "leave it 1; with --batching random, the number of chains in a batch"}
    )
    dataloader_pin_memory: bool = field(default=False, metadata={"help": "pin batches in memory"})

    def __post_init__(self):
        self.prefix_cache = unless_none(self.prefix_cache) or PREFIX_CACHE_OFF
        check_choice("batching", self.batching, BATCHINGS)
        check_choice("loss_weighting", self.loss_weighting, LOSS_WEIGHTINGS)
        if self.prefix_cache_blocks is not None and self.prefix_cache_blocks < 1:
            raise ValueError(
                f"prefix_cache_blocks is {self.prefix_cache_blocks}. Expected at least 1; leave it out to cache the "
                "output of all frozen blocks, or switch the cache off: --prefix_cache off."
            )
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"minutes is {self.minutes}. Expected more than 0.")
        if not 0 <= self.mask_fraction < 1:
            raise ValueError(
                f"mask_fraction is {self.mask_fraction}. Expected a fraction of at least 0 and less than 1."
            )
        for name, lowest in (("max_tokens_per_batch", 1), ("early_stopping_patience", 0)):
            check_at_least(name, getattr(self, name), lowest)
        if self.mask_fraction and self.prefix_cache != PREFIX_CACHE_OFF:
            raise ValueError(
                "mask_fraction changes the chains every epoch, so their hidden states cannot be cached. Switch one of "
                "them off: --mask_fraction 0, or --prefix_cache off."
            )
        if self.dataloader_persistent_workers:
            raise ValueError(
                "dataloader_persistent_workers would repeat the first epoch's batches in every epoch. Leave it false."
            )
        if self.label_smoothing_factor:
            raise ValueError(
                f"label_smoothing_factor is {self.label_smoothing_factor}: the Trainer would train with its own "
                "cross entropy instead of --loss and --balance. Leave it 0."
            )
        if self.restore_callback_states_from_checkpoint:
            raise ValueError(
                "restore_callback_states_from_checkpoint would build the callbacks anew; those of a recipe restore "
                "themselves. Leave it false."
            )
        chosen = self.metric_for_best_model
        if chosen is None and self.greater_is_better is None:
            self.greater_is_better = True  # of an accuracy
        super().__post_init__()
        # transformers replaces None by the loss; ours is the accuracy of the model's states: see `for_trainer`.
        self.metric_for_best_model = chosen

    @property
    def stops_early(self) -> bool:
        """True if training stops early; impossible unless the best model is kept, as nothing is compared then."""
        return bool(self.early_stopping_patience and self.load_best_model_at_end)

    def without_validation(self) -> RecipeTrainingArguments:
        """Return a copy for a run without validation chains: nothing is evaluated, and the last step is kept."""
        training = copy.copy(self)
        training.eval_strategy, training.load_best_model_at_end = IntervalStrategy.NO, False
        return training

    def for_trainer(self, states: str) -> RecipeTrainingArguments:
        """Return a copy for the stock Trainer.

        The best model is by default the one with the best accuracy. Pushing is off: the Trainer would push an
        incomplete run at every save, and keep the token in its checkpoints. Old checkpoints are removed by
        `callbacks.RemoveOldCheckpoints`.

        Args:
            states: name of the alphabet that the model predicts.
        """
        training = copy.copy(self)  # not dataclasses.replace, which would set up devices and plugins again
        training.metric_for_best_model = self.metric_for_best_model or f"eval_{states}"
        training.push_to_hub, training.hub_token, training.save_total_limit = False, None, None
        return training

    @property
    def scoring_cache(self) -> PrefixCacheSettings | None:
        """Settings of the prefix cache for scoring, without autocast as all scoring; None computes every block."""
        settings = self.prefix_cache_settings if self.prefix_cache_tests else None
        return None if settings is None else dataclasses.replace(settings, autocast_dtype=None, max_seconds=None)

    @property
    def prefix_cache_settings(self) -> PrefixCacheSettings | None:
        """Settings of the prefix cache; None if it is off."""
        if self.prefix_cache == PREFIX_CACHE_OFF:
            return None
        in_run = self.prefix_cache == PREFIX_CACHE_IN_RUN
        return PrefixCacheSettings(
            folder=Path(str(self.output_dir), CACHE_FOLDER) if in_run else self.prefix_cache,
            limit_gb=self.prefix_cache_gb,
            num_blocks=self.prefix_cache_blocks,
            device=self.device,
            autocast_dtype=torch.bfloat16 if self.bf16 else torch.float16 if self.fp16 else None,
            max_tokens=self.max_tokens_per_batch,
            quiet=bool(self.disable_tqdm),
            max_seconds=None if self.minutes is None else CACHE_SHARE * 60 * self.minutes,
        )

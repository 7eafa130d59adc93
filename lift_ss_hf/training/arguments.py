"""The arguments of a training recipe: what to train, on what, and how, as dataclasses for `--help` and YAML."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from ..batches.cached_chains import PrefixCacheSettings
from ..models.backbones import BUNDLED

PREFIX_CACHE_OFF = "off"


@dataclass
class ModelArguments:
    """The model: backbone, adapter, head, loss."""

    _argument_group_name = "model"
    backbone: str = field(default=BUNDLED, metadata={"help": "Hub id or folder of the backbone, or 'bundled'"})
    backbone_revision: str | None = field(default=None, metadata={"help": "commit or tag of the backbone on the Hub"})
    backbone_dtype: str = field(
        default="float32", metadata={"help": "dtype of the frozen backbone: float32, bfloat16, float16"}
    )
    adapter: str | None = field(
        default="bottleneck", metadata={"help": "adapter method; 'none' for feature extraction or full fine-tuning"}
    )
    adapter_options: str | None = field(
        default=None,
        metadata={"help": 'JSON of hyper-parameters that differ from the method\'s: {"reduction_factor": 16}'},
    )
    top_blocks: int | None = field(
        default=None,
        metadata={"help": "adapters in the top k blocks only (default: the top third, as LIFT_SS) [blocks]"},
    )
    leave_out: list[int] = field(
        default_factory=list, metadata={"help": "or: numbers of the blocks without an adapter, 0 the lowest"}
    )
    freeze: str | None = field(
        default="all", metadata={"help": "all: backbone frozen; none: full fine-tuning; n: the lowest n blocks frozen"}
    )
    block_mix: str | None = field(
        default=None,
        metadata={
            "help": "show the head all blocks' outputs: mean (a learned one) or concat (side by side, for small "
            "backbones); or none: the last block's"
        },
    )
    head: str = field(
        default="lift_ss",
        metadata={"help": "lift_ss (inception), dilated (a wider view, for small backbones) or linear"},
    )
    head_channels: int | None = field(
        default=None,
        metadata={"help": "channels of a convolutional head (default: the backbone's width, at most LIFT_SS's 1024)"},
    )
    head_dropout: float = field(default=0.2, metadata={"help": "values of a convolutional head dropped [fraction]"})
    loss: str = field(default="centroid", metadata={"help": "centroid (normalised softmax), cross_entropy or ldam"})
    balance: str | None = field(
        default=None,
        metadata={"help": "let rare states count more in the loss: inverse or inverse_sqrt frequency; or none"},
    )
    states: str = field(default="q9", metadata={"help": "states to train on: q9, q8, q3 or q3_lift_ss"})
    max_residues: int | None = field(
        default=None, metadata={"help": "longer chains are windowed (default: the backbone's limit) [residues]"}
    )


@dataclass
class CorpusArguments:
    """The corpora: names of the catalogue, or paths of one's own."""

    _argument_group_name = "corpora"
    train: list[str] = field(
        default_factory=lambda: ["sample"], metadata={"help": "training corpora (their train split), or paths"}
    )
    validation: list[str] = field(
        default_factory=lambda: ["sample"],
        metadata={"help": "validation corpora (their validation split), or paths; or none"},
    )
    validation_fraction: float = field(
        default=0.0, metadata={"help": "with --validation none: training chains to hold out instead [fraction]"}
    )
    tests: list[str] = field(
        default_factory=lambda: ["sample"], metadata={"help": "corpora to evaluate on (their test split), or paths"}
    )
    source: str | None = field(default=None, metadata={"help": "folder that holds the sources (else LIFT_SS_DATA_DIR)"})
    train_fraction: float = field(default=1.0, metadata={"help": "use this part of the training chains [fraction]"})
    max_train_residues: int | None = field(
        default=None, metadata={"help": "leave out longer training chains, counted in the log [residues]"}
    )
    bootstrap: int = field(default=1000, metadata={"help": "resamples of the chains for the intervals of 95 percent"})


# Why our defaults differ from those of transformers.TrainingArguments; --help shows the values.
CHANGED_DEFAULTS = {
    "output_dir": "runs/train_q8; transformers: trainer_output. Every run directory of ours lies below runs/.",
    "learning_rate": "1e-3; transformers: 5e-5, meant for full fine-tuning. LIFT_SS trains adapters at 1e-3.",
    "lr_scheduler_type": "constant; transformers: linear, which needs to know when to stop. LIFT_SS: constant.",
    "weight_decay": "1e-3; transformers: 0. LIFT_SS: 1e-3, not on biases and norms.",
    "num_train_epochs": "10; transformers: 3. Minutes for the demo; the recipes have LIFT_SS's 100, an upper bound.",
    "max_grad_norm": "0, no clipping; transformers: 1. LIFT_SS does not clip.",
    "seed": "0; transformers: 42. LIFT_SS: 0.",
    "eval_strategy": "epoch; transformers: no. The best epoch is kept by validation accuracy.",
    "save_strategy": "epoch; transformers: steps. As eval_strategy, which keeping the best needs.",
    "save_total_limit": "2; transformers: all. The best and the last: what a resumed run needs.",
    "load_best_model_at_end": "true; transformers: false. LIFT_SS keeps the best epoch.",
    "report_to": "tensorboard; transformers: all that is installed, which may be a service that asks for a login.",
    "logging_steps": "20; transformers: 500, more than a small run has.",
    "remove_unused_columns": "false. Batches are made of chains, not of a model's arguments.",
    "per_device_train_batch_size": "1 batch of max_tokens_per_batch tokens; transformers: 8 chains of any length.",
    "use_cpu": "true where no accelerator is found; transformers: false, and then refuses bf16 on a CPU.",
    "dataloader_pin_memory": "false. Nothing to pin on a CPU, and little to gain for batches this small.",
}


@dataclass
class RecipeTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` with LIFT_SS's defaults; `CHANGED_DEFAULTS` gives the reason for each."""

    _argument_group_name = "training (transformers.TrainingArguments)"
    output_dir: str | None = field(default="runs/train_q8", metadata={"help": "the run's directory"})
    max_tokens_per_batch: int = field(
        default=2048,
        metadata={"help": "chains of similar length share a batch up to this size, padding counted [tokens]"},
    )
    mask_fraction: float = field(
        default=0.0,
        metadata={
            "help": "training residues hidden from the backbone, others every epoch, against learning by heart "
            "[fraction]"
        },
    )
    # Off unless asked for: it writes gigabytes, and rounds the frozen states to 16 bits.
    prefix_cache: str = field(
        default=PREFIX_CACHE_OFF,
        metadata={
            "help": "folder that keeps what the frozen lower blocks make of each chain, for later epochs and runs; "
            "or off. 2 bytes x hidden size a token; with block_mix for each of these blocks, and one more"
        },
    )
    prefix_cache_gb: float = field(
        default=50.0, metadata={"help": "the folder of prefix_cache takes at most this much, else none is kept [GB]"}
    )
    prefix_cache_blocks: int | None = field(
        default=None,
        metadata={
            "help": "prefix_cache keeps what at most this many of the lowest blocks make, so that models trained from "
            "different blocks on share it; a sweep sets it (default: of all that are frozen) [blocks]"
        },
    )
    early_stopping_patience: int = field(
        default=5, metadata={"help": "stop after this many evaluations without a better validation accuracy; 0: never"}
    )
    learning_rate: float = field(default=1e-3, metadata={"help": "of AdamW"})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "learning rate schedule"})
    weight_decay: float = field(default=1e-3, metadata={"help": "not on biases and norms"})
    num_train_epochs: float = field(default=10.0, metadata={"help": "at most [epochs]"})
    max_grad_norm: float = field(default=0.0, metadata={"help": "clip gradients; 0: not"})
    seed: int = field(default=0, metadata={"help": "of weights, order and dropout"})
    eval_strategy: str = field(default="epoch", metadata={"help": "when to evaluate: no, steps, epoch"})
    save_strategy: str = field(default="epoch", metadata={"help": "when to save: no, steps, epoch"})
    save_total_limit: int | None = field(default=2, metadata={"help": "checkpoints kept"})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "keep the best epoch"})
    report_to: str = field(default="tensorboard", metadata={"help": "tensorboard, trackio, ... or none"})
    logging_steps: float = field(default=20, metadata={"help": "log every so many steps"})
    remove_unused_columns: bool = field(default=False, metadata={"help": "leave it false"})
    per_device_train_batch_size: int = field(
        default=1, metadata={"help": "batches of max_tokens_per_batch; leave it 1"}
    )
    dataloader_pin_memory: bool = field(default=False, metadata={"help": "pin batches in memory"})

    def __post_init__(self):
        # Without an accelerator the Trainer refuses bf16, and DeepSpeed looks for a GPU, unless told so.
        if not torch.accelerator.is_available():
            self.use_cpu = True
            if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":  # accelerate would silently run DDP
                raise ValueError("FSDP needs GPUs, found none. Use --config_file accelerate_configs/cpu_ddp.yaml.")
        if self.prefix_cache_blocks is not None and self.prefix_cache_blocks < 1:
            raise ValueError(
                f"prefix_cache_blocks is {self.prefix_cache_blocks}. Expected at least 1; leave it out to keep what "
                "all frozen blocks make, or switch the cache off: --prefix_cache off."
            )
        if not 0 <= self.mask_fraction < 1:
            raise ValueError(
                f"mask_fraction is {self.mask_fraction}. Expected a fraction of at least 0 and less than 1."
            )
        if self.mask_fraction and self.prefix_cache != PREFIX_CACHE_OFF:
            raise ValueError(
                "mask_fraction shows the backbone other chains every epoch, whose states cannot be kept. Switch one "
                "of them off: --mask_fraction 0, or --prefix_cache off."
            )
        if self.dataloader_persistent_workers:
            raise ValueError(
                "dataloader_persistent_workers would show every epoch the batches of the first. Leave it false."
            )
        chosen = self.metric_for_best_model
        if chosen is None and self.greater_is_better is None:
            self.greater_is_better = True  # of an accuracy
        super().__post_init__()
        # transformers puts the loss where None stood; ours is the accuracy at the level of the model's states, which
        # only the trainer knows.
        self.metric_for_best_model = chosen

    @property
    def stops_early(self) -> bool:
        """Whether training ends without a better evaluation; where the best is not kept, nothing is compared."""
        return bool(self.early_stopping_patience and self.load_best_model_at_end)

    @property
    def prefix_cache_settings(self) -> PrefixCacheSettings | None:
        """Settings of the prefix cache; None if it is off."""
        if self.prefix_cache == PREFIX_CACHE_OFF:
            return None
        return PrefixCacheSettings(
            folder=self.prefix_cache,
            limit_gb=self.prefix_cache_gb,
            num_blocks=self.prefix_cache_blocks,
            device=self.device,
            autocast_dtype=torch.bfloat16 if self.bf16 else torch.float16 if self.fp16 else None,
            max_tokens=self.max_tokens_per_batch,
            quiet=bool(self.disable_tqdm),
        )

    @property
    def _setup_devices(self) -> torch.device:
        # accelerate calls the CPU of a distributed run `cpu:0`, and torch.load cannot map to it when the run is
        # resumed. Drop when transformers > 4.57 does not ask it to.
        device = super()._setup_devices
        return torch.device("cpu") if device.type == "cpu" else device

"""The configuration of a secondary structure model: all that is needed to build it again, checked on construction.

Each family of backbones has a subclass, beside the family, because the Auto classes of transformers find a model by the
class of its configuration.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, ClassVar

from transformers import PretrainedConfig

from .adapter_methods import FORMAT_1, check_adapter, is_number, most_parameters, prefix_length
from .safety import FREE_PARAMETERS, num_parameters, shortened
from .states import ALPHABETS, get_alphabet
from .windows import plan_windows
from .wording import counted

FORMAT_VERSION = 2  # increase it if older versions cannot read the new files, or would read them otherwise

HEADS = ("lift_ss", "dilated", "linear")
LOSSES = ("centroid", "cross_entropy", "ldam")
BLOCK_MIXES = ("concat", "mean")
CENTROID_INITS = ("normal", "reference")
BACKBONE_DROPOUTS = ("frozen_eval", "reference")
BALANCES = {"inverse": 1.0, "inverse_sqrt": 0.5}  # power of the frequency
RANGES = {"loss_scale": (1e-3, 1e4), "calibration_temperature": (1e-2, 1e2)}  # calibration finds 0.05 to 20
DERIVED = ("id2label", "label2id", "num_labels")  # follow from `states`
LIFT_SS_SCALE = 18.0  # tau of the normalised softmax, LIFT_SS
LIFT_SS_CHANNELS = 1024  # channels of an inception, LIFT_SS
LIFT_SS_EMBEDDING = 32  # dimensions of the centroids, LIFT_SS


def check_choice(what: str, value: Any, choices: Iterable[str]) -> None:
    """Raise ValueError, listing the choices, unless `value` is one of them."""
    if value not in choices:
        raise ValueError(f"unknown {what} {value!r}. Choose one of: {', '.join(sorted(choices))}.")


def check_at_least(what: str, value: float, lowest: float) -> None:
    """Raise ValueError if a value is below the lowest that makes sense."""
    if value < lowest:
        raise ValueError(f"{what} is {value}. Expected at least {lowest}.")


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_list(value: Any) -> bool:
    return isinstance(value, Collection) and not isinstance(value, (str, bytes, Mapping))


class KnownPipelines(dict):
    """The custom pipelines of a repository, for a process in which the package has registered its own.

    transformers 4.57 reads the task of `pipeline(model=...)` from them, and runs the repository's code if the task is
    among them. Here it never is, so that the package's own pipeline is used.
    """

    def __contains__(self, task: object) -> bool:
        return False


class SecondaryStructureConfig(PretrainedConfig):
    """Describe a model. Usually made by the model's `from_backbone`, seldom by hand.

    Args:
        backbone_config: the backbone's own configuration, or its dictionary.
        backbone_name: Hub id or folder of the backbone, as it was given.
        backbone_revision: commit of the backbone on the Hub.
        backbone_fingerprint: `backbones.fingerprint` of its weights.
        leading_token: what the backbone expects before the residues, besides its family's own: `<AA2fold>` for ProstT5,
            `[NLU]` for Ankh 3. `from_backbone` finds it in the backbone's vocabulary.
        adapter: a key of `adapter_methods.ADAPTERS`, or None for feature extraction and full fine-tuning.
        adapter_options: hyper-parameters that differ from the named adapter's.
        leave_out: numbers of the blocks without an adapter, from 0 at the bottom.
        prefix_shift: let an adapter's prefix shift the distances between residues, as adapter-transformers does, which
            LIFT_SS uses. T5 only: the other families have no such distances.
        backbone_dropout: where the backbone has dropout in training. `frozen_eval`: only in and above the lowest block
            that training changes; `reference`: everywhere, as LIFT_SS, so that nothing can be cached.
        freeze: `all` (the backbone keeps its weights), None (nothing is frozen), or n: the lowest n blocks and the
            embeddings are frozen. With an adapter only `all`.
        unfrozen: names of weights of the backbone that are trained all the same, `backbone.encoder. ...`. Weights that
            were unfrozen by hand (`requires_grad_(True)`) are added when the model is saved.
        block_mix: what the head sees instead of the last block's output: `mean`, a learned mean of all blocks', or
            `concat`, all of them side by side. None: the last block's output.
        head: `lift_ss` (inception), `dilated` (a wider view, for small backbones) or `linear`.
        head_channels: width of a convolutional head.
        head_depth: its number of inceptions, or of rounds of dilations.
        head_dropout: its dropout [fraction].
        embedding_size: size of the head's output if centroids classify it, and of a convolutional head's.
        centroid_init: how centroids start. `normal`: each number from a standard normal distribution; `reference`: the
            numbers of all states for one dimension then scaled to length one, as LIFT_SS.
        loss: `centroid` (normalised softmax), `ldam` (the same with margins) or `cross_entropy`.
        loss_scale: tau, the factor of the similarities.
        balance: give rare states more weight in the loss: `inverse` (to their frequency: all states weigh the same in
            total) or `inverse_sqrt`. None: every residue weighs the same.
        class_counts: labelled residues of each state in the training set, for `ldam` and `balance`.
        states: a key of `states.ALPHABETS`; gives the order of the logits.
        max_residues: longest chain that is run whole [residues]; None means the backbone's limit. Longer ones are cut
            into windows.
        window_overlap: residues that neighbouring windows share; None means a quarter of a window, at most 256.
        calibration_temperature: divides the logits before probabilities are reported (transformers overwrites an
            attribute called `temperature`, which is a generation parameter there).
        includes_backbone: the saved artefact has the backbone's weights too.
        format_version: of the artefact. Of version 1, the presets differed; its options are filled in.

    Raises:
        ValueError: if a model cannot be built from a value; the message says what to choose instead.
    """

    model_type = "secondary_structure"
    backbone_config_class: ClassVar[type[PretrainedConfig]] = PretrainedConfig
    has_no_defaults_at_init = False
    keys_to_ignore_at_inference = ["hidden_states", "attentions"]  # noqa: RUF012  of the Trainer, for metrics

    def __init_subclass__(cls, **options: Any) -> None:
        # transformers 5 makes a dataclass of a configuration without an __init__ of its own, and so passes over ours.
        cls.__init__ = cls.__dict__.get("__init__", SecondaryStructureConfig.__init__)  # type: ignore[method-assign]
        cls.sub_configs = {"backbone_config": cls.backbone_config_class}  # type: ignore[method-assign,assignment]
        super().__init_subclass__(**options)

    def __init__(
        self,
        backbone_config: PretrainedConfig | dict[str, Any] | None = None,
        backbone_name: str | None = None,
        backbone_revision: str | None = None,
        backbone_fingerprint: str | None = None,
        leading_token: str | None = None,
        adapter: str | None = "bottleneck",
        adapter_options: dict[str, Any] | None = None,
        leave_out: Collection[int] = (),
        prefix_shift: bool = False,
        backbone_dropout: str = "frozen_eval",
        freeze: str | int | None = "all",
        unfrozen: Collection[str] = (),
        block_mix: str | None = None,
        head: str = "lift_ss",
        head_channels: int = LIFT_SS_CHANNELS,
        head_depth: int = 2,
        head_dropout: float = 0.2,
        embedding_size: int = LIFT_SS_EMBEDDING,
        centroid_init: str = "normal",
        loss: str = "centroid",
        loss_scale: float = LIFT_SS_SCALE,
        balance: str | None = None,
        class_counts: Sequence[int] | None = None,
        states: str = "q9",
        max_residues: int | None = None,
        window_overlap: int | None = None,
        calibration_temperature: float = 1.0,
        includes_backbone: bool = False,
        format_version: int = FORMAT_VERSION,
        **kwargs: Any,
    ):
        if isinstance(backbone_config, PretrainedConfig):
            self.backbone_config = backbone_config
        else:
            self.backbone_config = self.backbone_config_class.from_dict(dict(backbone_config or {}))
        self.backbone_name = backbone_name
        self.backbone_revision = backbone_revision
        self.backbone_fingerprint = backbone_fingerprint
        self.leading_token = leading_token
        self.adapter = adapter
        self.adapter_options = {} if adapter_options is None else adapter_options
        self.leave_out: Sequence[int] = leave_out  # type: ignore[assignment]  # a list once checked
        self.prefix_shift = prefix_shift
        self.backbone_dropout = backbone_dropout
        self.freeze = freeze
        self.unfrozen: Sequence[str] = unfrozen  # type: ignore[assignment]  # a list once checked
        self.block_mix = block_mix
        self.head = head
        self.head_channels = head_channels
        self.head_depth = head_depth
        self.head_dropout = head_dropout
        self.embedding_size = embedding_size
        self.centroid_init = centroid_init
        self.loss = loss
        self.loss_scale = loss_scale
        self.balance = balance
        self.class_counts = class_counts
        self.states = states
        self.max_residues = max_residues
        self.window_overlap = window_overlap
        self.calibration_temperature = calibration_temperature
        self.includes_backbone = includes_backbone
        self.format_version = format_version
        self.check()
        self._check_labels({name: kwargs.pop(name) for name in DERIVED if name in kwargs})
        letters = get_alphabet(states).letters
        super().__init__(
            id2label=dict(enumerate(letters)), label2id={letter: i for i, letter in enumerate(letters)}, **kwargs
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the values as a dictionary, without the paths that transformers records: they are one machine's."""
        content = super().to_dict()
        for part in (content, content.get("backbone_config", {})):
            part.pop("_name_or_path", None)
        return content

    @property
    def hidden_size(self) -> int:
        """Width of the backbone."""
        return self.backbone_config.hidden_size

    @property
    def head_input_size(self) -> int:
        """Width of what the head sees."""
        return self.hidden_size * (self.num_blocks + 1 if self.block_mix == "concat" else 1)

    @property
    def num_blocks(self) -> int:
        """Number of transformer blocks of the backbone."""
        return self.backbone_config.num_hidden_layers

    @property
    def vocab_size(self) -> int:
        """Number of tokens the backbone knows."""
        return self.backbone_config.vocab_size

    def num_saved_parameters(self) -> float:
        """Estimate the parameters that a saved model has at most, from sizes alone: before anything is allocated."""
        content = self.backbone_config.to_dict()
        adapter, head = 0.0, 0.0
        if self.adapter is not None:
            num_adapted = self.num_blocks - len(set(self.leave_out))
            adapter = most_parameters(self.adapter, self.adapter_options, content, num_adapted)
        if self.head != "linear":
            width = 3 if self.head == "lift_ss" else 20  # weights for each pair of channels, in a round or an inception
            head = self.head_channels * (self.head_input_size * 2 + self.head_channels * width * self.head_depth)
        head += self.embedding_size * max(self.head_channels, self.head_input_size)
        has_blocks = self.includes_backbone or self.freeze != "all" or self.unfrozen
        return adapter + head + (num_parameters(content) if has_blocks else 0)

    @property
    def uses_centroids(self) -> bool:
        """True if states are classified by their similarity to centroids."""
        return self.loss != "cross_entropy"

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build from the result of `to_dict`; further arguments replace its values, and are checked too.

        Raises:
            ValueError: if a model cannot be built from a value.
        """
        for name in DERIVED:
            if name in kwargs:
                raise ValueError(f"{name} follows from states. For other states, pass states= to from_backbone.")
        changes = {name: kwargs.pop(name) for name in OWN_VALUES & set(kwargs)}
        if changes.get("states", config_dict.get("states")) != config_dict.get("states"):
            raise ValueError(
                f"the model was trained for states {config_dict.get('states')!r}, not {changes['states']!r}. Leave out "
                "states=, and reduce its predictions (states= of a pipeline, --states of lift-ss predict)."
            )
        if isinstance(changes.get("backbone_config"), Mapping):
            changes["backbone_config"] = {**config_dict.get("backbone_config", {}), **changes["backbone_config"]}
        content = {**config_dict, **changes}
        if "custom_pipelines" in content and not cls.__module__.startswith("transformers_modules."):
            content["custom_pipelines"] = KnownPipelines(content["custom_pipelines"])
        return super().from_dict(content, **kwargs)

    def check(self) -> None:
        """Check all values together, and normalise lists. Runs on construction and before a model is built.

        Raises:
            ValueError: if a model cannot be built from a value.
        """
        self._check_types()
        self.leave_out = sorted({int(block) for block in self.leave_out})
        self.unfrozen = sorted(set(self.unfrozen))
        self.adapter_options = dict(self.adapter_options)
        self.class_counts = None if self.class_counts is None else list(self.class_counts)
        if not isinstance(self.format_version, int) or self.format_version > FORMAT_VERSION:
            raise ValueError(
                f"this model has format version {self.format_version}, but this package reads up to {FORMAT_VERSION}. "
                "Upgrade lift_ss_hf to load it."
            )
        if self.format_version == 1:
            self.adapter_options = {**FORMAT_1.get(str(self.adapter), {}), **self.adapter_options}
            self.format_version = FORMAT_VERSION
        check_choice("head", self.head, HEADS)
        check_choice("loss", self.loss, LOSSES)
        check_choice("alphabet", self.states, ALPHABETS)
        check_choice("centroid_init", self.centroid_init, CENTROID_INITS)
        check_choice("backbone_dropout", self.backbone_dropout, BACKBONE_DROPOUTS)
        if self.balance is not None:
            check_choice("balance", self.balance, BALANCES)
        if self.block_mix is not None:
            check_choice("block mix", self.block_mix, BLOCK_MIXES)
        self._check_blocks()
        self._check_numbers()
        self._check_labels({name: self.__dict__[name] for name in DERIVED if name in self.__dict__})  # set since
        if self.adapter is not None:
            check_adapter(self.adapter, self.adapter_options, self.hidden_size)
            self._check_adapter_size(self.adapter)
            if getattr(self.backbone_config, "pruned_heads", None) and prefix_length(
                self.adapter, self.adapter_options
            ):
                raise ValueError(
                    f"adapter {self.adapter!r} has prefixes for all heads, but the backbone has pruned heads. Choose "
                    "another adapter, or the unpruned backbone."
                )
            self._check_prefix_shift()
        elif self.adapter_options:
            raise ValueError("adapter_options were given without an adapter. Name the adapter, or drop them.")

    def _check_labels(self, found: Mapping[str, Any]) -> None:
        """Raise ValueError for labels other than those of `states`; a JSON file has their numbers as strings."""
        letters = get_alphabet(self.states).letters
        expected = {
            "num_labels": len(letters),
            "id2label": {str(label): letter for label, letter in enumerate(letters)},
            "label2id": {letter: label for label, letter in enumerate(letters)},
        }
        for name, value in found.items():
            given = {str(label): letter for label, letter in value.items()} if isinstance(value, Mapping) else value
            if value is not None and given != expected[name]:
                raise ValueError(
                    f"{name} is {shortened(value)}, but states {self.states!r} has {len(letters)} labels, {letters}. "
                    f"Leave {name} out, and choose states from: {', '.join(sorted(ALPHABETS))}."
                )

    def _check_adapter_size(self, name: str) -> None:
        content = self.backbone_config.to_dict()
        num_adapted = self.num_blocks - len(set(self.leave_out))
        found = most_parameters(name, self.adapter_options, content, num_adapted)
        allowed = num_parameters(content) + FREE_PARAMETERS
        if found > allowed:
            raise ValueError(
                f"adapter {name!r} with the options {self.adapter_options} has up to {found:.1e} parameters, more than "
                f"its backbone. Expected at most {allowed:.1e}: choose a smaller size."
            )

    def _check_prefix_shift(self) -> None:
        if self.prefix_shift and not prefix_length(self.adapter, self.adapter_options):
            raise ValueError(f"prefix_shift was given, but adapter {self.adapter!r} has no prefix. Leave it out.")
        if self.prefix_shift and not hasattr(self.backbone_config, "relative_attention_num_buckets"):
            raise ValueError("prefix_shift was given, but only T5 backbones have distances to shift. Leave it out.")

    def _check_types(self) -> None:
        """Check types: a configuration may come from any file."""
        given = [name for name in ("max_residues", "window_overlap") if getattr(self, name) is not None]
        whole = ("head_channels", "head_depth", "embedding_size", *given)
        for names, kind, holds in (
            (whole, "a whole number", _is_whole),
            (("head_dropout", "loss_scale", "calibration_temperature"), "a number", is_number),
            (("includes_backbone", "prefix_shift"), "true or false", lambda value: isinstance(value, bool)),
            (("leading_token",), "a token, or null", lambda value: isinstance(value, str | None)),
            (("adapter_options",), "a dictionary", lambda value: isinstance(value, Mapping)),
            (
                ("unfrozen",),
                "names of weights",
                lambda value: _is_list(value) and all(isinstance(n, str) for n in value),
            ),
            (("leave_out",), "numbers of blocks", lambda value: _is_list(value) and all(map(_is_whole, value))),
        ):
            for name in names:
                if not holds(getattr(self, name)):
                    raise ValueError(f"{name} is {getattr(self, name)!r}. Expected {kind}.")
        if self.class_counts is not None and not (
            _is_list(self.class_counts) and all(map(is_number, self.class_counts))
        ):
            raise ValueError(f"class_counts is {self.class_counts!r}. Expected a number for each state.")

    def _check_blocks(self) -> None:
        outside = [block for block in self.leave_out if not 0 <= block < self.num_blocks]
        if outside:
            raise ValueError(
                f"leave_out names block {outside[0]}, but the backbone has {counted(self.num_blocks, 'block')}, "
                f"0 to {self.num_blocks - 1}."
            )
        if self.adapter is not None:
            if self.freeze != "all":
                raise ValueError(
                    f"freeze={self.freeze!r} with adapter={self.adapter!r}: an adapter is trained over a frozen "
                    'backbone. Use freeze="all", or adapter=None for full fine-tuning.'
                )
            if len(set(self.leave_out)) == self.num_blocks:
                raise ValueError(
                    f"leave_out names all {self.num_blocks} blocks, so no block has an adapter. "
                    'For feature extraction use adapter=None, freeze="all".'
                )
        elif self.leave_out:
            raise ValueError("leave_out was given without an adapter. To freeze the lowest n blocks use freeze=n.")
        if self.freeze not in ("all", None) and not (
            _is_whole(self.freeze) and 0 <= int(self.freeze) <= self.num_blocks
        ):
            raise ValueError(
                f'freeze is {self.freeze!r}. Expected "all", None, or a number of lowest blocks '
                f"from 0 to {self.num_blocks}."
            )

    def _check_numbers(self) -> None:
        bounds = {
            "head_depth": self.head_depth >= 1,
            "embedding_size": self.embedding_size >= 2,
            "max_residues": self.max_residues is None or self.max_residues >= 1,
            "window_overlap": self.window_overlap is None or self.window_overlap >= 0,
        }
        for name, holds in bounds.items():
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)}, too small.")
        for name, (lowest, highest) in RANGES.items():
            if not lowest <= getattr(self, name) <= highest:
                raise ValueError(f"{name} is {getattr(self, name):g}. Expected {lowest:g} to {highest:g}.")
        if not 0 <= self.head_dropout < 1:
            raise ValueError(f"head_dropout is {self.head_dropout}. Expected a fraction of at least 0 and less than 1.")
        if self.head_channels < 4 or self.head_channels % 4:
            raise ValueError(f"head_channels is {self.head_channels}. Expected a multiple of 4: halves of halves.")
        if self.max_residues is not None:
            plan_windows(self.max_residues + 1, self.max_residues, self.window_overlap)  # says what is wrong
        self._check_counts()

    def _check_counts(self) -> None:
        num_states = len(get_alphabet(self.states))
        if self.class_counts is None:
            if self.loss == "ldam" or self.balance:
                raise ValueError(
                    f"{'balance' if self.balance else 'the ldam loss'} needs class_counts: the number of labelled "
                    f"residues of each of the {num_states} states ({get_alphabet(self.states).letters}) in the "
                    "training set."
                )
        elif len(self.class_counts) != num_states or min(self.class_counts) < 0:
            raise ValueError(
                f"class_counts is {self.class_counts}. Expected {num_states} counts of 0 or more, "
                f"in the order {get_alphabet(self.states).letters}."
            )


# What it checks itself; the rest are values of PretrainedConfig.
OWN_VALUES = set(inspect.signature(SecondaryStructureConfig).parameters) - {"kwargs"}

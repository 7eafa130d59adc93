"""Build a model from a backbone, save what was trained, load it again: the base class of the models.

`modeling` adds what the models compute; `artefact` reads and writes the files.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import PretrainedConfig, PreTrainedModel

from .artefact import CUSTOM_PIPELINES, check_fingerprint, copy_code, fetch_backbone, read_weights, write_artefact
from .atomic import require_folder
from .backbones import (
    BackboneFamily,
    NamesInReport,
    check_version,
    fingerprint,
    get_model_class,
    locate,
    model_classes,
    portable_name,
    read_backbone_config,
    read_config_file,
)
from .configuration import OWN_VALUES, SecondaryStructureConfig
from .origins import note_folder
from .safety import HUB_OPTIONS, building, check_config_values, check_size, check_weights, shortened
from .tokenization import NoTokenizerError, ResidueTokenizer

# Options that Auto classes pass on, or that have only one possible value here (safetensors, little memory).
IGNORED_OPTIONS = (
    *("_commit_hash", "_from_auto", "_from_pipeline", "adapter_kwargs", "code_revision", "from_flax", "from_pipeline"),
    *("from_tf", "low_cpu_mem_usage", "mirror", "output_loading_info", "resume_download"),
    *("trust_remote_code", "use_safetensors", "weights_only"),
)
LEAVE_OUT = 2 / 3  # fraction of the blocks, from the bottom, without an adapter: LIFT_SS leaves out 16 of 24


class PretrainedSecondaryStructureModel(PreTrainedModel):
    """A model whose artefact leaves out the frozen weights of its backbone.

    Attributes:
        family: of the backbones that the class is for.
        backbone_names: names of the backbone's own weights.
        frozen_names: those of them that stay out of the artefact.
        unfrozen_names: those of them that do not, though the plan (`freeze`, `adapter`) has them frozen.
        second_names: further names of weights that already have one (tied embeddings).
        backbone_shapes: of the backbone's parameters, as they are in its checkpoint.
    """

    config: SecondaryStructureConfig
    config_class: type[SecondaryStructureConfig] = SecondaryStructureConfig
    base_model_prefix = "backbone"
    family: ClassVar[BackboneFamily]
    backbone_names: frozenset[str]
    frozen_names: frozenset[str]
    unfrozen_names: frozenset[str]
    second_names: frozenset[str]
    backbone_shapes: dict[str, torch.Size]

    def note_unfrozen(self) -> None:
        """Record which frozen weights were unfrozen by hand; from now on they are saved, even if frozen again."""
        backbone: Any = self.backbone
        named = backbone.named_parameters(prefix=self.base_model_prefix)
        self._note({name for name, parameter in named if parameter.requires_grad})

    @classmethod
    def from_backbone(
        cls,
        name_or_path: str | os.PathLike,
        adapter: str | None = "bottleneck",
        head: str = "lift_ss",
        loss: str = "centroid",
        states: str = "q9",
        leave_out: Sequence[int] | None = None,
        top_blocks: int | None = None,
        freeze: str | int | None = "all",
        revision: str | None = None,
        dtype: torch.dtype | str | None = None,
        attn_implementation: str | None = None,
        **options: Any,
    ) -> Any:
        """Put a new adapter and a new head on a pretrained backbone.

        There are three regimes: adapter and head (the default), feature extraction (`adapter=None`), and full
        fine-tuning (`adapter=None, freeze=None`, or `freeze=n` to leave the lowest n blocks as they are).

        Args:
            name_or_path: Hub id or folder of the backbone. A folder is recorded as given, unless it is known which
                commit of the Hub it holds (see `backbones.portable_name`).
            adapter: a key of `adapter_methods.ADAPTERS`, or None.
            head: `lift_ss`, `dilated` or `linear`.
            loss: `centroid`, `ldam` or `cross_entropy`.
            states: a key of `states.ALPHABETS`.
            leave_out: numbers of the blocks without an adapter; by default the lower two thirds, as in LIFT_SS.
            top_blocks: instead of `leave_out`, how many blocks get an adapter, counted from the top.
            freeze: `all`, None, or the number of lowest blocks to freeze.
            revision: of the backbone on the Hub.
            dtype: of the frozen weights in memory, fp32 by default; what is trained is fp32 in any case.
            attn_implementation: `sdpa`, `eager`, ...
            options: other arguments of `SecondaryStructureConfig` (head_channels, class_counts, max_residues, ...),
                and of the download: cache_dir, force_download, local_files_only, proxies, subfolder, token.

        Raises:
            ValueError: if the backbone is not an encoder of the class's family, or the model cannot be built on it.
            TypeError: if an option does not exist.
            RuntimeError: if the default device is `meta`, on which weights have no values.

        Example:
            >>> from lift_ss_hf import EsmForSecondaryStructure
            >>> model = EsmForSecondaryStructure.from_backbone("bundled", adapter="lora", top_blocks=2, head="linear")
            >>> model.parameter_summary()["adapter"]
            {'trained': 2048, 'frozen': 0}
        """
        _check_default_device("from_backbone")
        hub = {key: options[key] for key in HUB_OPTIONS if key in options} | {"revision": revision}
        options |= {"head": head, "loss": loss, "states": states, "freeze": freeze}
        config = cls.plan(name_or_path, adapter, leave_out, top_blocks, revision, **options)
        model_class, dtype = cls.class_for(config.backbone_config.model_type), as_dtype(dtype)
        backbone = model_class.family.load(
            os.fspath(name_or_path), dtype=dtype, attn_implementation=attn_implementation, **hub
        )
        config.backbone_config, config.backbone_fingerprint = backbone.config, fingerprint(backbone)
        config._attn_implementation = backbone.config._attn_implementation
        note_folder(name_or_path)
        return model_class(config, backbone)._set_precision(dtype)

    @classmethod
    def plan(
        cls,
        name_or_path: str | os.PathLike,
        adapter: str | None = "bottleneck",
        leave_out: Sequence[int] | None = None,
        top_blocks: int | None = None,
        revision: str | None = None,
        **options: Any,
    ) -> SecondaryStructureConfig:
        """Return the configuration of what `from_backbone` would build, without fetching any weights.

        Arguments and errors are those of `from_backbone`.
        """
        hub = {key: options.pop(key) for key in HUB_OPTIONS if key in options} | {"revision": revision}
        backbone_config = read_backbone_config(name_or_path, **hub)
        name, commit = portable_name(name_or_path)
        model_class = cls.class_for(backbone_config.model_type)
        return model_class.config_class(
            backbone_config=backbone_config,
            backbone_name=name,
            backbone_revision=commit or getattr(backbone_config, "_commit_hash", None) or revision,
            leading_token=_find_leading_token(name_or_path, model_class.family, hub),
            adapter=adapter,
            leave_out=_resolve_leave_out(adapter, leave_out, top_blocks, backbone_config.num_hidden_layers),
            **_config_options(options),
        )

    @classmethod
    def untrained(cls, config: SecondaryStructureConfig, dtype: torch.dtype | str | None = None) -> Any:
        """Build a model with random weights, its backbone's included: for estimates and tests, not for training.

        Args:
            config: from `plan`.
            dtype: of the frozen weights in memory, fp32 by default.
        """
        return cls.class_for(config.backbone_config.model_type)(config)._set_precision(as_dtype(dtype))

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *args: Any,
        backbone: str | os.PathLike | PreTrainedModel | None = None,
        config: SecondaryStructureConfig | str | os.PathLike | None = None,
        revision: str | None = None,
        dtype: torch.dtype | str | None = None,
        attn_implementation: str | None = None,
        device_map: str | int | torch.device | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Load what `save_pretrained` wrote, and the backbone it belongs to, in evaluation mode.

        Args:
            pretrained_model_name_or_path: Hub id or folder of the artefact, or `bundled`.
            args: unused; the Auto classes may pass some.
            backbone: where the backbone is now, if not where the configuration says; or the backbone itself, without
                adapters, which the model takes over. In both cases it must be the one the model was trained on.
            config: replaces the artefact's own; or the Hub id or folder that has it.
            revision: of the artefact on the Hub.
            dtype: of the frozen weights in memory, fp32 by default; what was trained is fp32 in any case.
            attn_implementation: `sdpa`, `eager`, ...
            device_map: the one device to load the model on.
            options: cache_dir, force_download, local_files_only, proxies, subfolder, token, output_loading_info; and
                arguments of the configuration to change (max_residues, calibration_temperature, ...). A dictionary
                as `backbone_config` changes the values that it names.

        Raises:
            ValueError: if a file is missing or damaged, or the backbone is not the one the model was trained on.
            TypeError: if an option does not exist.
            RuntimeError: if the default device is `meta`, on which weights have no values.
        """
        _check_default_device("from_pretrained")
        device = _one_device(device_map)
        if pretrained_model_name_or_path is None:
            raise TypeError(
                "from_pretrained needs the Hub id or folder of a model. For a model without weights call its class."
            )
        dtype = as_dtype(options.pop("torch_dtype", None) or dtype)  # the older name, which Auto classes pass on
        hub = {key: options[key] for key in HUB_OPTIONS if options.get(key) is not None}
        changes = {key: options[key] for key in options if key not in (*HUB_OPTIONS, *IGNORED_OPTIONS)}
        name = locate(pretrained_model_name_or_path, "predictor")
        if not isinstance(config, SecondaryStructureConfig):
            config = cls.read_config(config or name, revision=revision, changes=_config_options(changes), **hub)
        elif changes:
            raise TypeError(f"{min(changes)} and config were both given. Change the configuration, or leave it out.")
        family = cls.class_for(config.backbone_config.model_type).family  # before anything large is fetched
        weights = read_weights(name, revision=revision, **hub)
        hub.pop("subfolder", None)  # of the artefact, not of the backbone
        base: Any = backbone
        if config.includes_backbone and backbone is not None:
            raise ValueError(f"{name} includes its backbone. Leave out backbone=.")
        if config.includes_backbone:
            backbone_config = copy.deepcopy(config.backbone_config)
            if attn_implementation is not None:
                backbone_config._attn_implementation = attn_implementation
            check_size(config.num_saved_parameters(), sum(tensor.numel() for tensor in weights.values()), name)
            with building(name):
                base = family.build(backbone_config, initialise=False)
        elif isinstance(backbone, PreTrainedModel):
            if "backbone_config" in changes:
                raise TypeError("backbone_config and a backbone that is built were both given. Leave one of them out.")
            base = family.trim(backbone)
            check_fingerprint(base, config, "hand")
        else:
            hub |= {"dtype": dtype, "attn_implementation": attn_implementation}
            if "backbone_config" in changes:
                hub["backbone_config"] = copy.deepcopy(config.backbone_config)
            base = fetch_backbone(config, family, name, backbone, **hub)
        config._attn_implementation = base.config._attn_implementation
        model = cls.assemble(config, base, weights, name, dtype)
        if device is not None:
            model = model.to(device)
        if options.get("output_loading_info"):  # anything missing would have been an error
            names = {kind: NamesInReport() for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")}
            return model, {**names, "error_msgs": []}
        return model

    @classmethod
    def assemble(
        cls,
        config: SecondaryStructureConfig,
        backbone: PreTrainedModel,
        weights: Mapping[str, torch.Tensor],
        name: str | os.PathLike,
        dtype: torch.dtype | None,
    ) -> Any:
        """Build a model from parts that have been checked to belong together.

        Args:
            config: of the artefact.
            backbone: without adapters.
            weights: of the artefact.
            name: of the artefact, for error messages.
            dtype: of the frozen weights in memory; None means fp32.
        """
        check_size(config.num_saved_parameters(), sum(tensor.numel() for tensor in weights.values()), name)
        check_weights(weights, name)
        with building(name):
            model = cls.class_for(config.backbone_config.model_type)(config, backbone)
        model._load_artefact(weights, name)
        return model._set_precision(dtype)

    @classmethod
    def read_config(
        cls, name: str | os.PathLike, changes: Mapping[str, Any] | None = None, **hub: Any
    ) -> SecondaryStructureConfig:
        """Read the configuration of a saved model, in the class of its family.

        Args:
            name: Hub id or folder.
            changes: values to replace.
            hub: revision, cache_dir, token, ...

        Raises:
            ValueError: if there is none, it is not a secondary structure model, or its format is newer.
        """
        content = read_config_file(name, **hub)
        by_type = {model.config_class.model_type: model for model in model_classes().values()}
        check_version(content["model_type"].removesuffix("_secondary_structure"))
        if content["model_type"] not in by_type:
            raise ValueError(
                f"{name} holds a model of type {content['model_type']!r}. Expected a model written by save_pretrained "
                f"of this package: {', '.join(sorted(by_type))}. To start from a backbone use from_backbone."
            )
        model_class = by_type[content["model_type"]]
        if content.get("architectures") not in (None, [model_class.__name__]):
            raise ValueError(
                f"the config.json of {name} has architectures {content['architectures']!r}. "
                f"Expected [{model_class.__name__!r}]."
            )
        config_class, where = model_class.config_class, repr(str(name))
        check_config_values({key: content[key] for key in set(content) - OWN_VALUES}, PretrainedConfig, where)
        check_config_values(content.get("backbone_config", {}), config_class.backbone_config_class, where)
        with building(where):
            return config_class.from_dict(content, **(changes or {}))

    @classmethod
    def class_for(cls, model_type: str) -> type[Any]:
        """Return the class for a backbone's model type: this one, or, from a base class, the one that fits.

        Raises:
            ValueError: if there is no such family, or this class is for another one.
        """
        fitting = get_model_class(model_type)
        # Not issubclass(cls, fitting): transformers may load a model's code, and so its classes, twice.
        if getattr(cls, "family", None) is not None and cls.family.model_type == model_type:
            return cls
        if issubclass(fitting, cls):
            return fitting
        raise ValueError(f"the backbone is of type {model_type!r}: use {fitting.__name__}, not {cls.__name__}.")

    def _load_artefact(self, weights: Mapping[str, torch.Tensor], name: str | os.PathLike) -> None:
        """Load saved weights; all must be there."""
        names = self._artefact_names(self.config.includes_backbone)
        weights = {key: tensor for key, tensor in weights.items() if not key.endswith(self.family.computed)}
        problem = f"the weights in {name} do not fit its configuration: "
        pairs = ((names, weights, "file lacks"), (weights, names, "configuration does not know"))
        for expected_names, found_names, subject in pairs:
            if missing := sorted(set(expected_names) - set(found_names)):
                raise ValueError(f"{problem}the {subject} {len(missing)} weights, the first is {missing[0]}.")
        for key, tensor in self.state_dict().items():
            if key in names and weights[key].shape != tensor.shape:
                found, expected = tuple(weights[key].shape), tuple(tensor.shape)
                cause = "" if weights[key].numel() else " ZeRO-3 leaves it so unless zero3_save_16bit_model is true."
                raise ValueError(f"{problem}{key} has shape {found}, expected {expected}.{cause}")
            if key in names and weights[key].is_floating_point() != tensor.is_floating_point():
                raise ValueError(f"{problem}{key} is {weights[key].dtype}, expected {tensor.dtype}.")
        self.load_state_dict(weights)

    def _artefact_names(self, includes_backbone: bool) -> set[str]:
        """Return the names of the weights in a saved artefact: those that are trained, or all, each once."""
        names = set(self.state_dict()) - (self.second_names if includes_backbone else self.frozen_names)
        return {name for name in names if not name.endswith(self.family.computed)}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights. The backbone's frozen ones may be missing, as they are in checkpoints of the Trainer."""
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        given = self.frozen_names & set(state_dict)
        if given and not self.frozen_names - self.second_names <= given:  # a checkpoint has those that were unfrozen
            self._note(given)
        optional = self.frozen_names | self.second_names
        result.missing_keys[:] = [key for key in result.missing_keys if key not in optional]
        if strict and (result.missing_keys or result.unexpected_keys):
            raise RuntimeError(f"missing weights: {result.missing_keys}; unexpected weights: {result.unexpected_keys}")
        return result

    def _note(self, names: Set[str]) -> None:
        """Take those of the frozen weights that have these names into what is saved."""
        self.unfrozen_names |= self.frozen_names & names
        self.frozen_names -= names

    def _set_precision(self, dtype: torch.dtype | None) -> Any:
        """Keep frozen weights in `dtype` and trained ones in fp32."""
        for name, parameter in self.named_parameters():
            is_frozen = name in self.frozen_names and parameter.is_floating_point()
            parameter.data = parameter.data.to((dtype or torch.float32) if is_frozen else torch.float32)
        return self

    def save_pretrained(  # type: ignore[override]  # the rest of transformers' arguments is in kwargs
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: Mapping[str, torch.Tensor] | None = None,
        push_to_hub: bool = False,
        include_backbone: bool | None = None,
        include_code: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Write `config.json` and `model.safetensors`: what was trained, without the rest of the backbone.

        Args:
            save_directory: folder, created if missing. Files are replaced whole.
            is_main_process: write only if True.
            state_dict: the weights, if they are not in the model (Trainer with DeepSpeed or FSDP passes them).
            push_to_hub: refused; use the method of that name to upload.
            include_backbone: also write the backbone's weights, for a copy that stands alone. By default this is done
                if the model was loaded from such a copy, or its backbone is not in any checkpoint (random weights, or
                a merged adapter).
            include_code: also copy the source, for `trust_remote_code=True` without this package. By default this is
                done if this model's own source came that way, or its class was registered with transformers'
                `register_for_auto_class` (then the stock Trainer's `push_to_hub` pushes the source too).
            kwargs: further arguments of transformers' method, ignored.

        Raises:
            ValueError: if `safe_serialization=False`, `push_to_hub=True`, the path is not a folder, or a backbone that
                is not in any checkpoint, or was resized, is left out.
        """
        if not kwargs.pop("safe_serialization", True):
            raise ValueError("weights are written as safetensors only. Leave out safe_serialization=False.")
        folder = Path(save_directory)
        require_folder(folder)
        if push_to_hub:
            raise ValueError("save_pretrained only writes files. To upload, call the model's push_to_hub(repo_id).")
        if not is_main_process:
            return
        self.note_unfrozen()
        config = copy.deepcopy(self.config)
        config.unfrozen = sorted(self.unfrozen_names)
        base_class = get_model_class(config.backbone_config.model_type)
        if include_backbone is None:
            include_backbone = config.includes_backbone or config.backbone_name is None
        config.includes_backbone = include_backbone
        if config.backbone_name is None and not include_backbone:
            raise ValueError(
                "this model's backbone is not in any checkpoint: it was merged with an adapter, or built with random "
                "weights. Save with include_backbone=True."
            )
        config.architectures = [base_class.__name__]  # of a subclass too
        names = self._artefact_names(config.includes_backbone)
        state = self.state_dict() if state_dict is None else state_dict
        if not include_backbone:
            self._check_shapes(state)
        folder.mkdir(parents=True, exist_ok=True)
        if include_code is None:
            include_code = type(self).__module__.startswith("transformers_modules.") or self._auto_class is not None
        if include_code:
            config.auto_map = copy_code(folder, self)
            if (folder / "pipeline.py").is_file():
                config.custom_pipelines = CUSTOM_PIPELINES
        elif hasattr(config, "auto_map"):
            del config.auto_map
            if hasattr(config, "custom_pipelines"):
                del config.custom_pipelines
        write_artefact(folder, config, {name: state[name] for name in sorted(names)})

    def _check_shapes(self, state: Mapping[str, torch.Tensor]) -> None:
        """Raise ValueError if weights of the backbone no longer have the shapes that they have in its checkpoint."""
        for name, expected in self.backbone_shapes.items():
            found = state[name].shape if name in state else expected
            if found != expected and found.numel():  # ZeRO-3 leaves empty what it has not gathered
                raise ValueError(
                    f"{name} has shape {tuple(found)}, but {tuple(expected)} in the checkpoint that the saved model "
                    "names. Change the backbone by itself, save it, and start with from_backbone."
                )


def _check_default_device(caller: str) -> None:
    """Raise RuntimeError, as transformers does, if new tensors are on the meta device."""
    if torch.empty(0).device.type == "meta":
        raise RuntimeError(
            f"You are using `{caller}` with a meta device context manager or default device, which holds no weights. "
            "For a model without weights call its class with a configuration."
        )


def _one_device(device_map: str | int | torch.device | Mapping[str, Any] | None) -> torch.device | None:
    """Return the device that a device map names for the whole model.

    Raises:
        ValueError: if it would split the model, or names no device.
    """
    if isinstance(device_map, Mapping) and set(device_map) == {""}:
        device_map = device_map[""]
    if device_map is None:
        return None
    try:
        return torch.device(device_map)  # type: ignore[arg-type]
    except (RuntimeError, TypeError):
        raise ValueError(
            f"device_map is {shortened(device_map)}, but a model is loaded on one device. Give it, such as "
            'device_map="cuda:0".'
        ) from None


def _find_leading_token(name: str | os.PathLike, family: BackboneFamily, hub: Mapping[str, Any]) -> str | None:
    """Return the token that a backbone expects before the residues, if it does: its vocabulary has it."""
    if not family.leading_tokens:
        return None
    given = {key: value for key, value in hub.items() if value is not None}
    try:
        return family.leading_token(ResidueTokenizer.from_pretrained(name, **given).get_vocab())
    except NoTokenizerError:
        return None  # a tokenizer from elsewhere is compared with the model before it is used


def _resolve_leave_out(
    adapter: str | None, leave_out: Sequence[int] | None, top_blocks: int | None, num_blocks: int
) -> Sequence[int]:
    """Return the numbers of the blocks without an adapter, given in one of two ways."""
    if leave_out is not None and top_blocks is not None:
        raise ValueError("leave_out and top_blocks say the same thing in two ways. Give one of them.")
    if top_blocks is not None:
        if adapter is None:
            raise ValueError("top_blocks was given without an adapter. To train the top k blocks freeze the others.")
        if not isinstance(top_blocks, int) or isinstance(top_blocks, bool) or not 1 <= top_blocks <= num_blocks:
            raise ValueError(f"top_blocks is {top_blocks}. Expected 1 to {num_blocks}, the depth of the backbone.")
        return range(num_blocks - top_blocks)
    if leave_out is not None:
        return leave_out
    return range(int(num_blocks * LEAVE_OUT)) if adapter is not None else ()


def _config_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Check that the configuration has these options; PretrainedConfig would swallow a misspelt one."""
    unknown = sorted(set(options) - OWN_VALUES)
    if unknown:
        known = ", ".join(sorted(OWN_VALUES | {*HUB_OPTIONS}))
        raise TypeError(f"unknown option {unknown[0]!r}. Choose from: {known}.")
    return dict(options)


def as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Return a dtype given by name or as itself; None, for fp32, if it is None or "auto"."""
    if dtype is None or dtype == "auto":
        return None
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"unknown dtype {dtype!r}. Choose one of: bfloat16, float16, float32.")
    return found

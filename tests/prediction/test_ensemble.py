import pytest
import torch
from tiny_models import batch_of_chains, save_tiny_backbone

from lift_ss_hf.models.artefact import read_weights
from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.prediction.ensemble import Ensemble, share_weights


def save_models(tmp_path, options):
    """One folder for each of `options`, over one backbone."""
    backbone = save_tiny_backbone(tmp_path / "backbone", "esm")
    names = []
    for number, option in enumerate(options):
        torch.manual_seed(number)
        model = SecondaryStructureModel.from_backbone(backbone, **{"head_channels": 16, **option})
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        names.append(str(tmp_path / f"model_{number}"))
        model.save_pretrained(names[-1])
    return names


@pytest.mark.parametrize(
    "options",
    [
        [{}, {}, {}],
        [{"max_residues": 12}, {"max_residues": 12}],
        [{"adapter": "lora"}, {"adapter": "mam", "leave_out": [0]}, {"adapter": None}],
        [{"block_mix": "mean"}, {"block_mix": "concat"}],
    ],
)
def test_similarities_are_averaged(tmp_path, options):
    names = save_models(tmp_path, options)
    batch = batch_of_chains("esm", [20, 7])
    inputs = batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        alone = [SecondaryStructureModel.from_pretrained(name)(*inputs, return_similarities=True) for name in names]
        found = Ensemble.from_pretrained(names).eval()(*inputs)
    expected = torch.stack([output.similarities for output in alone]).mean(0)
    torch.testing.assert_close(found.similarities, expected)
    torch.testing.assert_close(found.logits, 18 * expected)


@pytest.mark.parametrize(
    "options",
    [
        [{"loss": "cross_entropy", "calibration_temperature": 1.5}, {"loss": "cross_entropy"}],
        [{}, {"loss": "cross_entropy", "calibration_temperature": 0.7}],
        [{}, {"loss_scale": 5.0}],
    ],
)
def test_log_probabilities_are_averaged_where_similarities_are_not_comparable(tmp_path, options):
    names = save_models(tmp_path, options)
    batch = batch_of_chains("esm", [20, 7])
    models = [SecondaryStructureModel.from_pretrained(name) for name in names]
    with torch.no_grad():
        alone = [model(batch["input_ids"]).logits.log_softmax(-1) for model in models]
        ensemble = Ensemble.from_pretrained(names)
        found = ensemble(batch["input_ids"])
    mean = torch.stack(alone).mean(0)
    torch.testing.assert_close(found.logits, mean)
    temperature = sum(model.config.calibration_temperature for model in models) / len(models)
    torch.testing.assert_close(ensemble.probabilities(found.logits), (mean / temperature).softmax(-1))
    assert found.similarities is None


@pytest.mark.parametrize(
    ("options", "unfrozen"),
    [
        ({"adapter": None, "freeze": None}, ()),
        ({}, ("embeddings",)),
        ({}, ("encoder.layer.1",)),
        ({}, ("encoder.layer.3",)),
    ],
)
def test_models_that_changed_their_backbones_run_their_own(tmp_path, options, unfrozen):
    names = save_models(tmp_path, [options, options])
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        model = SecondaryStructureModel.from_pretrained(name)
        for parameter in (p for part in unfrozen for p in model.backbone.get_submodule(part).parameters()):
            parameter.requires_grad_(True).data.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(name)
    with pytest.raises(ValueError, match=r"must share one frozen backbone, but these .*changed theirs"):
        Ensemble.from_pretrained(names)
    models = [SecondaryStructureModel.from_pretrained(name).requires_grad_(False) for name in names]
    inputs = batch_of_chains("esm", [20, 7])["input_ids"]
    with torch.no_grad():
        expected = [model(inputs, return_similarities=True).similarities for model in models]
        found = Ensemble(models)(inputs).similarities
    torch.testing.assert_close(found, torch.stack(expected).mean(0))


def test_the_backbone_is_in_memory_and_run_once(tmp_path):
    ensemble = Ensemble.from_pretrained(save_models(tmp_path, [{"adapter": "output_bottleneck"}] * 3))
    storages = [{p.data_ptr() for n, p in m.named_parameters() if n in m.frozen_names} for m in ensemble.models]
    assert storages[0] == storages[1] == storages[2]
    trained = [{p.data_ptr() for p in m.parameters() if p.requires_grad} for m in ensemble.models]
    assert not trained[0] & trained[1]
    runs = []
    for model in ensemble.models:
        for block in model.family.blocks(model.backbone):
            block.register_forward_hook(lambda *_: runs.append(1))
    ensemble(batch_of_chains("esm", [9])["input_ids"])
    assert len(runs) == 3 + 3  # the two frozen blocks and the one whose output is adapted once, the top one for each


def test_models_of_different_states_or_families_are_refused(tmp_path):
    names = save_models(tmp_path, [{}, {"states": "q3"}])
    with pytest.raises(ValueError, match="must have the same states, found q3, q9"):
        Ensemble.from_pretrained(names)
    with pytest.raises(ValueError, match="at least one model"):
        Ensemble([])
    t5 = SecondaryStructureModel.from_backbone(save_tiny_backbone(tmp_path / "t5", "t5"), head="linear")
    with pytest.raises(ValueError, match="of the same family, found EsmForSecondaryStructure, T5ForSecondaryStructure"):
        Ensemble([SecondaryStructureModel.from_pretrained(names[0]), t5])


def test_wrong_arguments_are_refused(tmp_path, monkeypatch):
    (name,) = save_models(tmp_path, [{}])
    for names in ([], name):
        with pytest.raises(ValueError, match=r"expected a list of models to load an ensemble, found"):
            Ensemble.from_pretrained(names)
    with pytest.raises(TypeError, match=r"unknown option 'revison'\. Choose from: cache_dir"):
        Ensemble.from_pretrained([name], revison="main")
    SecondaryStructureModel.from_pretrained(name).save_pretrained(tmp_path / "whole", include_backbone=True)
    with pytest.raises(ValueError, match=r"whole: includes its own backbone, which an ensemble cannot share"):
        Ensemble.from_pretrained([name, tmp_path / "whole"])


def test_models_are_fetched_with_the_options_given(tmp_path, monkeypatch):
    names, seen = save_models(tmp_path, [{}, {}]), []

    def reading(name, **options):
        seen.append(options)
        return read_weights(name, **options)

    monkeypatch.setattr("lift_ss_hf.prediction.ensemble.read_weights", reading)
    Ensemble.from_pretrained(names, cache_dir=str(tmp_path / "cache"), token="secret")
    assert seen == [{"cache_dir": str(tmp_path / "cache"), "token": "secret"}] * 2


def test_models_over_different_backbones(tmp_path):
    (name,) = save_models(tmp_path, [{}])
    other = save_tiny_backbone(tmp_path / "other", "esm", initializer_range=0.3)
    tuned = SecondaryStructureModel.from_backbone(other, head="linear")
    tuned.save_pretrained(tmp_path / "tuned")
    with pytest.raises(ValueError, match="must share one frozen backbone, but these were trained on different"):
        Ensemble.from_pretrained([name, tmp_path / "tuned"])
    first, second = SecondaryStructureModel.from_pretrained(name), tuned
    ids = batch_of_chains("esm", [9])["input_ids"]
    expected = first(ids, return_similarities=True).similarities + second(ids, return_similarities=True).similarities
    torch.testing.assert_close(Ensemble([first, second])(ids).similarities, expected / 2)


def test_shared_weights_are_the_same_tensors(tmp_path):
    backbone = SecondaryStructureModel.from_backbone(save_tiny_backbone(tmp_path, "esm"), adapter=None).backbone
    twin = share_weights(backbone)
    assert twin is not backbone
    assert all(a is b for a, b in zip(backbone.parameters(), twin.parameters(), strict=True))
    assert all(a is not b for a, b in zip(backbone.modules(), twin.modules(), strict=True))


def test_models_whose_backbones_expect_other_leading_tokens_are_refused(tmp_path):
    """An ensemble encodes a chain once, for all its models."""
    models = [
        SecondaryStructureModel.from_backbone(save_tiny_backbone(tmp_path / name, name), head="linear")
        for name in ("t5", "prostt5")
    ]
    with pytest.raises(ValueError, match=r"expect different ones before the residues: <AA2fold>, None\."):
        Ensemble(models)

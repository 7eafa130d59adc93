import json

import pytest
from tiny_models import tiny_backbone

from lift_ss_hf.models.bert import BertSecondaryStructureConfig
from lift_ss_hf.models.configuration import (
    BLOCK_MIXES,
    SecondaryStructureConfig,
)
from lift_ss_hf.models.esm import EsmForSecondaryStructure, EsmSecondaryStructureConfig
from lift_ss_hf.models.heads import BLOCK_MIXERS
from lift_ss_hf.models.t5 import T5SecondaryStructureConfig

CLASSES = {"esm": EsmSecondaryStructureConfig, "t5": T5SecondaryStructureConfig, "bert": BertSecondaryStructureConfig}


def config(**options) -> SecondaryStructureConfig:
    return EsmSecondaryStructureConfig(tiny_backbone("esm").config, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "deep"}, r"unknown head 'deep'\. Choose one of: dilated, lift_ss, linear\."),
        ({"loss": "focal"}, r"unknown loss 'focal'\. Choose one of: centroid, cross_entropy, ldam\."),
        ({"states": "q4"}, r"unknown alphabet 'q4'\. Choose one of: q3, q3_lift_ss, q8, q9\."),
        ({"adapter": "houlsby"}, r"unknown adapter 'houlsby'\. Choose one of: bottleneck, .*, unipelt; or None"),
        (
            {"adapter_options": {"rank": 2}},
            r"adapter 'bottleneck' has no option 'rank'\. Choose from: .*, reduction_factor, ",
        ),
        ({"adapter": "lora", "adapter_options": {"leave_out": [1]}}, r"adapter 'lora' has no option 'leave_out'"),
        ({"adapter": None, "adapter_options": {"r": 2}}, r"adapter_options were given without an adapter"),
        ({"leave_out": [1, 4]}, r"leave_out names block 4, but the backbone has 4 blocks, 0 to 3\."),
        ({"leave_out": [-1]}, r"leave_out names block -1"),
        ({"leave_out": range(4)}, r"leave_out names all 4 blocks, so no block has an adapter\. For feature extraction"),
        ({"adapter": None, "leave_out": [0]}, r"leave_out was given without an adapter"),
        ({"freeze": 2}, r"freeze=2 with adapter='bottleneck': an adapter is trained over a frozen backbone"),
        ({"adapter": None, "freeze": 5}, r"freeze is 5\. Expected \"all\", None, or .* from 0 to 4\."),
        ({"adapter": None, "freeze": "some"}, r"freeze is 'some'\. Expected"),
        ({"loss": "ldam"}, r"the ldam loss needs class_counts: .* 9 states \(LBEGIHSTP\)"),
        ({"balance": "inverse"}, r"balance needs class_counts: "),
        ({"balance": "even"}, r"unknown balance 'even'\. Choose one of: inverse, inverse_sqrt\."),
        ({"loss": "ldam", "class_counts": [1, 2]}, r"class_counts is \[1, 2\]\. Expected 9 counts"),
        ({"class_counts": [-1] * 9}, r"Expected 9 counts of 0 or more"),
        ({"head_channels": 6}, r"head_channels is 6\. Expected a multiple of 4"),
        ({"head_dropout": 1.0}, r"head_dropout is 1\.0\. Expected a fraction"),
        ({"head_depth": 0}, r"head_depth is 0, too small\."),
        ({"loss_scale": 0.0}, r"loss_scale is 0\. Expected 0\.001 to 10000\."),
        ({"calibration_temperature": 0.0}, r"calibration_temperature is 0\. Expected 0\.01 to 100\."),
        ({"max_residues": 0}, r"max_residues is 0, too small\."),
        ({"max_residues": 10, "window_overlap": 10}, r"windows of 10 residues cannot overlap by 10\."),
        ({"format_version": 7}, r"format version 7, but this package reads up to 2\. Upgrade"),
        ({"prefix_shift": True}, r"prefix_shift was given, but adapter 'bottleneck' has no prefix\. Leave it out\."),
        ({"prefix_shift": True, "adapter": "mam"}, r"only T5 backbones have distances to shift\. Leave it out\."),
        ({"prefix_shift": 1}, r"prefix_shift is 1\. Expected true or false\."),
        ({"centroid_init": "zeros"}, r"unknown centroid_init 'zeros'\. Choose one of: normal, reference\."),
        ({"backbone_dropout": "off"}, r"unknown backbone_dropout 'off'\. Choose one of: frozen_eval, reference\."),
        ({"adapter_options": {"reduction_factor": 64}}, r"on a backbone of width 32 has a bottleneck of 0\."),
        ({"leave_out": [0.5]}, r"leave_out is \[0\.5\]\. Expected numbers of blocks\."),
        ({"leave_out": 1}, r"leave_out is 1\. Expected numbers of blocks\."),
        ({"leave_out": "12"}, r"leave_out is '12'\. Expected numbers of blocks\."),
        ({"adapter": None, "freeze": True}, r"freeze is True\. Expected \"all\", None"),
        ({"window_overlap": -1}, r"window_overlap is -1, too small\."),
        ({"loss": "ldam", "class_counts": [float("nan")] * 9}, r"class_counts is \[nan, .*Expected a number for each"),
        ({"loss_scale": "a"}, r"loss_scale is 'a'\. Expected a number\."),
        ({"loss_scale": float("inf")}, r"loss_scale is inf\. Expected a number\."),
        ({"head_channels": 8.0}, r"head_channels is 8\.0\. Expected a whole number\."),
        ({"block_mix": "yes"}, "unknown block mix 'yes'"),
        ({"adapter_options": [1]}, r"adapter_options is \[1\]\. Expected a dictionary\."),
        (
            {"adapter": "lora", "adapter_options": {"r": 0}},
            r"option r of adapter 'lora' is 0\. Expected a whole number",
        ),
        ({"adapter_options": {"reduction_factor": "x"}}, r"reduction_factor of adapter 'bottleneck' is 'x'\. Expected"),
        ({"adapter_options": {"non_linearity": "wobbly"}}, r"'wobbly'\. Expected one of: .*relu"),
        (
            {"adapter": "dora", "adapter_options": {"dropout": 1.5}},
            r"dropout of adapter 'dora' is 1\.5\. Expected a fr",
        ),
        (
            {"adapter": "compacter", "adapter_options": {"reduction_factor": 16}},
            r"reduction_factor 16 on a backbone of width 32 has a bottleneck of 2\. Expected a multiple of 4",
        ),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        config(**options)


def test_every_mix_that_can_be_named_can_be_built():
    assert set(BLOCK_MIXES) == set(BLOCK_MIXERS)


@pytest.mark.parametrize("family", CLASSES)
def test_a_configuration_comes_back_from_its_file(family, tmp_path):
    options = {"adapter": "lora", "adapter_options": {"r": 4}, "leave_out": [1, 0], "loss": "ldam"}
    options |= {"class_counts": list(range(8)), "states": "q8", "max_residues": 500, "calibration_temperature": 1.3}
    written = CLASSES[family](tiny_backbone(family).config, backbone_name="a/b", backbone_revision="c0ffee", **options)
    written.save_pretrained(tmp_path)
    read = CLASSES[family].from_pretrained(tmp_path)
    assert read.to_dict() == written.to_dict()
    assert type(read.backbone_config) is type(tiny_backbone(family).config)
    assert read.leave_out == [0, 1]
    assert read.calibration_temperature == 1.3
    assert (read.hidden_size, read.num_blocks) == (32, 4)


def test_values_given_while_loading_are_checked_too(tmp_path):
    config().save_pretrained(tmp_path)
    found = EsmSecondaryStructureConfig.from_pretrained(tmp_path, head_dropout=0.5, leave_out=(2, 1))
    assert (found.head_dropout, found.leave_out) == (0.5, [1, 2])
    with pytest.raises(ValueError, match=r"head_dropout is 5\.0"):
        EsmSecondaryStructureConfig.from_pretrained(tmp_path, head_dropout=5.0)
    with pytest.raises(ValueError, match=r"num_labels follows from states"):
        EsmSecondaryStructureConfig.from_pretrained(tmp_path, num_labels=3)
    assert EsmSecondaryStructureConfig.from_pretrained(tmp_path, states="q9").states == "q9"
    with pytest.raises(ValueError, match=r"was trained for states 'q9', not 'q3'\. Leave out states="):
        EsmSecondaryStructureConfig.from_pretrained(tmp_path, states="q3")


@pytest.mark.parametrize("states", ["q9", "q8", "q3", "q3_lift_ss"])
def test_labels_follow_the_states(states):
    found = config(states=states)
    letters = {"q9": "LBEGIHSTP", "q8": "LBEGIHST", "q3": "CEH", "q3_lift_ss": "CEH"}[states]
    assert found.id2label == dict(enumerate(letters))
    assert found.label2id[letters[-1]] == found.num_labels - 1 == len(letters) - 1


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"num_labels": 3}, "num_labels is 3, but states 'q9' has 9 labels, LBEGIHSTP. Leave num_labels out"),
        ({"id2label": {0: "H", 1: "E", 2: "C"}}, r"id2label is \{0: 'H'.*choose states from: q3, q3_lift_ss, q8, q9"),
        ({"label2id": {"H": 0}}, "label2id is .*but states 'q9' has 9 labels"),
        ({"id2label": True}, "id2label is True, but"),
    ],
)
def test_other_labels_than_those_of_the_states_are_refused(labels, expected):
    with pytest.raises(ValueError, match=expected):
        config(**labels)


def test_labels_that_agree_with_the_states_are_taken():
    letters = "CEH"
    for id2label in ({0: "C", 1: "E", 2: "H"}, {"0": "C", "1": "E", "2": "H"}):
        found = config(states="q3", num_labels=3, id2label=id2label, label2id={s: i for i, s in enumerate(letters)})
        assert found.id2label == dict(enumerate(letters))


def test_labels_set_by_hand_are_checked_before_a_model_is_built():
    changed = config()
    changed.num_labels = 3
    with pytest.raises(ValueError, match=r"id2label is \{0: 'LABEL_0'.*but states 'q9' has 9 labels"):
        EsmForSecondaryStructure(changed)


def test_a_dictionary_given_while_loading_changes_only_the_values_that_it_names(tmp_path):
    config().save_pretrained(tmp_path)
    found = EsmSecondaryStructureConfig.from_pretrained(tmp_path, backbone_config={"hidden_dropout_prob": 0.25})
    expected = {**config().backbone_config.to_dict(), "hidden_dropout_prob": 0.25}
    assert found.backbone_config.to_dict() == {**expected, "_name_or_path": found.backbone_config.name_or_path}


def test_no_folder_that_transformers_noted_down_is_written():
    found = config()
    found.name_or_path = found.backbone_config.name_or_path = "/home/somebody/secret"
    assert "secret" not in json.dumps(found.to_dict()) + found.to_json_string()

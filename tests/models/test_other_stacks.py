"""Models saved under one version of transformers give the same logits under the other, all families."""

import pytest
import torch
from other_stacks import ARTEFACTS, DATA, backbone_of, expected_logits, logits_of

from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.models.tokenization import ResidueTokenizer

STACKS = sorted(DATA.glob("transformers_*"))


def test_both_versions_are_there():
    assert [folder.name.split("_")[1][0] for folder in STACKS] == ["4", "5"]


@pytest.mark.parametrize("stack", STACKS, ids=lambda folder: folder.name)
@pytest.mark.parametrize(("family", "adapter"), ARTEFACTS)
def test_a_model_of_either_version_gives_the_same_logits(stack, family, adapter):
    folder = stack / f"{family}_{adapter}"
    has_backbone = adapter == "bottleneck"
    elsewhere = {} if has_backbone else {"backbone": backbone_of(family)}
    model = SecondaryStructureModel.from_pretrained(folder, **elsewhere)
    torch.testing.assert_close(logits_of(model, family), expected_logits(folder), atol=1e-5, rtol=1e-5)
    if has_backbone:
        tokenizer = ResidueTokenizer.from_pretrained(folder)
        assert len(tokenizer.encode_sequence("MKTAYIAK")) == 8 + tokenizer.num_leading + tokenizer.num_trailing

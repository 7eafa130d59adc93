"""A family of backbones that the package does not know: one file and its registration are enough to train it."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from corpus_files import write_three_line
from small_runs import make_chains, train
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForTokenClassification, PreTrainedTokenizerFast, RobertaConfig, RobertaModel
from transformers.models.roberta import modeling_roberta

from lift_ss_hf import ResidueTokenizer, SecondaryStructureModel, register_family
from lift_ss_hf.hub.push import plan_push
from lift_ss_hf.models import families
from lift_ss_hf.models.adapted_blocks import (
    AttentionEnd,
    AttentionWithAdapters,
    EncoderWithAdapters,
    FeedForwardEnd,
    LayerWithAdapters,
)
from lift_ss_hf.models.backbones import BackboneFamily
from lift_ss_hf.models.bert import BertRow
from lift_ss_hf.models.configuration import SecondaryStructureConfig
from lift_ss_hf.models.esm import EsmForSecondaryStructure
from lift_ss_hf.models.rows import Row
from lift_ss_hf.prediction.predictor import Predictor

# ---- all that a new family needs -----------------------------------------------------------------------------------


class RobertaSelfAttentionWithAdapters(AttentionWithAdapters, modeling_roberta.RobertaSelfAttention):
    def forward(self, hidden_states, attention_mask=None, *_, **__):
        qkv = self.project(hidden_states, self.attention_head_size)
        scale = self.attention_head_size**-0.5
        return self.attend(hidden_states, *qkv, attention_mask, scale=scale, dropout=self.dropout.p)


class RobertaSelfOutputWithAdapters(AttentionEnd, modeling_roberta.RobertaSelfOutput):
    pass


class RobertaOutputWithAdapters(FeedForwardEnd, modeling_roberta.RobertaOutput):
    pass


class RobertaLayerWithAdapters(LayerWithAdapters, modeling_roberta.RobertaLayer):
    pass


class RobertaModelWithAdapters(EncoderWithAdapters, RobertaModel):
    pass


class RobertaFamily(BackboneFamily):
    """RoBERTa: `<s>` residues `</s>`, learned positions that begin after the padding token's number."""

    model_type = "roberta"
    model_class = RobertaModel
    block_class = "RobertaLayer"
    with_adapters = {  # noqa: RUF012
        getattr(modeling_roberta, name, modeling_roberta.RobertaSelfAttention): classes
        for name, classes in {
            "RobertaSelfAttention": RobertaSelfAttentionWithAdapters,
            "RobertaSdpaSelfAttention": RobertaSelfAttentionWithAdapters,  # transformers 4.57
            "RobertaSelfOutput": RobertaSelfOutputWithAdapters,
            "RobertaOutput": RobertaOutputWithAdapters,
            "RobertaLayer": RobertaLayerWithAdapters,
            "RobertaModel": RobertaModelWithAdapters,
        }.items()
    }

    def max_residues(self, config: RobertaConfig) -> int | None:
        """Return the number of positions, less those up to padding's number and the special tokens."""
        return config.max_position_embeddings - config.pad_token_id - 1 - 2

    def make_row(self, backbone: Any, lengths: Sequence[int], shifted_prefix: int = 0) -> Row | None:
        """Return RoBERTa's blocks, which are BERT's, on a row."""
        return BertRow(backbone, lengths)


class RobertaSecondaryStructureConfig(SecondaryStructureConfig):
    model_type = "roberta_secondary_structure"
    backbone_config_class = RobertaConfig


class RobertaForSecondaryStructure(SecondaryStructureModel):
    family = RobertaFamily()
    config_class = RobertaSecondaryStructureConfig


# --------------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(families, "MODEL_CLASSES", dict(families.MODEL_CLASSES))
    register_family(RobertaForSecondaryStructure)


@pytest.fixture
def backbone(tmp_path):
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"ACDEFGHIKLMNPQRSTVWYX"]
    tokenizer = Tokenizer(WordLevel({token: number for number, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split("", "isolated")
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    roles = {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles).save_pretrained(tmp_path / "backbone")
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(tokens), hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48
    )
    RobertaModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "backbone")
    return tmp_path / "backbone"


def test_a_new_family_trains_reloads_and_predicts_in_rows(backbone, tmp_path):
    for name, number, seed in (("train", 48, 0), ("validation", 10, 1), ("test", 10, 2)):
        write_three_line(make_chains(number, seed), tmp_path / f"{name}.txt")
    results = train(tmp_path, tmp_path / "run", "--top_blocks", "1", "--adapter", "lora", "--max_steps", "30")
    learnt = results["learnt"]["q9"]
    assert learnt["trained"] > learnt["untrained"]
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "run" / "model").eval()
    assert type(model) is RobertaForSecondaryStructure
    tokenizer = ResidueTokenizer.from_pretrained(tmp_path / "run" / "model")
    sequences = ["MKTAYIAKQR", "GSHMLEE", "ACDEFGHIKLMNPQRSTVWY"]
    predictor = Predictor(model, tokenizer)
    assert predictor.packed is not None
    for index, probabilities in predictor.predict(sequences):
        tokens = torch.from_numpy(tokenizer.encode_sequence(sequences[index]))[None]
        with torch.no_grad():
            alone = model(tokens).logits.softmax(-1)[0, tokenizer.residue_slice()]
        torch.testing.assert_close(torch.from_numpy(probabilities), alone, atol=1e-5, rtol=0)


def test_a_family_cannot_take_the_place_of_another():
    class Other(EsmForSecondaryStructure):
        pass

    with pytest.raises(ValueError, match="model type 'esm' belong to EsmForSecondaryStructure"):
        register_family(Other)
    register_family(RobertaForSecondaryStructure)  # again is fine
    for wrong in (object, SecondaryStructureModel, RobertaFamily()):
        with pytest.raises(TypeError, match="expected a subclass of SecondaryStructureModel with a family"):
            register_family(wrong)


def test_the_source_of_a_family_outside_the_package_is_not_copied(tmp_path):
    config = RobertaSecondaryStructureConfig(
        RobertaConfig(vocab_size=33, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48),
        adapter=None,
        head="linear",
    )
    model = RobertaForSecondaryStructure(config)
    with pytest.raises(ValueError, match=r"defined in test_new_family\.py, outside this package"):
        model.save_pretrained(tmp_path, include_backbone=True, include_code=True)
    model.save_pretrained(tmp_path / "model", include_backbone=True)
    ResidueTokenizer.from_pretrained("bundled").save_pretrained(tmp_path / "model")
    pushed = plan_push(tmp_path / "model")  # others import the module of the family first
    assert "model.safetensors" in pushed
    assert "esm.py" not in pushed

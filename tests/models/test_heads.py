import pytest
import torch
from tiny_models import tiny_backbone

from lift_ss_hf.models.configuration import HEADS
from lift_ss_hf.models.esm import EsmSecondaryStructureConfig
from lift_ss_hf.models.heads import NORM_EPSILON, ChannelNorm, InceptionEncoder, StateHead, unit_vectors

CASES = [(head, loss) for head in HEADS for loss in ("centroid", "cross_entropy")]


def build_head(head: str, loss: str, **options) -> StateHead:
    config = EsmSecondaryStructureConfig(tiny_backbone("esm").config, head=head, loss=loss, head_channels=16, **options)
    return StateHead(config).eval()


def test_the_inception_head_has_as_many_parameters_as_lift_ss_on_prot_t5():
    encoder = InceptionEncoder(in_channels=1024, channels=1024, depth=2, size=32, dropout=0.2)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 4_698_208  # LIFT_SS.md


def test_the_norm_over_channels_is_that_of_torch():
    norm, values = ChannelNorm(8), torch.randn(2, 8, 5)
    torch.nn.init.normal_(norm.weight)
    expected = torch.nn.functional.rms_norm(values.mT, (8,), norm.weight, NORM_EPSILON).mT
    torch.testing.assert_close(norm(values), expected)


@pytest.mark.parametrize(("head", "loss"), CASES)
def test_what_stands_at_other_tokens_changes_no_residue(head, loss):
    module = build_head(head, loss)
    hidden = torch.randn(2, 30, 32)
    mask = torch.zeros(2, 30, dtype=torch.bool)
    mask[0, 1:29] = mask[1, 1:12] = True
    noisy = torch.where(mask[..., None], hidden, 100 * torch.randn_like(hidden))
    torch.testing.assert_close(module(noisy, mask).logits[mask], module(hidden, mask).logits[mask])
    alone = module(hidden[1:, 1:12], mask[1:, 1:12]).logits[0]
    torch.testing.assert_close(alone, module(hidden, mask).logits[1, 1:12], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("head", "depth", "residues"),
    [
        ("lift_ss", 2, 8),  # 4 of the last convolution, and 1 for each of 2 x 2 units of three on the long path
        ("dilated", 1, 30),  # 2 x (1 + 2 + 4 + 8)
        ("dilated", 2, 60),
    ],
)
def test_a_convolutional_head_sees_neighbouring_residues(head, depth, residues):
    module, mask = build_head(head, "centroid", head_depth=depth), torch.ones(1, 160, dtype=torch.bool)
    hidden = torch.randn(1, 160, 32)
    changed = hidden.clone()
    changed[0, 80] += 1
    differs = (module(hidden, mask).logits != module(changed, mask).logits).any(-1)[0]
    assert differs.nonzero().flatten().tolist() == list(range(80 - residues, 80 + residues + 1))


def test_logits_of_centroids_are_scaled_cosines():
    module = build_head("lift_ss", "centroid", loss_scale=5.0)
    output = module(torch.randn(1, 7, 32), torch.ones(1, 7, dtype=torch.bool))
    x, c = output.embeddings[0], module.classifier.centroids
    x, c = x - x.mean(-1, keepdim=True), c - c.mean(-1, keepdim=True)
    cosines = torch.stack([torch.cosine_similarity(x, centroid[None], dim=-1) for centroid in c], dim=-1)
    torch.testing.assert_close(output.similarities[0], cosines)
    torch.testing.assert_close(output.logits, 5 * output.similarities)


def test_centroids_of_the_reference_start_with_columns_of_length_one():
    classifier = build_head("lift_ss", "centroid", centroid_init="reference").classifier
    torch.testing.assert_close(classifier.centroids.norm(dim=0), torch.ones(32))
    assert (build_head("lift_ss", "centroid").classifier.centroids.norm(dim=0) > 1.2).any()


def test_a_residue_without_any_signal_gives_no_nan():
    vectors = torch.zeros(1, 3, 32, requires_grad=True)
    unit_vectors(vectors).sum().backward()
    assert torch.isfinite(vectors.grad).all()


def test_the_last_classifier_of_a_plain_inception_head_is_that_of_lift_ss():
    relu, linear = build_head("lift_ss", "cross_entropy").classifier
    assert isinstance(relu, torch.nn.ReLU)
    assert linear.weight.shape == (9, 32)
    assert linear.bias is None


@pytest.mark.parametrize(("states", "num_states"), [("q9", 9), ("q8", 8), ("q3", 3)])
def test_there_is_a_logit_for_each_state(states, num_states):
    for head, loss in CASES:
        output = build_head(head, loss, states=states)(torch.randn(1, 4, 32), torch.ones(1, 4, dtype=torch.bool))
        assert output.logits.shape == (1, 4, num_states)
        assert (output.similarities is None) == (loss == "cross_entropy")

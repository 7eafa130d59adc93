import pytest
import torch

from lift_ss_hf.models.losses import margins, residue_loss, state_weights


def test_the_mean_is_over_labelled_residues_only():
    logits = torch.randn(2, 5, 9)
    labels = torch.tensor([[0, 3, -100, 8, -100], [-100, -100, 2, -100, -100]])
    expected = torch.nn.functional.cross_entropy(logits.view(-1, 9), labels.view(-1), ignore_index=-100)
    torch.testing.assert_close(residue_loss(logits, labels), expected)


def test_a_batch_without_labels_contributes_nothing_and_is_no_nan():
    logits = torch.randn(2, 5, 9, requires_grad=True)
    for count in (None, 0, torch.tensor(7)):
        loss = residue_loss(logits, torch.full((2, 5), -100), num_items_in_batch=count)
        loss.backward()
        assert loss == 0
        assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_accumulated_micro_batches_weigh_by_their_residues():
    logits, labels = torch.randn(3, 6, 9), torch.randint(0, 9, (3, 6))
    labels[0, 1:] = -100  # one residue in the first, twelve in the second micro-batch
    count = (labels != -100).sum()
    parts = residue_loss(logits[:1], labels[:1], None, count) + residue_loss(logits[1:], labels[1:], None, count)
    torch.testing.assert_close(parts, residue_loss(logits, labels))


def test_margins_follow_the_fourth_root_and_the_rarest_is_one():
    found = margins([16, 1, 81, 0])
    torch.testing.assert_close(found, torch.tensor([1 / 2, 1, 1 / 3, 1]))


@pytest.mark.parametrize("label", [0, 1])
def test_a_margin_is_taken_off_the_target_alone(label):
    logits = torch.tensor([[[2.0, 1.0]]])
    shifted = logits.clone()
    shifted[..., label] -= 0.5
    labels = torch.tensor([[label]])
    torch.testing.assert_close(residue_loss(logits, labels, torch.tensor([0.5, 0.5])), residue_loss(shifted, labels))


def test_labels_that_are_no_states_are_named():
    logits = torch.zeros(2, 3, 9)
    for label in (9, -1):
        with pytest.raises(ValueError, match=rf"label {label} is not a state\. Expected 0 to 8, or -100 to ignore it"):
            residue_loss(logits, torch.tensor([[0, 1, -100], [2, label, 8]]))
    with pytest.raises(ValueError, match=r"labels have the shape \(2, 2\), expected \(2, 3\)"):
        residue_loss(logits, torch.zeros(2, 2, dtype=torch.int64))


def test_balanced_weights_let_every_state_weigh_the_same():
    counts = [800, 150, 50, 0]
    weights = state_weights(counts, 1.0)
    shares = weights[:3] * torch.tensor(counts[:3])
    torch.testing.assert_close(shares, shares[:1].expand(3))
    for power in (0.0, 0.5, 1.0):
        weights = state_weights(counts, power)
        assert float((weights * torch.tensor(counts)).sum()) == pytest.approx(1000)
        assert weights[3] == 1
    torch.testing.assert_close(state_weights(counts, 0.0), torch.ones(4))


def test_a_residue_counts_as_much_as_its_state():
    logits, labels = torch.randn(1, 6, 3), torch.tensor([[0, 1, 2, -100, 0, 0]])
    weight = torch.tensor([0.5, 2.0, 4.0])
    each = torch.nn.functional.cross_entropy(logits[0], labels[0], reduction="none", ignore_index=-100)
    expected = (each * torch.tensor([0.5, 2.0, 4.0, 0.0, 0.5, 0.5])).sum() / 5
    torch.testing.assert_close(residue_loss(logits, labels, weight=weight), expected)
    torch.testing.assert_close(residue_loss(logits, labels, weight=weight, num_items_in_batch=10), expected / 2)

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tapetum.errors import ConfigError
from tapetum.modules.losses import BinaryCrossEntropy, CrossEntropy, Sum

LOGITS = torch.tensor([1.5, -0.3, 0.2, -2.0])
LABELS = torch.tensor([1, 1, 0, 0])


def log_sigmoid(z: float) -> float:
    return -math.log1p(math.exp(-z))


@given(smoothing=st.floats(0, 0.9), real=st.floats(0.1, 5), generated=st.floats(0.1, 5))
def test_binary_cross_entropy_is_its_closed_form(smoothing, real, generated):
    total = 0.0
    for z, y in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        target = y * (1 - smoothing) + smoothing / 2
        weight = generated if y else real
        total -= weight * (target * log_sigmoid(z) + (1 - target) * log_sigmoid(-z))
    loss = BinaryCrossEntropy(class_weights=[real, generated], label_smoothing=smoothing)
    assert float(loss(LOGITS, LABELS)) == pytest.approx(total / 4, rel=1e-5)


@given(smoothing=st.floats(0, 0.9), weights=st.lists(st.integers(1, 5), min_size=3, max_size=3))
def test_cross_entropy_is_its_closed_form(smoothing, weights):
    logits = torch.tensor([[0.3, -1.0, 2.0], [1.0, 1.0, -0.5], [0.0, 0.4, 0.1]])
    targets = [2, 0, 1]
    above, below = 0.0, 0.0
    for row, target in zip(logits.tolist(), targets, strict=True):
        logs = [z - math.log(sum(math.exp(other) for other in row)) for z in row]
        own = (1 - smoothing) * weights[target] * logs[target]
        spread = smoothing / 3 * sum(w * log for w, log in zip(weights, logs, strict=True))
        above, below = above - own - spread, below + weights[target]
    loss = CrossEntropy(class_weights=weights, label_smoothing=smoothing)
    assert float(loss(logits, torch.tensor(targets))) == pytest.approx(above / below, rel=1e-5)


def test_a_two_way_head_is_the_binary_loss_of_its_difference():
    two = torch.stack(
        [torch.tensor([0.7, -0.1, 0.4, 2.0]), torch.tensor([0.7, -0.1, 0.4, 2.0]) + LOGITS], dim=1
    )
    assert float(CrossEntropy()(two, LABELS)) == pytest.approx(
        float(BinaryCrossEntropy()(LOGITS, LABELS)), rel=1e-6
    )


def test_balanced_weights_make_the_classes_count_alike():
    loss = BinaryCrossEntropy(class_weights="balanced")
    loss.fit_classes([30, 10])
    assert loss.weights.tolist() == pytest.approx([40 / 60, 40 / 20])
    by_hand = BinaryCrossEntropy(class_weights=[40 / 60, 2.0])
    assert float(loss(LOGITS, LABELS)) == pytest.approx(float(by_hand(LOGITS, LABELS)))
    assert "weights" not in loss.state_dict()


def test_balanced_weights_need_every_class_and_their_counts():
    with pytest.raises(ConfigError, match=r"images of every class, but the training split has \[3, 0\]"):
        BinaryCrossEntropy(class_weights="balanced").fit_classes([3, 0])
    with pytest.raises(ConfigError, match="class_weights=balanced needs the images of each class"):
        BinaryCrossEntropy(class_weights="balanced")(LOGITS, LABELS)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: BinaryCrossEntropy("balance"),
            "class_weights=balance: balanced, or a number",
        ),
        (lambda: BinaryCrossEntropy(label_smoothing=1.0), r"label_smoothing=1.0 must lie in \[0, 1\)"),
        (
            lambda: BinaryCrossEntropy([1.0, 2.0, 3.0])(LOGITS, LABELS),
            "3 numbers, but there are 2",
        ),
        (
            lambda: CrossEntropy([1.0, 2.0])(torch.zeros(4, 3), LABELS),
            "2 numbers, but there are 3",
        ),
        (
            lambda: BinaryCrossEntropy()(torch.zeros(4, 2), LABELS),
            r"\(4, 2\): type model.net.classes=1",
        ),
        (lambda: CrossEntropy()(LOGITS, LABELS), r"returned \(4,\): type model.net.classes=2"),
    ],
)
def test_a_loss_that_does_not_fit_says_what_to_type(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_a_sum_weighs_modules_and_plain_functions():
    def hinge(logits, labels):
        return (1 - (2 * labels - 1) * logits).clamp(min=0).mean()

    both = Sum([BinaryCrossEntropy(), hinge], [0.25, 2.0])
    expected = 0.25 * BinaryCrossEntropy()(LOGITS, LABELS) + 2 * hinge(LOGITS, LABELS)
    assert float(both(LOGITS, LABELS)) == pytest.approx(float(expected))


def test_a_sum_passes_the_class_counts_on():
    class Own(torch.nn.Module):
        def fit_classes(self, counts):
            self.counts = counts

    own, ours = Own(), BinaryCrossEntropy("balanced")
    Sum([own, ours], [1.0, 1.0]).fit_classes([1, 3])
    assert own.counts == [1, 3]
    assert ours.weights.tolist() == pytest.approx([2.0, 2 / 3])


def test_half_precision_logits_are_summed_in_float32():
    loss = BinaryCrossEntropy()(LOGITS.bfloat16(), LABELS)
    assert loss.dtype == torch.float32


def test_a_sum_names_its_terms_and_weighs_them_equally_unless_told():
    terms = [BinaryCrossEntropy(), BinaryCrossEntropy(label_smoothing=0.5)]
    first, second = (float(term(LOGITS, LABELS)) for term in terms)
    assert float(Sum(terms)(LOGITS, LABELS)) == pytest.approx(first + second)
    assert float(Sum(terms, [0.5, 3])(LOGITS, LABELS)) == pytest.approx(0.5 * first + 3 * second)
    with pytest.raises(ConfigError, match=r"model\.loss has 2 terms and 1 weights"):
        Sum(terms, [1.0])
    with pytest.raises(ConfigError, match=r"model\.loss\.terms is empty"):
        Sum([])

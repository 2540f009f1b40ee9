import math

import pytest
import torch
import torchmetrics
from sklearn import metrics as sk
from tapetum.errors import ConfigError
from tapetum.metrics.own import checked_metrics, own_metrics
from torchmetrics import classification as tm

# All within [0, 1], where torchmetrics would take logits for probabilities.
LOGITS = torch.tensor([0.1, 0.9, 0.3, 0.7, 0.2, 0.6])
LABELS = torch.tensor([0, 1, 1, 0, 0, 1])


def found(logits=LOGITS, labels=LABELS, **metrics):
    return own_metrics(checked_metrics(metrics), logits, labels)


def test_a_metric_of_torchmetrics_judges_probabilities_whatever_the_range_of_the_logits():
    figures = found(kappa=tm.BinaryCohenKappa(), accuracy_at_07=tm.BinaryAccuracy(threshold=0.7))
    probabilities = torch.sigmoid(LOGITS).numpy()
    assert figures["kappa"] == pytest.approx(sk.cohen_kappa_score(LABELS, probabilities > 0.5))
    assert figures["accuracy_at_07"] == pytest.approx(sk.accuracy_score(LABELS, probabilities > 0.7))


def test_rankings_of_large_logits_are_kept():
    logits = torch.tensor([18.0, 19.0, 20.0, 21.0])  # 1.0 as float32 probabilities, all of them
    assert found(logits, torch.tensor([0, 0, 1, 1]), auroc=tm.BinaryAUROC())["auroc"] == 1.0


def test_a_callable_gets_logits_and_labels():
    def mean_of_generated(logits, labels):
        assert (logits.dtype, labels.dtype) == (torch.float32, torch.int64)
        return logits[labels == 1].mean()

    class Count:
        def __call__(self, logits, labels):
            return len(logits)

    figures = found(LOGITS.to(torch.bfloat16), mean=mean_of_generated, count=Count(), gone=None)
    assert figures == {"mean": pytest.approx(0.6, abs=1e-2), "count": 6.0}


def test_nothing_of_a_split_stays_behind():
    metrics = checked_metrics({"accuracy": tm.BinaryAccuracy()})
    first = own_metrics(metrics, LOGITS, LABELS)
    own_metrics(metrics, -LOGITS, LABELS)
    assert own_metrics(metrics, LOGITS, LABELS) == first


def test_what_has_been_gathered_is_not_gathered_again():
    wrapped = torchmetrics.wrappers.BootStrapper(tm.BinaryAccuracy(), num_bootstraps=2)
    checked_metrics({"wrapped": wrapped})
    inner = [part for part in wrapped.modules() if isinstance(part, torchmetrics.Metric)]
    assert len(inner) > 1
    assert not any(part.distributed_available_fn() for part in inner)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda a, b: {"x": 1}, r"model.metrics.mine returned a dict: a metric returns one number"),
        (lambda a, b: a, r"returned a Tensor of shape \[6\]: a metric returns one number"),
        (lambda a, b: None, r"returned a NoneType"),
        (tm.BinaryROC(), r"returned a tuple"),
    ],
)
def test_a_result_that_is_not_one_number_is_refused(metric, message):
    with pytest.raises(ConfigError, match=message):
        found(mine=metric)


def test_what_cannot_be_called_is_no_metric():
    with pytest.raises(ConfigError, match=r"model.metrics.mine is 0.5 and no metric: .*_partial_=true"):
        checked_metrics({"mine": 0.5})


def test_an_undefined_figure_is_nan():
    assert math.isnan(found(mine=lambda logits, labels: float("nan"))["mine"])

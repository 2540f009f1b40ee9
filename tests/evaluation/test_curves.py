import numpy as np
import pytest
from sklearn import metrics as sk
from tapetum.evaluation.curves import confusion, most_confidently_wrong, precision_recall, roc

from evaluation.prediction_tables import predictions, random_predictions


def test_roc_is_sklearns_with_ties():
    table = random_predictions(301)
    fpr, tpr, _ = sk.roc_curve(table["label"].to_numpy(), table["logit"].to_numpy(), drop_intermediate=False)
    found = roc(table)
    np.testing.assert_allclose(found[0], fpr)
    np.testing.assert_allclose(found[1], tpr)


def test_precision_recall_is_sklearns_with_ties():
    table = random_predictions(301)
    precision, recall, _ = sk.precision_recall_curve(table["label"].to_numpy(), table["logit"].to_numpy())
    found = precision_recall(table)
    # sklearn ends with a point of precision 1 and recall 0 that no threshold gives
    np.testing.assert_allclose(found[0], recall[-2::-1])
    np.testing.assert_allclose(found[1], precision[-2::-1])


@pytest.mark.parametrize("labels", [[], [0, 0], [1, 1]])
def test_curves_of_fewer_than_two_classes_are_empty(labels):
    table = predictions(labels, [0.5] * len(labels))
    assert [len(part) for part in (*roc(table), *precision_recall(table))] == [0, 0, 0, 0]


def test_confusion_is_sklearns_and_a_logit_at_the_threshold_is_real():
    table = random_predictions(200)
    counts = confusion(table, 0.3)
    expected = sk.confusion_matrix(table["label"].to_numpy(), table["logit"].to_numpy() > np.float32(0.3))
    assert [counts.real_as_real, counts.real_as_generated] == expected[0].tolist()
    assert [counts.generated_as_real, counts.generated_as_generated] == expected[1].tolist()
    assert confusion(predictions([1], [0.0])).generated_as_real == 1


def test_the_most_confidently_wrong_come_first_and_ties_keep_their_order():
    table = predictions([0, 1, 1, 0, 1, 0], [3.0, -5.0, 2.0, 3.0, 0.0, -9.0])
    assert most_confidently_wrong(table)["index"].to_pylist() == [1, 0, 3, 4]
    assert most_confidently_wrong(table, 2)["index"].to_pylist() == [1, 0]
    assert len(most_confidently_wrong(table.slice(0, 0))) == 0

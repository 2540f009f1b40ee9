import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN
from tapetum.errors import DataError, TrainingError
from tapetum.metrics.neighbours import nearest
from tapetum.metrics.retrieval import RULES, answer, cmc, confusion, figures, retrieval_metrics
from torch.nn.functional import normalize
from torchmetrics.functional.retrieval import (
    retrieval_average_precision,
    retrieval_hit_rate,
    retrieval_r_precision,
)


def units(rows, dimensions=16, seed=0):
    return normalize(torch.randn(rows, dimensions, generator=torch.manual_seed(seed)))


def task(queries=60, gallery=200, classes=7, dimensions=16, seed=0, noise=0.6):
    """(queries, labels, gallery, labels): a cluster a class, overlapping."""
    generator = torch.manual_seed(seed)
    centres = normalize(torch.randn(classes, dimensions, generator=generator))
    labels = torch.randint(classes, (queries + gallery,), generator=generator)
    vectors = normalize(centres[labels] + noise * torch.randn(len(labels), dimensions, generator=generator))
    return vectors[:queries], labels[:queries], vectors[queries:], labels[queries:]


def cameras(queries, gallery, count=3, seed=0):
    generator = np.random.default_rng(seed)
    return tuple(torch.from_numpy(generator.integers(count, size=n)) for n in (queries, gallery))


def agw(queries, query_labels, gallery, gallery_labels, groups=None):
    """CMC, mAP and mINP as the code of AGW computes them for Market-1501, one query at a time.

    The ranking without the junk (same identity, same camera), as a list of right and wrong: CMC is its
    running maximum; AP the mean of the precision at its right entries; INP the number of right entries over
    the rank of the last one. A query without a right entry does not count.
    """
    order = np.argsort(-(queries.double() @ gallery.double().T).numpy(), axis=1, kind="stable")
    curves, precisions, penalties = [], [], []
    for number, ranking in enumerate(order):
        right = (gallery_labels[ranking] == query_labels[number]).numpy()
        if groups is not None:
            right = right[~(right & (groups[1][ranking] == groups[0][number]).numpy())]
        if not right.any():
            continue
        found = right.cumsum()
        ranks = np.flatnonzero(right) + 1
        curves.append(np.pad(np.minimum(found, 1), (0, len(ranking) - len(right)), constant_values=1))
        precisions.append((found[right] / ranks).mean())
        penalties.append(right.sum() / ranks[-1])
    return np.mean(curves, axis=0), np.mean(precisions), np.mean(penalties), len(curves)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cmc_map_and_minp_are_those_of_agw(grouped, seed):
    data = task(seed=seed)
    groups = cameras(60, 200, seed=seed) if grouped else None

    answers = answer(*data, groups=groups)

    curve, mean_ap, minp, count = agw(*data, groups)
    found = figures(answers)
    assert int(answers.known.sum()) == count
    np.testing.assert_allclose(cmc(answers).numpy(), curve, atol=1e-12)
    assert found["map"] == pytest.approx(mean_ap, abs=1e-12)
    assert found["minp"] == pytest.approx(minp, abs=1e-12)
    for k in (1, 5, 10):
        assert found[f"recall_at_{k}"] == pytest.approx(curve[k - 1], abs=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rankings_are_those_of_pytorch_metric_learning(seed):
    queries, query_labels, gallery, gallery_labels = data = task(seed=seed)

    def oracle(k):
        calculator = AccuracyCalculator(
            include=(
                "precision_at_1",
                "r_precision",
                "mean_average_precision",
                "mean_average_precision_at_r",
            ),
            k=k,
            knn_func=CustomKNN(CosineSimilarity()),
            device=torch.device("cpu"),
        )
        return calculator.get_accuracy(queries, query_labels, gallery, gallery_labels)

    found, expected = retrieval_metrics(*data), oracle("max_bin_count")
    assert found["nn_accuracy"] == pytest.approx(expected["precision_at_1"], abs=1e-9)
    assert found["r_precision"] == pytest.approx(expected["r_precision"], abs=1e-9)
    assert found["map_at_r"] == pytest.approx(expected["mean_average_precision_at_r"], abs=1e-9)
    assert found["map"] == pytest.approx(oracle(len(gallery))["mean_average_precision"], abs=1e-9)


def test_rankings_are_those_of_torchmetrics():
    queries, query_labels, gallery, gallery_labels = data = task()

    answers = answer(*data)

    for number, scores in enumerate(queries @ gallery.T + 2):  # it takes no document of a score below 0
        right = gallery_labels == query_labels[number]
        assert float(answers.average_precision[number]) == pytest.approx(
            float(retrieval_average_precision(scores, right)), abs=1e-6
        )
        assert float(answers.r_precision[number]) == pytest.approx(
            float(retrieval_r_precision(scores, right)), abs=1e-6
        )
        for k in (1, 5, 10):
            expected = float(retrieval_hit_rate(scores, right, top_k=k))
            assert float(0 < answers.first[number] <= k) == expected


@pytest.mark.parametrize("grouped", [False, True])
def test_each_rule_decides_as_a_loop_does(grouped):
    queries, query_labels, gallery, gallery_labels = data = task(noise=1.0)
    groups = cameras(60, 200) if grouped else None

    answers = answer(*data, k=10, groups=groups)

    for number, query in enumerate(queries.double().numpy()):
        junk = np.zeros(200, bool)
        if groups is not None:
            junk = ((gallery_labels == query_labels[number]) & (groups[1] == groups[0][number])).numpy()
        left, labels = gallery.double().numpy()[~junk], gallery_labels.numpy()[~junk]
        nearest_first = labels[np.argsort(-left @ query, kind="stable")].tolist()
        votes = nearest_first[:10]
        most = max(votes.count(label) for label in votes)
        means = {label: left[labels == label].mean(axis=0) for label in sorted(set(labels.tolist()))}
        cosines = {label: mean @ query / np.linalg.norm(mean) for label, mean in means.items()}
        assert int(answers.predicted["nearest"][number]) == nearest_first[0]
        assert int(answers.predicted["knn"][number]) == next(v for v in votes if votes.count(v) == most)
        assert int(answers.predicted["centroid"][number]) == max(cosines, key=cosines.__getitem__)


def test_accuracy_is_plain_balanced_and_per_class():
    data = task(queries=90, classes=4, noise=1.0)
    names = {0: "cat", 1: "dog", 2: "bird", 3: "fish"}

    answers = answer(*data)
    found = figures(answers, names)

    for rule, name in zip(RULES, ("nn", "knn", "centroid"), strict=True):
        right = (answers.predicted[rule] == data[1]).double()
        per_class = {label: float(right[data[1] == label].mean()) for label in names}
        assert found[f"{name}_accuracy"] == pytest.approx(float(right.mean()))
        assert found[f"{name}_balanced_accuracy"] == pytest.approx(sum(per_class.values()) / 4)
        for label, value in per_class.items():
            assert found[f"class/{names[label]}/{name}_accuracy"] == pytest.approx(value)
    assert found["class/dog/map_at_r"] == pytest.approx(float(answers.map_at_r[data[1] == 1].mean()))
    assert found["nn_accuracy"] == found["recall_at_1"]


def test_of_equally_frequent_labels_the_one_with_the_nearer_row_wins():
    angles = torch.tensor([0.1, 0.2, 0.3, 0.4, 2.0])
    gallery = torch.stack([angles.cos(), angles.sin()], dim=1)
    query = torch.tensor([[1.0, 0.0]])

    answers = answer(query, torch.tensor([9]), gallery, torch.tensor([5, 2, 2, 5, 9]), k=4)

    assert int(answers.predicted["knn"][0]) == 5
    assert int(answers.predicted["nearest"][0]) == 5


def test_a_query_that_the_gallery_lacks_is_counted_and_kept_out_of_the_other_figures():
    queries, query_labels, gallery, gallery_labels = task()
    strangers = query_labels.clone()
    strangers[:6] = 99

    answers = answer(queries, strangers, gallery, gallery_labels)

    found = figures(answers, {label: str(label) for label in range(100)})
    rest = retrieval_metrics(queries[6:], query_labels[6:], gallery, gallery_labels)
    assert found["unknown_queries"] == 6
    assert found["coverage"] == pytest.approx(54 / 60)
    for name in rest.keys() - {"unknown_queries", "coverage"}:
        assert found[name] == pytest.approx(rest[name], abs=1e-12)
    assert not answers.known[:6].any()
    assert not answers.hits("knn")[:6].any()
    assert answers.average_precision[:6].isnan().all()
    assert (answers.predicted["nearest"][:6] >= 0).all()  # what each is taken for
    assert "class/99/nn_accuracy" not in found


def test_a_query_whose_right_rows_are_all_junk_is_unknown():
    queries, gallery = units(2), units(5, seed=1)
    labels = torch.tensor([0, 1]), torch.tensor([0, 0, 1, 1, 2])
    groups = torch.tensor([3, 3]), torch.tensor([3, 3, 3, 4, 3])

    answers = answer(queries, labels[0], gallery, labels[1], groups=groups)

    assert answers.known.tolist() == [False, True]
    assert not set(answers.rows[0].tolist()) & {0, 1}
    assert 0 not in answers.predicted["centroid"].tolist()[:1]


def test_without_any_known_query_the_figures_are_nan():
    found = retrieval_metrics(units(3), torch.tensor([7, 8, 9]), units(4), torch.tensor([0, 1, 2, 3]))

    assert found["unknown_queries"] == 3
    assert found["coverage"] == 0
    assert all(math.isnan(found[name]) for name in ("map", "recall_at_1", "knn_accuracy", "minp"))


def test_a_gallery_smaller_than_k_votes_with_what_it_has():
    answers = answer(units(3), torch.tensor([0, 0, 1]), units(2, seed=1), torch.tensor([0, 1]), k=10)

    assert answers.rows[:, 2:].tolist() == [[-1] * 8] * 3
    assert torch.equal(answers.predicted["knn"], answers.predicted["nearest"])
    assert cmc(answers).tolist()[-1] == 1.0


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 30), st.integers(2, 90), st.integers(0, 2**20))
def test_chunks_change_no_answer_and_neighbours_are_those_of_nearest(queries, gallery, seed):
    generator = torch.manual_seed(seed)
    q = normalize(torch.randn(queries, 3, generator=generator).round() + 0.5)
    g = normalize(torch.randn(gallery, 3, generator=generator).round() + 0.5)
    labels = [torch.randint(4, (n,), generator=generator) for n in (queries, gallery)]

    whole = answer(q, labels[0], g, labels[1])
    parts = answer(q, labels[0], g, labels[1], chunk_bytes=1)

    for name in ("similarity", "rows", "first", "known"):
        assert torch.equal(getattr(whole, name), getattr(parts, name))
    assert torch.equal(whole.average_precision.nan_to_num(-1), parts.average_precision.nan_to_num(-1))
    similarity, rows = nearest(q, g, 10)
    assert torch.equal(whole.rows, rows)
    assert torch.equal(whole.similarity, similarity)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**20))
def test_figures_lie_between_bounds_and_in_order(seed):
    found = retrieval_metrics(*task(20, 50, 4, 4, seed))

    assert all(0 <= value <= 1 for name, value in found.items() if name != "unknown_queries")
    assert found["recall_at_1"] <= found["recall_at_5"] <= found["recall_at_10"]
    assert found["map_at_r"] <= found["r_precision"] + 1e-12


def test_the_same_vectors_give_the_same_answers_in_half_precision_on_both_sides():
    queries, query_labels, gallery, gallery_labels = task(noise=0.3)

    halves = answer(queries.half(), query_labels, gallery.half(), gallery_labels)

    floats = answer(queries.half().float(), query_labels, gallery.half().float(), gallery_labels)
    assert torch.equal(halves.rows, floats.rows)
    assert torch.equal(halves.similarity, floats.similarity)
    assert torch.equal(halves.predicted["centroid"], floats.predicted["centroid"])


def test_random_embeddings_give_chance_on_every_rule():
    classes, queries = 8, 1000
    generator = torch.manual_seed(0)
    share = torch.tensor([0.5, *[0.5 / 7] * 7])  # half of the images are of one class, as in the solar set
    labels = [
        torch.multinomial(share, count, replacement=True, generator=generator) for count in (queries, 2000)
    ]

    found = retrieval_metrics(units(queries, 64), labels[0], units(2000, 64, seed=1), labels[1])

    counts = torch.bincount(labels[0]).double()
    chance = 1 / classes
    # Each class's accuracy is a share of its queries; at most a quarter is the variance of one of them.
    error = float((0.25 / counts).sum().sqrt()) / classes
    for rule in ("nn", "knn", "centroid"):
        assert found[f"{rule}_balanced_accuracy"] == pytest.approx(chance, abs=4 * error)
    assert found["map"] == pytest.approx(float((share**2).sum()), abs=0.02)


@pytest.mark.parametrize("grouped", [False, True])
def test_embeddings_that_are_all_the_same_win_nothing_by_rounding(grouped):
    one = units(1, 512)
    labels = torch.arange(40) % 8, torch.arange(80) % 8
    groups = cameras(40, 80) if grouped else None

    answers = answer(one.expand(40, -1), labels[0], one.expand(80, -1), labels[1], groups=groups)

    found = figures(answers)
    assert answers.known.all()
    for rule in ("nn", "knn", "centroid"):
        assert found[f"{rule}_balanced_accuracy"] <= 1 / 8


def test_the_confusion_matrix_counts_every_query_once():
    queries, query_labels, gallery, gallery_labels = task(classes=3)
    query_labels = query_labels.clone()
    query_labels[0] = 3

    answers = answer(queries, query_labels, gallery, gallery_labels)
    counts = confusion(answers, "knn", [0, 1, 2, 3])

    assert counts.sum() == 60
    assert counts[3].sum() == 1
    assert counts[:, 3:].sum() == 0
    assert counts.diagonal().sum() == answers.hits("knn").sum()
    with pytest.raises(ValueError, match="a query of label 3 taken for"):
        confusion(answers, "knn", [0, 1, 2])


def test_no_row_left_is_a_column_of_its_own():
    groups = torch.tensor([1]), torch.tensor([1, 1])

    answers = answer(units(1), torch.tensor([0]), units(2), torch.tensor([0, 0]), groups=groups)

    assert [int(answers.predicted[rule]) for rule in RULES] == [-1, -1, -1]
    assert confusion(answers, "centroid", [0]).tolist() == [[0, 1]]


def test_bad_input_is_refused():
    q, g, labels = units(3), units(4), torch.tensor([0, 1, 2, 3])
    broken = g.clone()
    broken[2, 0] = math.nan
    with pytest.raises(TrainingError, match="embeddings of the gallery are not finite, the first is row 2"):
        retrieval_metrics(q, labels[:3], broken, labels)
    with pytest.raises(DataError, match=r"gallery \[0, 16\]: there is no vector"):
        retrieval_metrics(q, labels[:3], g[:0], labels[:0])
    with pytest.raises(DataError, match=r"queries \[0, 16\]: there is no vector"):
        retrieval_metrics(q[:0], labels[:0], g, labels)
    with pytest.raises(ValueError, match=r"query labels must be int64 \[3\]"):
        retrieval_metrics(q, labels, g, labels)
    with pytest.raises(ValueError, match=r"gallery labels must be int64 \[4\], not torch.float32"):
        retrieval_metrics(q, labels[:3], g, labels.float())
    with pytest.raises(ValueError, match="gallery labels must not be negative, row 0 is"):
        retrieval_metrics(q, labels[:3], g, labels - 1)

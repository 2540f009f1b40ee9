import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix
from sklearn.neighbors import KNeighborsClassifier
from tapetum.errors import ConfigError, DataError, TapetumError
from tapetum.evaluation.retrieval import check_disjoint, evaluate, figures, intervals, judge, judge_splits
from tapetum.evaluation.retrieval_predictions import embeddings
from tapetum.evaluation.retrieval_tables import class_table, confusion, outcomes, separation
from tapetum.metrics.embedding_health import embedding_health
from tapetum.metrics.intervals import wilson
from tapetum.metrics.open_set import open_set
from tapetum.metrics.retrieval import retrieval_metrics

from evaluation.embedding_tables import embedding_table, searched


def test_figures_are_those_of_the_metrics_by_the_names_of_the_data():
    queries, gallery = searched()

    found = evaluate(queries, gallery)

    x, y = (torch.from_numpy(embeddings(side)) for side in (queries, gallery))
    labels = [torch.from_numpy(side["label"].to_numpy().copy()) for side in (queries, gallery)]
    expected = retrieval_metrics(x, labels[0], y, labels[1], classes=dict(enumerate("abcde")))
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["accuracy"] == found["knn_accuracy"]
    assert found["embedding/std"] == embedding_health(x).std
    assert found["embedding/intra"] == embedding_health(x, labels[0]).intra
    assert found["unknown_queries"] == int((labels[0] == 4).sum())
    assert not any(name.startswith("class/e/") for name in found)  # no query of it is known


def test_knn_without_ties_is_that_of_scikit_learn():
    queries, gallery = searched(classes=3)
    queries = queries.filter(pa.array(queries["label"].to_numpy() < 2))
    oracle = KNeighborsClassifier(n_neighbors=7, metric="cosine", algorithm="brute")  # 7 votes of two: no tie

    found = evaluate(queries, gallery, k=7)

    said = oracle.fit(embeddings(gallery), gallery["label"].to_numpy()).predict(embeddings(queries))
    labels = queries["label"].to_numpy()
    assert found["knn_accuracy"] == pytest.approx((said == labels).mean())
    assert found["knn_balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, said))


@pytest.mark.parametrize(("rule", "name"), [("nearest", "nn"), ("knn", "knn"), ("centroid", "centroid")])
def test_the_rule_that_is_chosen_decides_accuracy_confusion_and_outcomes(rule, name):
    judged = judge(*searched(), rule=rule)

    found, matrix, lines = figures(judged), confusion(judged), outcomes(judged).to_pylist()

    known = [line for line in lines if line["known"]]
    assert found["accuracy"] == found[f"{name}_accuracy"] == pytest.approx(np.mean([x["hit"] for x in known]))
    assert found["balanced_accuracy"] == found[f"{name}_balanced_accuracy"]
    pairs = [(line["class"], line["predicted"]) for line in lines]
    names = list("abcde")
    assert matrix.names == names
    assert matrix.counts[:, :5].tolist() == confusion_matrix(*zip(*pairs, strict=True), labels=names).tolist()
    assert matrix.counts[:, 5].tolist() == [0] * 5
    assert sum(line["hit"] for line in lines) == np.trace(matrix.counts)


def test_roles_of_one_table_say_who_asks_and_who_is_searched():
    queries, gallery = searched()
    both = pa.concat_tables([gallery, queries])
    both = both.set_column(0, "index", pa.array(range(len(both))))

    assert evaluate(both) == pytest.approx(evaluate(queries, gallery), nan_ok=True)


def test_outcomes_hold_what_a_report_shows_of_a_query():
    queries, gallery = searched(gallery=6)

    judged = judge(queries, gallery)
    lines = outcomes(judged).to_pylist()

    cosine = embeddings(queries) @ embeddings(gallery).T
    labels = gallery["label"].to_numpy()
    for number, line in enumerate(lines):
        order = np.argsort(-cosine[number], kind="stable")
        assert line["path"] == f"query/{number}.png"
        assert line["neighbours"] == order.tolist()
        assert line["similarities"] == pytest.approx(cosine[number][order].tolist(), abs=1e-6)
        right = np.flatnonzero(labels[order] == queries["label"][number].as_py())
        assert line["known"] == (len(right) > 0)
        assert line["first"] == (right[0] + 1 if len(right) else None)
        assert (line["average_precision"] is None) == (not len(right))


def test_the_class_table_adds_up():
    judged = judge(*searched(), rule="nearest")

    lines = class_table(judged).to_pylist()

    found = figures(judged)
    assert [line["class"] for line in lines] == list("abcde")
    assert sum(line["queries"] for line in lines) == 80
    assert sum(line["gallery"] for line in lines) == 150
    assert sum(line["unknown"] for line in lines) == found["unknown_queries"] == lines[4]["queries"]
    for line in lines[:4]:
        assert line["nn_accuracy"] == pytest.approx(found[f"class/{line['class']}/nn_accuracy"])
        assert line["map_at_r"] == pytest.approx(found[f"class/{line['class']}/map_at_r"])
        right = round(line["nn_accuracy"] * line["queries"])
        assert (line["low"], line["high"]) == wilson(right, line["queries"])
    assert lines[4]["nn_accuracy"] is lines[4]["low"] is None
    assert lines[4]["gallery"] == 0


@pytest.mark.parametrize("column", ["camera", "sequence"])
def test_rows_of_the_same_class_and_camera_or_sequence_are_left_out(column):
    vectors = [[1, 0, 0], [0.99, 0.1, 0], [0.8, 0.6, 0], [0.95, 0, 0.3]]
    gallery = embedding_table(vectors[1:], [0, 0, 1], "gallery", **{column: ["x", "y", "x"]})
    queries = embedding_table(vectors[:1], [0], **{column: ["x"]})

    alone, without = evaluate(queries, gallery), evaluate(queries, gallery, exclude=column)

    assert alone["recall_at_1"] == 1
    assert without["recall_at_1"] == 0  # the row of class 1 has the same camera, but is no junk
    assert without["map"] == 0.5
    (line,) = outcomes(judge(queries, gallery, exclude=column)).to_pylist()
    assert line["neighbours"] == [2, 1]


def test_an_excluded_column_without_a_value_is_an_error():
    with pytest.raises(DataError, match="exclude=sequence, but no image has a sequence"):
        evaluate(*searched(), exclude="sequence")


def test_unknown_queries_bring_the_open_set_figures():
    judged = judge(*searched(), rule="nearest")

    found = figures(judged)

    answers = judged.answers
    point = open_set(answers.similarity[:, 0], answers.hits("nearest"), answers.known, 0.01)
    assert found["open_set/tpr_at_0.01"] == point.tpr
    assert found["open_set/threshold_at_0.01"] == point.threshold
    queries, gallery = searched()
    known = queries.filter(pa.array(queries["label"].to_numpy() < 4))
    assert not any(name.startswith("open_set/") for name in evaluate(known, gallery))


def test_intervals_hold_their_figures_and_narrow_with_more_queries():
    few, many = judge(*searched(queries=60)), judge(*searched(queries=600))

    found, bounds, narrow = figures(few), intervals(few, samples=300), intervals(many, samples=300)

    for name, (low, high) in bounds.items():
        assert low <= found[name] <= high, name
    for name in ("accuracy", "balanced_accuracy", "map", "map_at_r", "r_precision", "minp", "recall_at_5"):
        assert narrow[name][1] - narrow[name][0] < bounds[name][1] - bounds[name][0], name
    count = int(few.answers.known.sum())
    assert bounds["accuracy"] == wilson(round(found["accuracy"] * count), count)
    assert "class/a/knn_accuracy" in bounds
    assert intervals(few, samples=300) == bounds


def test_the_bootstrap_of_a_mean_is_that_of_the_normal_law():
    judged = judge(*searched(queries=800))

    low, high = intervals(judged)["map"]

    values = judged.answers.average_precision[judged.answers.known].numpy()
    error = values.std() / math.sqrt(len(values))
    assert (low, high) == pytest.approx(
        (values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.004
    )


def test_random_embeddings_are_at_chance_and_a_leak_is_refused():
    random = np.random.default_rng(0)
    labels = random.integers(6, size=900)
    vectors = random.normal(size=(900, 32))
    queries = embedding_table(vectors[:400], labels[:400])
    gallery = embedding_table(vectors[400:], labels[400:], "gallery")

    found = evaluate(queries, gallery)

    error = math.sqrt(0.25 / 400)
    for rule in ("nn", "knn", "centroid"):
        assert found[f"{rule}_balanced_accuracy"] == pytest.approx(1 / 6, abs=4 * error)
    leaking = embedding_table(vectors[:400], labels[:400], "gallery", path=queries["path"].to_pylist())
    with pytest.raises(DataError, match="400 of 400 queries are in the gallery too"):
        evaluate(queries, leaking)


def test_a_path_on_both_sides_is_named():
    queries = embedding_table(np.eye(4), [0, 1, 2, 3], path=["a", "b", "c", "d"])
    gallery = embedding_table(np.eye(4), [0, 1, 2, 3], "gallery", path=["x", "d", "b", "y"])
    with pytest.raises(
        DataError, match=r"2 of 4 queries are in the gallery too.*: b, d \(query rows \[1, 3\]\)"
    ):
        check_disjoint(queries, gallery)


@pytest.mark.parametrize(
    ("query", "gallery", "same"),
    [
        ([0, 0, 4, 4], [4, 0, 8, 4], False),
        ([0, 0, 4, 4], [0, 0, 4, 4], True),
        (None, [0, 0, 4, 4], True),
        ([0, 0, 4, 4], None, True),
        (None, None, True),
    ],
)
def test_two_crops_of_one_file_are_two_images_but_a_file_holds_its_crops(query, gallery, same):
    sides = [
        embedding_table(np.eye(1, 3), [0], role, path=["a"], box=[box])
        for role, box in (("query", query), ("gallery", gallery))
    ]
    if same:
        with pytest.raises(DataError, match="in the gallery too"):
            check_disjoint(*sides)
    else:
        check_disjoint(*sides)


@pytest.mark.parametrize("column", ["root", "data"])
def test_the_same_path_in_another_root_or_data_set_is_another_image(column):
    value = {"root": (0, 1), "data": ("solar", "flir")}[column]
    kind = {"root": pa.int16(), "data": pa.string()}[column]
    sides = [
        embedding_table(np.eye(1, 3), [0], role, path=["a"], **{column: pa.array([own], kind)})
        for role, own in zip(("query", "gallery"), value, strict=True)
    ]

    check_disjoint(*sides)

    with pytest.raises(DataError, match="in the gallery too"):
        check_disjoint(sides[0], sides[0])


def test_more_than_a_hundred_classes_have_no_metrics_of_their_own_but_lines_in_the_table():
    random = np.random.default_rng(0)
    labels = np.arange(202) % 101
    names = [f"id{label}" for label in labels]
    sides = [
        embedding_table(random.normal(size=(202, 8)), labels, role, names=names)
        for role in ("query", "gallery")
    ]

    judged = judge(*sides)

    assert not any(name.startswith("class/") for name in figures(judged))
    assert not any(name.startswith("class/") for name in intervals(judged, samples=10))
    assert len(class_table(judged)) == 101


def test_without_a_known_query_figures_are_nan_and_nothing_has_an_interval():
    queries, gallery = searched()
    strangers = queries.filter(pa.array(queries["label"].to_numpy() == 4))

    judged = judge(strangers, gallery)

    assert math.isnan(figures(judged)["accuracy"])
    assert figures(judged)["unknown_queries"] == len(strangers)
    assert intervals(judged) == {}
    assert class_table(judged)["unknown"].to_pylist()[-1] == len(strangers)


def refused(queries, gallery, message, **options):
    with pytest.raises(TapetumError, match=message) as caught:
        evaluate(queries, gallery, **options)
    return caught.type


def test_what_cannot_be_searched_is_refused():
    queries, gallery = searched()
    refused(queries, None, "no row has the role gallery")
    refused(gallery, gallery, "150 of 150 predictions have the role gallery, but a gallery is given")
    refused(queries, queries, "no row has the role gallery")
    refused(queries.slice(0, 0), gallery, "no row has the role query")
    narrow = embedding_table(np.eye(4), [0, 1, 2, 3], "gallery")
    refused(queries, narrow, "queries of 16 and a gallery of 4 dimensions")
    renamed = gallery.set_column(4, "class", pa.array(["z"] * 150))
    refused(queries, renamed, "label 0 is called a, z")
    twice = embedding_table(np.eye(2, 16), [0, 26], "gallery")
    refused(
        twice.set_column(5, "role", pa.array(["query"] * 2)), twice, "labels 0 and 26 are both called 'a'|too"
    )
    assert refused(queries, gallery, "rule=nearst: did you mean nearest", rule="nearst") is ConfigError
    assert refused(queries, gallery, "exclude=site", exclude="site") is ConfigError
    assert refused(queries, gallery, "k=0", k=0) is ConfigError


def test_two_classes_that_metrics_cannot_tell_apart_are_refused():
    sides = [
        embedding_table(np.eye(2, 4), [0, 1], role, names=["hot/spot", "hot_spot"])
        for role in ("query", "gallery")
    ]
    refused(*sides, "the classes 'hot/spot' and 'hot_spot' are both 'hot_spot' in metrics")


@pytest.mark.parametrize("exclude", [None, "camera"])
def test_separation_is_the_similarity_of_the_nearest_row_of_the_class_and_of_any_other(exclude):
    queries, gallery = searched(noise=2.0)
    right, wrong = separation(judge(queries, gallery, exclude=exclude))
    sides = [np.stack(side["embedding"].to_pylist()) for side in (queries, gallery)]
    scores = sides[0] @ sides[1].T
    for row, query in enumerate(queries.to_pylist()):
        of_class = gallery["label"].to_numpy() == query["label"]
        left_out = np.array(gallery["camera"].to_pylist()) == query["camera"]
        own = of_class & ~(left_out if exclude else np.zeros_like(left_out))
        assert wrong[row] == pytest.approx(scores[row][~of_class].max(), abs=1e-6)
        if own.any():
            assert right[row] == pytest.approx(scores[row][own].max(), abs=1e-6)
        else:
            assert np.isnan(right[row])


def test_every_split_searches_its_own_gallery_or_the_one_beside_it():
    test, gallery = searched()
    roles = ["gallery"] * 10 + ["query"] * 5
    val = embedding_table(np.tile(np.eye(5), (3, 1)), [row % 5 for row in range(15)], roles)
    found = judge_splits({"gallery": gallery, "val": val, "test": test}, {"rule": "nearest"})
    assert {split: (len(one.queries), len(one.gallery)) for split, one in found.items()} == {
        "val": (5, 10),
        "test": (80, 150),
    }
    assert figures(found["val"])["accuracy"] == 1.0
    assert found["test"].rule == "nearest"

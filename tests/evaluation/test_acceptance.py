"""Held against a target: chance for random vectors, misses for unknown queries, and an alarm for collapse."""

import json
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from tapetum.errors import ConfigError, DataError
from tapetum.evaluation.acceptance import Memory, accept, check_classes, needed_queries, of_classes
from tapetum.evaluation.acceptance_limits import limits
from tapetum.evaluation.acceptance_rules import recommend
from tapetum.evaluation.retrieval import judge
from tapetum.metrics.intervals import wilson
from tapetum.metrics.latency import STAGES
from tapetum.metrics.retrieval import RULES as WAYS
from tapetum.modules.decision import Decision, Target
from tapetum.runs.directory import write_json

from evaluation.embedding_tables import embedding_table, searched

TARGET, KNN = Target(0.9), Decision()
CONFIG = {
    "model": {"miner": {"_target_": "x"}, "warm_start": None, "net": {"name": "resnet50"}},
    "data": {"sampler": None, "decoder": "pillow"},
    "trainer": {"precision": "32-true"},
    "optimizer": {"lr": 0.001, "_target_": "torch.optim.AdamW"},
    "callbacks": {},
}


def random_tables(queries, gallery, classes, seed=0, dimensions=64):
    random = np.random.default_rng(seed)
    return tuple(
        embedding_table(random.normal(size=(count, dimensions)), np.arange(count) % classes, role)
        for count, role in ((queries, "query"), (gallery, "gallery"))
    )


def accepted(tables, target=TARGET, decision=KNN, **more):
    judged = judge(*tables, rule=decision.rule, k=decision.k)
    return accept(judged, target, decision, **more), judged


def times(count=100, **slow):
    """Milliseconds that differ from image to image; `embed=5` is five seconds slower."""
    random = np.random.default_rng(0)
    return {stage: random.uniform(0.001, 0.003, count) + slow.get(stage, 0) for stage in STAGES}


def named(found, judged, config=CONFIG, known=None):
    return {one.rule: one for one in recommend(found, judged, config, known or {})}


@pytest.mark.parametrize("rule", WAYS)
def test_random_embeddings_score_chance_whatever_the_rule(rule):
    classes, count = 8, 2400

    found, _ = accepted(random_tables(count, 800, classes), Target(0.95), Decision(rule))

    error = math.sqrt(1 / classes * (1 - 1 / classes) / count)
    assert not found.passed
    assert found.guessing == 1 / classes
    for share in (found.accuracy, found.balanced_accuracy, *found.by_rule.values()):
        assert share.value == pytest.approx(1 / classes, abs=4 * error)
    assert found.accuracy == found.by_rule[rule]


def test_a_query_that_is_in_the_gallery_is_an_error_and_no_hit():
    queries, gallery = searched()
    both = gallery.set_column(
        1, "path", pa.array([queries["path"][0].as_py(), *gallery["path"].to_pylist()[1:]])
    )
    with pytest.raises(DataError, match=r"1 of 80 queries are in the gallery too.*query/0\.png"):
        accepted((queries, both))


def test_queries_that_the_gallery_lacks_are_misses():
    found, judged = accepted(searched())

    unknown = judged.queries["class"].to_pylist().count("e")
    hits = judged.answers.hits("knn").sum().item()
    assert found.unknown == {"e": unknown}
    assert found.accuracy.value == pytest.approx(hits / 80)
    assert found.known.value == pytest.approx(hits / (80 - unknown))
    assert (found.known.count, found.accuracy.count) == (80 - unknown, 80)
    assert found.by_class[0].name == "e"
    assert found.by_class[0].accuracy.value == 0
    assert any(
        f"{unknown} of 80 queries are of classes that the gallery lacks (e)" in one
        for one in limits(found, judged)
    )
    assert named(found, judged)["unknown_queries"].overrides == ("classes=[a,b,c,d]",)


@pytest.mark.parametrize(
    ("target", "passed", "standing"),
    [(0.5, True, "above"), (0.79, True, "undecided"), (0.82, False, "undecided"), (0.99, False, "below")],
)
def test_the_figure_decides_and_the_interval_says_how_surely(target, passed, standing):
    judged = eighty_percent(100)
    found = accept(judged, Target(target), Decision("nearest"))
    check = found.checks[0]

    assert (check.value, check.low, check.high) == pytest.approx((0.8, *wilson(80, 100)))
    assert (found.passed, check.standing) == (passed, standing)
    assert ("undecided" in named(found, judged)) == (standing == "undecided")
    assert (check.needed is not None) == (standing == "undecided")
    assert found.reasons[0].startswith(
        f"the accuracy 0.800 {'reaches' if passed else 'misses'} the target {target:g}"
    )


def eighty_percent(count):
    """Queries on the five axes of the gallery; a fifth of each class lies on the next class's axis."""
    axes, labels = np.eye(5), np.arange(count) % 5
    asked = axes[(labels + (np.arange(count) // 5 % 5 == 0)) % 5]
    gallery = embedding_table(np.repeat(axes, 12, axis=0), np.repeat(np.arange(5), 12), "gallery")
    return judge(embedding_table(asked, labels), gallery, rule="nearest")


@pytest.mark.parametrize(("share", "target"), [(0.9, 0.95), (0.96, 0.95), (0.5, 0.95), (0.8, 0.79)])
def test_so_many_queries_decide_and_no_fewer(share, target):
    def decided(count):
        low, high = wilson(round(share * count), count)
        return low > target or high < target

    needed = needed_queries(share, target)
    step = 50  # every share here is a whole number of queries of them
    assert decided(math.ceil(needed / step) * step)
    fewer = (needed - 1) // step * step
    assert not fewer or not decided(fewer)


def test_no_number_of_queries_parts_a_figure_from_itself():
    assert needed_queries(0.95, 0.95) is None
    assert needed_queries(0.95000001, 0.95) is None


def test_collapsed_embeddings_fail_although_every_query_is_named_rightly():
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    points = np.eye(8)[0] + 0.001 * np.eye(8)[labels + 1] + 1e-5 * random.normal(size=(60, 8))
    queries, gallery = (
        embedding_table(points[:30], labels[:30]),
        embedding_table(points[30:], labels[30:], "gallery"),
    )

    found, judged = accepted((queries, gallery), Target(0.95))

    assert found.accuracy.value == 1
    assert not found.passed
    assert "collapsed" in found.reasons[-1]
    assert "model.warm_start.epochs=2" in named(found, judged)["collapse"].overrides[0]


def test_one_class_alone_is_no_collapse():
    labels = np.arange(60) % 3
    points = np.eye(8)[labels] + 0.001 * np.random.default_rng(0).normal(size=(60, 8))
    gallery = embedding_table(points[30:], labels[30:], "gallery")
    queries = of_classes(embedding_table(points[:30], labels[:30]), ["b"])

    found, judged = accepted((queries, gallery), Target(0.95), classes=["b"])

    assert found.passed
    assert (found.queries, found.gallery) == (10, 30)
    assert any("of one class" in one for one in limits(found, judged))


def test_classes_restrict_the_queries_and_leave_the_gallery_whole():
    queries, gallery = searched()
    both = pa.concat_tables([gallery, queries])
    both = both.set_column(0, "index", pa.array(range(len(both))))

    found = of_classes(both, ["a", "c"])

    asked = [row["class"] for row in found.to_pylist() if row["role"] == "query"]
    assert set(asked) == {"a", "c"}
    assert asked.count("a") == queries["class"].to_pylist().count("a")
    assert len(found) - len(asked) == len(gallery)


def test_a_class_that_nobody_asks_for_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no query is of class cart: did you mean car\?"):
        check_classes(["cart", "person"], ["car", "person"])
    with pytest.raises(ConfigError, match="leaves no query"):
        check_classes([], ["car"])


def test_the_95th_percentile_of_the_whole_time_decides():
    seconds = times(embed=0.1)
    seconds["search"][:10] += 3.0  # a tenth is slow: p95 sees it, the median does not
    total = sum(seconds.values())

    found, judged = accepted(searched(classes=3), Target(None, 2.0), seconds=seconds)

    assert found.latency.total.p50 == pytest.approx(np.quantile(total, 0.5))
    assert found.latency.total.p95 == pytest.approx(np.quantile(total, 0.95))
    assert found.latency.total.max == total.max()
    assert sum(stage.share for stage in found.latency.stages) == pytest.approx(1)
    assert not found.passed
    assert [check.decides for check in found.checks] == [True, False]
    assert found.latency.slowest.name == "search"
    assert "slow_search" in named(found, judged)
    quick, _ = accepted(searched(classes=3), Target(None, 2.0), seconds=times())
    assert quick.passed


@pytest.mark.parametrize(
    ("stage", "overrides"),
    [
        ("load", ()),
        ("prepare", ("data.decoder=fast",)),
        ("embed", ("trainer.precision=bf16-mixed",)),
        ("search", ()),
    ],
)
def test_the_stage_that_dominates_is_told_with_what_helps(stage, overrides):
    found, judged = accepted(searched(classes=3), Target(None, 2.0), seconds=times(**{stage: 5.0}))

    said = named(found, judged)

    assert [name for name in said if name.startswith("slow_")] == [f"slow_{stage}"]
    assert said[f"slow_{stage}"].overrides == overrides
    quick, judged = accepted(searched(classes=3), Target(None, 9.0), seconds=times(**{stage: 5.0}))
    assert f"slow_{stage}" not in named(quick, judged)


def test_another_rule_is_recommended_unless_val_says_the_opposite():
    random = np.random.default_rng(0)
    labels = (
        np.arange(40) % 4
    )  # one image of each class near its queries, and nine of another class behind it
    axes = np.eye(8)
    gallery = np.concatenate([axes[:4], np.repeat(axes[:4] + 0.2 * axes[4:], 9, axis=0)])
    of = np.concatenate([np.arange(4), np.repeat((np.arange(4) + 1) % 4, 9)])
    gallery = embedding_table(gallery, of, "gallery")
    queries = embedding_table(axes[labels] + 0.001 * random.normal(size=(40, 8)), labels)

    found, judged = accepted((queries, gallery), Target(0.9), Decision("knn"))

    assert found.by_rule["nearest"].value == 1
    assert found.accuracy.value == 0
    said = named(found, judged)["other_rule"]
    assert (said.overrides, said.verb) == (("model.decision.rule=nearest",), "accept")
    agrees = {"val/nn_accuracy": 0.9, "val/knn_accuracy": 0.2}
    assert "val, which may choose, agrees" in named(found, judged, known=agrees)["other_rule"].means
    denies = {"val/nn_accuracy": 0.2, "val/knn_accuracy": 0.9}
    assert "other_rule" not in named(found, judged, known=denies)
    passing = replace(found, checks=(replace(found.checks[0], reached=True),))
    assert "other_rule" not in named(passing, judged)


def test_thin_and_weak_classes_are_told_by_name():
    queries, gallery = searched(queries=400, classes=3, noise=2.0)
    thin = np.flatnonzero(gallery["label"].to_numpy() == 1)[4:]
    gallery = gallery.take(np.setdiff1d(np.arange(len(gallery)), thin))

    found, judged = accepted((queries, gallery), Target(0.999))
    said = named(found, judged)

    assert "b 4" in said["thin_gallery"].seen
    weak = [line.name for line in found.by_class if line.standing == "below" and line.gallery]
    assert weak
    assert all(name in said["weak_class"].seen for name in weak)
    assert any("can hardly win a vote of 10: b" in one for one in limits(found, judged))


def test_limits_tell_what_was_too_little():
    queries, gallery = searched(queries=30, gallery=7, classes=3)
    found, judged = accepted((queries, gallery), seconds=times(20))

    said = " ".join(limits(found, judged))

    assert "fewer than 30 queries" in said
    assert "The gallery has 7 images and k is 10" in said
    assert "20 images were timed" in said
    assert "queries share their camera with gallery images of their own class" in said


def test_queries_of_one_sequence_are_not_independent():
    queries, gallery = searched(queries=30, classes=3)
    column = queries.column_names.index("sequence")
    queries = queries.set_column(column, "sequence", pa.array([f"s{row // 10}" for row in range(30)]))
    found, judged = accepted((queries, gallery))
    assert any("30 queries come from 3 sequences" in one for one in limits(found, judged))


def test_a_target_that_asks_for_nothing_and_seconds_without_times_are_errors():
    with pytest.raises(ConfigError, match=r"type target_accuracy=0\.95"):
        accepted(searched(), Target())
    with pytest.raises(ConfigError, match="no image was timed"):
        accepted(searched(), Target(0.9, 2.0))


def test_the_record_is_plain_data(tmp_path):
    memory = Memory(10, 20, 4, 30, 100, 50, "process")
    found, _ = accepted(searched(), Target(0.5, 2.0), seconds=times(), memory=memory)

    write_json(tmp_path / "acceptance.json", found.as_dict())

    record = json.loads((tmp_path / "acceptance.json").read_text())
    assert next(iter(record)) == "passed"
    assert record["accuracy"]["value"] == found.accuracy.value
    assert record["memory"]["estimated"] == 60
    assert record["latency"]["total"]["p95"] == found.latency.total.p95
    assert record["decision"] == {"rule": "knn", "k": 10, "exclude": None}

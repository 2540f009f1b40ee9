import math
import random
import re
from functools import cache
from itertools import chain
from pathlib import Path

import pytest
from tapetum.config.check import check_config
from tapetum.config.compose import compose
from tapetum.config.groups import option_names
from tapetum.config.overrides import prepare
from tapetum.evaluation import remedies
from tapetum.evaluation.advice import RULES, advise, unjudged

PAGE = Path(__file__).parents[2] / "docs" / "what_to_try_next.md"
COUNTS = {
    "train": {"real": 1000, "generated": 1000},
    "val": {"real": 150, "generated": 150},
    "test": {"real": 200, "generated": 200},
}
METRICS = {
    "val/balanced_accuracy": 0.95,
    "test/balanced_accuracy": 0.93,
    "test/accuracy": 0.93,
    "test/accuracy_tuned": 0.935,
    "val/threshold": 0.4,
}
EPOCHS = 10
NAN = math.nan


@cache
def composed(*words):
    return compose(prepare([*words, f"trainer.max_epochs={EPOCHS}"], multirun=False))


def curves(epochs=EPOCHS, **changes):
    """A healthy training, column by column; a change is a whole column by its name with _ for /, or None."""
    shape = [1 - 0.6**epoch for epoch in range(epochs)]  # fast at first, then level
    columns = {
        "train/loss": [0.68 - 0.5 * value for value in shape],
        "train/accuracy": [0.55 + 0.4 * value for value in shape],
        "val/loss": [0.68 - 0.48 * value for value in shape],
        "val/accuracy": [0.55 + 0.38 * value for value in shape],
        "val/balanced_accuracy": [0.55 + 0.38 * value for value in shape],
        "val/auroc": [0.6 + 0.38 * value for value in shape],
        "speed/data_wait": [0.6] + [0.05] * (epochs - 1),
    }
    columns |= {name.replace("_", "/", 1): column for name, column in changes.items()}
    rows = []
    for epoch in range(epochs):
        cells = {name: column[epoch] for name, column in columns.items() if column is not None}
        val = {name: value for name, value in cells.items() if name.startswith("val/")}
        rest = {name: value for name, value in cells.items() if name not in val}
        step = 30 * (epoch + 1)
        # as metrics.csv has them: steps, validation and training of an epoch in rows of their own
        rows += [{"epoch": epoch, "step": step, **cells} for cells in ({"lr/head": 1e-3}, val, rest)]
    return rows


def told(history=None, words=(), *, config=None, counts=COUNTS, metrics=METRICS, **more):
    """Advice by rule."""
    config = composed(*words).config if config is None else config
    found = advise(curves() if history is None else history, config, counts, metrics, **more)
    assert len({one.rule for one in found}) == len(found)
    return {one.rule: one for one in found}


def changed(column, at, value):
    """A column of the healthy training, one epoch of it another."""
    values = [row[column] for row in curves() if column in row]
    values[at] = value
    return values


def classes(train, val=300):
    real, generated = train if isinstance(train, tuple) else (train // 2, train - train // 2)
    return (
        {"train": {"real": real, "generated": generated}, "val": {"real": val}}
        if val
        else {"train": {"real": real, "generated": generated}}
    )


def last_gap(gap):
    return {
        "train_accuracy": changed("train/accuracy", -1, 0.95),
        "val_accuracy": changed("val/accuracy", -1, 0.95 - gap),
    }


def rising(end):
    return [0.68, 0.6, 0.5, 0.45, 0.4, 0.4, 0.41, 0.42, 0.43, end]


FALLING = [0.68, 0.6, 0.5, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1]
AUROC = [0.6, 0.7, 0.8, 0.84, 0.86, 0.88, 0.9, 0.9, 0.9]


def health(collapsed):
    return {"val_embedding/collapsed": collapsed, "val_embedding/spread": [0.01] * len(collapsed)}


def rules(knn, centroid, accuracy=0.80):
    """Validation figures of a run that names by neighbours; the centroid's plain accuracy is 0.80."""
    balanced = {"val/knn_balanced_accuracy": knn, "val/centroid_balanced_accuracy": centroid}
    return balanced | {"val/knn_accuracy": accuracy, "val/centroid_accuracy": 0.80}


RETRIEVAL = ("experiment=synthetic_infrared", "train.monitor=val/auroc")


# rule → (what must trigger it, what just does not), as arguments of `told`
CASES = {
    "not_finite": (
        {"history": curves(val_loss=changed("val/loss", 5, NAN))},
        {"history": curves(val_auroc=changed("val/auroc", 5, NAN))},  # undefined is not broken
    ),
    "flat_loss": (
        {"history": curves(train_loss=[0.693] * 9 + [0.680], train_accuracy=[0.5, 0.54] * 5)},
        {"history": curves(train_loss=[0.693] * 9 + [0.678], train_accuracy=[0.5, 0.54] * 5)},
    ),
    "spikes": (
        {"history": curves(train_loss=changed("train/loss", 6, 0.36))},
        {"history": curves(train_loss=changed("train/loss", 6, 0.28))},
    ),
    "overfitting": (
        {"history": curves(train_loss=FALLING, val_loss=rising(0.45))},
        {"history": curves(train_loss=FALLING, val_loss=rising(0.43))},
    ),
    "underfitting": (
        {"history": curves(train_accuracy=[0.6] * 9 + [0.74], val_balanced_accuracy=[0.74] * 10)},
        {"history": curves(train_accuracy=[0.6] * 9 + [0.76], val_balanced_accuracy=[0.74] * 10)},
    ),
    "still_improving": (
        {"history": curves(val_auroc=[*AUROC, 0.912])},
        {"history": curves(val_auroc=[*AUROC, 0.908])},
    ),
    "stopped_early": (
        {"history": curves(4, val_auroc=[0.8, 0.7, 0.7, 0.7])},
        {"history": curves(5, val_auroc=[0.7, 0.8, 0.7, 0.7, 0.7])},
    ),
    "little_data": ({"counts": classes(999)}, {"counts": classes(1000)}),
    "imbalance": ({"counts": classes((11001, 1100))}, {"counts": classes((11000, 1100))}),
    "data_wait": (
        {"history": curves(speed_data_wait=[0.0] + [0.31] * 9)},
        {"history": curves(speed_data_wait=[0.9] + [0.29] * 9)},
    ),
    "little_validation": ({"counts": classes(2000, 99)}, {"counts": classes(2000, 100)}),
    "no_validation": ({"counts": classes(2000, 0)}, {"counts": {}}),
    "shift": (
        {"metrics": METRICS | {"test/balanced_accuracy": 0.84}},
        {"metrics": METRICS | {"test/balanced_accuracy": 0.86}},
    ),
    "threshold": (
        {"metrics": METRICS | {"val/threshold": 0.86, "test/accuracy_tuned": 0.951}},
        {"metrics": METRICS | {"val/threshold": 0.82, "test/accuracy_tuned": 0.951}},
    ),
    "collapse": (
        {"history": curves(**health([0.0] * 9 + [1.0]))},
        {"history": curves(**health([1.0] * 9 + [0.0]))},  # it came back
    ),
    "nothing_to_learn": (
        {"history": curves(train_zero_triplet_batches=[0.0] * 9 + [15.0])},  # of 30 steps
        {"history": curves(train_zero_triplet_batches=[30.0] * 9 + [14.0])},
    ),
    "other_rule": (
        {"words": RETRIEVAL, "metrics": METRICS | rules(0.55, 0.62)},
        {"words": RETRIEVAL, "metrics": METRICS | rules(0.55, 0.59)},
    ),
}  # fmt: skip


def test_every_rule_has_its_cases():
    assert list(CASES) == [rule.name for rule in RULES]


def test_a_healthy_run_gives_no_advice():
    assert told() == {}


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_is_triggered_by_its_symptom_alone(rule):
    assert set(told(**CASES[rule][0])) == {rule}


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_is_silent_just_beside_its_threshold(rule):
    assert rule not in told(**CASES[rule][1])


@pytest.mark.parametrize(
    ("case", "speaks"),
    [
        ({"history": curves(**last_gap(0.11))}, True),
        ({"history": curves(**last_gap(0.09))}, False),
        ({"history": curves(**last_gap(0.11)), "counts": classes(2000, 40)}, False),  # within two errors
        ({"history": curves(train_loss=FALLING, val_loss=[0.3] * 7 + [0.02, 0.03, 0.035])}, False),  # tiny
        ({"history": curves(train_loss=[0.4] * 10, val_loss=rising(0.5))}, False),  # train does not fall
        ({"history": curves(val_loss=None, val_accuracy=None)}, False),
    ],
)  # fmt: skip
def test_overfitting_is_a_gap_or_a_rise_beyond_chance(case, speaks):
    assert ("overfitting" in told(**case)) is speaks


def test_a_validation_loss_that_jumps_and_comes_back_is_a_spike_and_one_that_stays_is_not():
    back = changed("val/loss", 5, 0.7)
    assert "spikes" in told(curves(val_loss=back))
    stays = back[:5] + [0.7] * 5
    assert "spikes" not in told(curves(val_loss=stays))


def test_a_run_that_its_loss_ended_is_told_so_and_one_that_was_stopped_is_not():
    nan = "the loss became nan at step 3 on the batch of a.png. Look at those images"
    assert nan in told([], ended_by=nan, metrics={}, counts={})["not_finite"].seen
    assert told([], ended_by="stopped by SIGTERM after step 3", metrics={}, counts={}) == {}


def test_lower_is_better_where_the_config_says_so():
    words = ("train.monitor=val/loss", "train.mode=min")
    losses = [0.6, 0.5, 0.45, 0.42, 0.41, 0.4, 0.4, 0.4]
    assert "still_improving" in told(curves(val_loss=[*losses, 0.395, 0.39]), words)
    assert "still_improving" not in told(curves(val_loss=[*losses, 0.396, 0.393]), words)


def test_an_unfinished_run_is_not_told_that_it_learnt_too_little():
    poor = {"train_accuracy": [0.6] * 5, "val_balanced_accuracy": [0.6] * 5}
    assert told(curves(5, **poor), metrics={}) == {}
    assert "underfitting" in told(curves(5, **poor))


def test_guessing_is_the_share_of_the_larger_class_unless_something_evens_it():
    history = curves(train_accuracy=[0.6] * 9 + [0.93], val_balanced_accuracy=[0.6] * 10)
    counts = {"train": {"real": 9000, "generated": 1000}}
    assert "underfitting" in told(history, counts=counts)
    assert "underfitting" not in told(history, ("data.sampler=class_balanced",), counts=counts)


@pytest.mark.parametrize("word", ["model.loss.class_weights=balanced", "data.sampler=class_balanced"])
def test_what_makes_up_for_imbalance_silences_its_rule(word):
    assert "imbalance" not in told(words=(word,), **CASES["imbalance"][0])


def test_a_rule_that_costs_more_than_it_gains_is_not_suggested():
    assert "other_rule" in told(words=RETRIEVAL, metrics=rules(0.5, 0.6, accuracy=0.89))
    assert "other_rule" not in told(words=RETRIEVAL, metrics=rules(0.5, 0.6, accuracy=0.91))
    assert "other_rule" not in told(words=RETRIEVAL, metrics=rules(0.5, 0.6), counts=classes(2000, 80))


def test_the_loss_may_change_where_the_warm_start_ends():
    words = (*RETRIEVAL, "model.warm_start.epochs=2")
    for epoch, speaks in ((2, False), (3, True)):
        losses = [0.2] * epoch + [0.8] * (EPOCHS - epoch)
        assert ("spikes" in told(curves(train_loss=losses), words)) is speaks


def test_what_is_said_of_retrieval_does_not_speak_of_generators():
    for name, case in SICK.items():
        for one in told(**case | {"words": RETRIEVAL}).values():
            assert "generator" not in f"{one.seen} {one.means} {one.overrides} {one.instead}", name


# -- what to type ------------------------------------------------------------------------------------------


def photo(rule, *words, **case):
    """Advice on the study of document 001, whose epochs are 15."""
    base = ("experiment=product_photo_detector", *words)
    config = compose(prepare(list(base), multirun=False)).config
    return told(config=config, **case)[rule]


def everything(advice):
    return set(chain(advice.overrides, *advice.instead))


SICK = {name: case for name, (case, _) in CASES.items()}


def test_the_values_of_document_001_become_its_recommendations():
    overfitting = photo("overfitting", **SICK["overfitting"])
    assert overfitting.overrides == ("model.net.dropout=0.5", "optimizer.weight_decay=0.001")
    assert overfitting.instead == (("model.net.freeze=true",), ("augment=wang2020",))

    poor = curves(15, train_accuracy=[0.6] * 15, val_balanced_accuracy=[0.6] * 15)
    underfitting = photo("underfitting", history=poor)
    assert underfitting.overrides == ("optimizer.lr=0.003", "trainer.max_epochs=30")
    assert underfitting.instead == (("model.net.name=efficientnet_b1",),)
    assert ("model.net.freeze=false",) in photo("underfitting", "model.net.freeze=true", history=poor).instead

    spikes = photo("spikes", **SICK["spikes"])
    assert spikes.overrides == ("optimizer.lr=0.0003",)
    assert spikes.instead == (("data.batch_size=32",),)  # clipping is on already


def test_values_are_scaled_from_the_runs_own():
    words = (
        "model=efficientnet_b0",
        "optimizer.lr=0.0002",
        "model.net.dropout=0.4",
        "model.backbone_lr=0.00002",
    )
    assert told(words=words, **SICK["spikes"])["spikes"].overrides == (
        "optimizer.lr=6e-05",
        "model.backbone_lr=6e-06",
    )  # fmt: skip
    assert "model.net.dropout=0.5" in told(words=words, **SICK["overfitting"])["overfitting"].overrides


def test_a_rate_beyond_all_reason_comes_back_to_the_largest_that_is_suggested():
    words = ("optimizer.lr=1e30",)
    assert told(words=words, **SICK["spikes"])["spikes"].overrides == ("optimizer.lr=0.01",)
    words = ("optimizer.lr=0.005",)  # three times that would be too much
    advice = told(words=words, **SICK["underfitting"])["underfitting"]
    assert advice.overrides == (f"trainer.max_epochs={2 * EPOCHS}",)


def test_what_is_so_already_is_not_suggested():
    words = (
        "model=efficientnet_b0", "model.net.dropout=0.5", "optimizer.weight_decay=0.1", "augment=wang2020",
        "model.net.pretrained=true", "model.net.freeze=true",
    )  # fmt: skip
    assert everything(told(words=words, **SICK["overfitting"])["overfitting"]) == set()


def test_a_backbone_that_has_learnt_nothing_is_not_frozen():
    assert "model.net.freeze=true" not in everything(
        told(words=("model=efficientnet_b0",), **SICK["overfitting"])["overfitting"]
    )


def test_a_network_for_resampling_traces_is_not_told_to_cover_them():
    found = everything(told(words=("model=npr_64",), **SICK["overfitting"])["overfitting"])
    assert [one for one in found if one.startswith("augment")] == [
        "augment.after_crop=[{_target_:torchvision.transforms.v2.RandomHorizontalFlip,p:0.5}]"
    ]


def test_a_value_that_a_search_found_is_set_with_the_search_off():
    words = ("callbacks=lr_finder",)
    assert told(words=words, **SICK["spikes"])["spikes"].overrides == (
        "optimizer.lr=6e-05",
        "callbacks.lr_finder=null",
    )  # fmt: skip
    assert told(words=words, **SICK["flat_loss"])["flat_loss"].overrides == ()


def test_a_search_for_the_rate_keeps_the_callbacks_there_are():
    advice = told(words=("callbacks=ema",), **SICK["flat_loss"])["flat_loss"]
    assert advice.overrides == ("callbacks=[ema,lr_finder]",)


def test_a_limit_is_lifted_before_anything_else_is_tried():
    limited = told(words=("data.limit=500",), counts=classes(500, 50), carved=True)
    assert limited["little_data"].overrides == limited["little_validation"].overrides == ("data.limit=null",)
    free = told(words=("data=cifake", "data.root=x"), counts=classes(450, 50), carved=True)
    assert free["little_data"].overrides == ()
    assert free["little_validation"].overrides == ("data.val_fraction=0.3",)  # 0.4 would be too much
    given = told(words=("data=cifake", "data.root=x"), counts=classes(450, 50))
    assert given["little_validation"].overrides == ()  # the layout has its own validation images


def test_workers_go_up_to_the_cores():
    case = SICK["data_wait"]
    words = ("data=folder", "data.num_workers=6")
    assert told(words=words, cores=8, **case)["data_wait"].instead == (("data.num_workers=8",),)
    assert told(words=words, cores=6, **case)["data_wait"].instead == ()
    assert told(words=words, **case)["data_wait"].overrides == ("data.cache=decoded",)


def test_nothing_is_suggested_twice():
    case = {**SICK["overfitting"], "counts": classes(500)}
    words = ("model=small_resnet", "data=cifake", "data.root=x")
    every = [one for advice in told(words=words, **case).values() for one in advice.instead]
    assert len(every) == len(set(every)) > 0


NEEDED = {"model": {"timm_backbone": ["model.net.name=resnet18"]}}
BASES = [
    *(
        (f"{group}={option}", *NEEDED.get(group, {}).get(option, []))
        for group in ("model", "experiment")
        for option in option_names(group)
    ),
    ("model=efficientnet_b0", "model.net.pretrained=true", "augment=product_photo", "data=folder"),
    ("model=efficientnet_b0", "model.net.freeze=true", "callbacks=[ema,lr_finder,batch_size_finder]"),
    ("data=folder", "data.limit={train:100}", "optimizer=sgd", "data.val_fraction=0", "callbacks=none"),
    ("model=small_resnet", "trainer.gradient_clip_val=null", "trainer.precision=16-mixed"),
]  # fmt: skip


@pytest.mark.parametrize("base", BASES, ids=" ".join)
def test_every_suggestion_is_accepted_by_the_check_of_its_own_config(base):
    suggested = set()
    for case in SICK.values():
        for advice in told(**case | {"words": base}, carved=True, cores=8).values():
            suggested |= {advice.overrides, *advice.instead}
    assert (len(suggested) >= 5) == composed(*base).config["model"]["fit"], "advice is for what trains"
    words, lines = {}, {}
    for choice in sorted(suggested):  # what sets different keys goes into one line, to save time
        keys = {override.split("=")[0] for override in choice}
        number = next(n for n in range(99) if not any(clash(a, b) for a in keys for b in lines.get(n, ())))
        lines.setdefault(number, set()).update(keys)
        words.setdefault(number, list(base)).extend(choice)
    for line in words.values():
        check_config(compose(prepare(line, multirun=False)), need_files=False)


def clash(one, other):
    """Whether two keys can't stand in one line; debug=overfit takes early stopping away."""
    one, other = (key.replace("debug", "callbacks.early_stopping.patience.x") for key in (one, other))
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def test_the_larger_networks_exist_and_the_family_ends():
    from timm import is_model

    for name in remedies.LARGER:
        steps = 0
        while name in remedies.LARGER:
            assert is_model(name)
            assert is_model(remedies.LARGER[name])
            name, steps = remedies.LARGER[name], steps + 1
            assert steps < 10


# -- runs that are not whole -------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [0, 1, 2])
@pytest.mark.parametrize("rule", CASES)
def test_short_histories_have_no_shape(rule, epochs):
    case = SICK[rule]
    history = [row for row in case.get("history", curves()) if row["epoch"] < epochs]
    shapes = {"flat_loss", "spikes", "overfitting", "underfitting", "still_improving", "stopped_early"}
    assert not set(told(**{**case, "history": history})) & shapes


def test_three_epochs_are_too_few_to_overfit():
    rises = {"train_loss": FALLING[:4], "val_loss": [0.4, 0.5, 0.6, 0.7]}
    assert "overfitting" in told(curves(4, **rises))
    assert "overfitting" not in told([row for row in curves(4, **rises) if row["epoch"] < 3])


def test_rows_and_columns_may_be_missing_in_any_way():
    drawn = random.Random(0)
    config = composed().config
    known = {rule.name for rule in RULES}
    for _ in range(300):
        case = drawn.choice(list(SICK.values()))
        history = [row for row in case.get("history", curves()) if drawn.random() < 0.8]
        gone = {name for row in history for name in row if drawn.random() < 0.2}
        history = [{name: cell for name, cell in row.items() if name not in gone} for row in history]
        metrics = {
            name: drawn.choice([value, NAN]) for name, value in METRICS.items() if drawn.random() < 0.7
        }
        found = advise(history, config, case.get("counts", {}), metrics)
        assert {one.rule for one in found} <= known


def test_a_run_without_validation_is_judged_by_its_training():
    gone = dict.fromkeys(("val_loss", "val_accuracy", "val_balanced_accuracy", "val_auroc"))
    history = curves(train_accuracy=[0.6] * 10, **gone)
    found = told(history, ("data.val_fraction=0",), counts=classes(2000, 0), metrics={"test/accuracy": 0.6})
    assert set(found) == {"underfitting", "no_validation"}
    assert found["no_validation"].overrides == ("data.val_fraction=0.1",)


def test_a_resumed_run_is_read_as_one():
    poor = {"train_accuracy": [0.6] * 10, "val_balanced_accuracy": [0.6] * 10}
    whole = curves(**poor)
    again = whole[:12] + [dict(row) for row in whole[9:]]  # an epoch that was cut off and repeated
    assert told(again) == told(whole) != {}


@pytest.mark.parametrize(
    "word", ["debug=overfit", "debug=limit", "model.fit=false", "trainer.limit_train_batches=1"]
)
def test_a_run_on_a_part_is_not_judged(word):
    config = composed(word).config
    assert unjudged(curves(), config)
    assert told(SICK["underfitting"]["history"], (word,), counts=classes(10)) == {}
    assert unjudged(curves(), composed("trainer.limit_train_batches=1.0").config) is None


# -- the page ----------------------------------------------------------------------------------------------


def test_the_page_has_the_rules_with_their_thresholds():
    rows = re.findall(
        r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.*?) ?\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    wanted = [
        (rule.name, rule.condition, rule.suggestion, ", ".join(f"`{name}`" for name in rule.unless))
        for rule in RULES
    ]
    assert rows == wanted


def test_rules_give_way_to_earlier_ones_only():
    names = [rule.name for rule in RULES]
    assert all(names.index(other) < names.index(rule.name) for rule in RULES for other in rule.unless)

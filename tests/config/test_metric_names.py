"""Metrics of the user's own under model.metrics: their names, and what may be built for them."""

from __future__ import annotations

from tapetum.config import schema
from tapetum.evaluation.detection import evaluate

from evaluation.prediction_tables import predictions

KAPPA = "model.metrics.kappa._target_=torchmetrics.classification.BinaryCohenKappa"


def test_a_metric_may_choose_under_its_name(problems):
    assert problems(KAPPA, "train.monitor=val/kappa") == []
    assert problems(KAPPA, "train.monitor=val/kappa", "train.mode=min") == []
    (message,) = problems(KAPPA, "train.monitor=val/kapa")
    assert message.startswith(
        "unknown value train.monitor=val/kapa: did you mean val/kappa? detection logs val/l"
    )
    assert message.endswith(", train/accuracy, val/kappa")
    (message,) = problems("train.monitor=val/kappa")
    assert "val/kappa" in message
    assert problems(KAPPA, "model.metrics.kappa=null", "train.monitor=val/kappa") != []


def test_a_name_that_is_taken_or_odd_is_refused(problems, edited):
    for name in ("accuracy", "brier", "threshold", "loss"):
        (message,) = problems(KAPPA.replace("kappa", name))
        assert message.startswith(
            f"model.metrics.{name}: val/{name} is there already: choose another name than "
        )
    node = {"_target_": "torchmetrics.classification.BinaryCohenKappa"}
    for name in ("my metric", "a/b", "1st", "größe", "", 3):
        messages = edited(lambda config, name=name: config["model"]["metrics"].update({name: node}))
        assert messages == [
            f"model.metrics.{name}: the name of a metric takes letters, digits and _ only, and begins with a "
            f"letter: type model.metrics.my_metric._target_=…"
        ]


def test_an_entry_names_something_to_build(edited):
    (message,) = edited(lambda config: config["model"]["metrics"].update(mine=3))
    assert message == (
        "model.metrics.mine has no _target_: type model.metrics.mine=null, or "
        "model.metrics.mine._target_=package.module.Name"
    )


def test_a_function_says_that_it_is_called_later(problems, own_package):
    package = own_package({"parts.py": "def figure(logits, labels, *, rate=0.5):\n    return rate\n"})
    for key in ("model.metrics.mine", "model.loss"):
        words = [f"allow_targets=[{package}]", f"{key}._target_={package}.parts.figure"]
        (message,) = problems(*words)
        assert message == (
            f"{key}._target_={package}.parts.figure is a function, which is called with logits and labels: "
            f"type {key}._partial_=true"
        )
        assert problems(*words, f"{key}._partial_=true") == []
        assert problems(*words, f"{key}._partial_=true", f"{key}.rat=1") != []


def test_the_names_that_are_taken_are_those_of_the_evaluation():
    table = predictions([1, 0], [1.0, -1.0])
    computed = {name for name in evaluate(table, threshold=0.0) if "/" not in name}
    assert computed | {"loss", "threshold"} == set(schema.FIGURES["detection"])

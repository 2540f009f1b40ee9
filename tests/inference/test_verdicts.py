"""Thresholds of any origin, beside bands that belong to the config."""

import numpy as np
import pytest
import torch
from tapetum.errors import ConfigError
from tapetum.inference.verdicts import Rule, choose_rule
from tapetum.metrics.thresholds import Thresholds

OWN = Thresholds(classification=0.5, high=0.8, low=0.3)
LOGITS = np.linspace(-6, 6, 241).astype(np.float32)
PROBABILITY = torch.from_numpy(LOGITS).double().sigmoid().numpy()


def judged(rule):
    columns = rule.judge(LOGITS)
    return columns["verdict"], columns["band"]


def test_without_a_choice_the_fitted_threshold_counts_where_there_is_one():
    assert choose_rule(None, OWN, 1.5) == Rule(OWN, fitted=1.5) == choose_rule("fitted", OWN, 1.5)
    assert choose_rule(None, OWN, None) == Rule(OWN) == choose_rule("config", OWN, 1.5)
    assert choose_rule(0.7, OWN, 1.5) == Rule(OWN, given=0.7)


def test_the_configs_thresholds_are_inclusive():
    verdict, band = judged(Rule(OWN))
    assert verdict.tolist() == ["generated" if p >= 0.5 else "real" for p in PROBABILITY]
    assert band.tolist() == ["high" if p >= 0.8 or p <= 0.3 else "uncertain" for p in PROBABILITY]


def test_a_fitted_threshold_between_the_bands_leaves_them_alone():
    verdict, band = judged(Rule(OWN, fitted=1.0))
    assert verdict.tolist() == ["generated" if logit > 1.0 else "real" for logit in LOGITS]
    assert band.tolist() == judged(Rule(OWN))[1].tolist()


@pytest.mark.parametrize("rule", [Rule(OWN, fitted=3.0), Rule(OWN, given=0.95)])
def test_what_lies_between_high_and_a_threshold_above_it_is_uncertain(rule):
    cut = 0.95 if rule.fitted is None else torch.tensor(3.0, dtype=torch.float64).sigmoid()
    verdict, band = judged(rule)
    between = (PROBABILITY >= 0.8) & (verdict == "real")
    assert between.any()
    assert set(band[between]) == {"uncertain"}
    assert set(band[verdict == "generated"]) == {"high"}
    assert set(band[PROBABILITY <= 0.3]) == {"high"}
    assert f"; also from 0.8 to {cut:.4g}, where the verdict is real" in str(rule)


@pytest.mark.parametrize("rule", [Rule(OWN, fitted=-4.0), Rule(OWN, given=0.02)])
def test_what_lies_between_low_and_a_threshold_below_it_is_uncertain(rule):
    verdict, band = judged(rule)
    between = (PROBABILITY <= 0.3) & (verdict == "generated")
    assert between.any()
    assert set(band[between]) == {"uncertain"}
    assert set(band[verdict == "real"]) == {"high"}
    assert "to 0.3, where the verdict is generated" in str(rule)


def test_a_fitted_threshold_is_a_logit_where_probabilities_are_all_one():
    logits = np.array([38.0, 42.0], np.float32)
    columns = Rule(OWN, fitted=40.0).judge(logits)
    assert columns["probability"].tolist() == [1.0, 1.0]
    assert columns["verdict"].tolist() == ["real", "generated"]
    assert columns["band"].tolist() == ["uncertain", "high"]


def test_extreme_logits_are_judged_without_a_warning(recwarn):
    columns = Rule(OWN).judge(np.array([-3e38, 3e38], np.float32))
    assert columns["probability"].tolist() == [0.0, 1.0]
    assert not recwarn.list


@pytest.mark.parametrize("threshold", ["fited", "", -0.1, 1.5, float("nan")])
def test_a_threshold_that_is_none_is_refused_by_its_value(threshold):
    with pytest.raises(ConfigError, match=rf"unknown value threshold={threshold}.* it is config, fitted or"):
        choose_rule(threshold, OWN, 0.0)


def test_a_rule_says_where_its_threshold_comes_from():
    assert str(Rule(OWN)) == (
        "generated at p ≥ 0.5 (model.thresholds.classification); band high at p ≥ 0.8 and p ≤ 0.3, else "
        "uncertain"
    )
    assert str(Rule(OWN, fitted=0.0)).startswith("generated above p = 0.5 (fitted on the run's validation,")
    assert str(Rule(OWN, given=0.6)).startswith("generated at p ≥ 0.6 (threshold=0.6);")

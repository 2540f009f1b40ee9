import math

import numpy as np
import pytest
from tapetum.errors import ConfigError
from tapetum.metrics.thresholds import Thresholds


def test_verdict_and_band_at_and_around_each_cut():
    p = np.array([0.0, 0.3, 0.31, 0.499, 0.5, 0.79, 0.8, 1.0])
    found = Thresholds()
    assert found.verdict(p).tolist() == ["real"] * 4 + ["generated"] * 4
    assert found.band(p).tolist() == ["high", "high"] + ["uncertain"] * 4 + ["high", "high"]


def test_float32_probabilities_meet_the_cuts_as_written():
    p = np.array([0.3, 0.8], dtype=np.float32)
    assert Thresholds().band(p).tolist() == ["high", "high"]


@pytest.mark.parametrize(
    "values", [{"low": 0.6}, {"high": 0.4}, {"low": -0.1}, {"high": 1.1}, {"classification": math.nan}]
)
def test_cuts_out_of_order_are_refused(values):
    with pytest.raises(ConfigError, match=r"must be in this order, within 0 and 1"):
        Thresholds(**values)


def test_nan_has_no_verdict():
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        Thresholds().verdict(np.array([0.5, math.nan]))

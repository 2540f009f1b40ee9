"""How a query is named by the gallery that it searches, and what is asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from ..errors import ConfigError, did_you_mean
from ..metrics.retrieval import RULES, Rule

Exclude = Literal["camera", "sequence"]


@dataclass(frozen=True)
class Decision:
    """rule: `nearest` takes the class of the most similar image, `knn` the majority of the k most similar,
    `centroid` the class whose mean is most similar. exclude: gallery images of the query's own class from the
    same camera or sequence, which are too easy to find, are left out.
    """

    rule: Rule = "knn"
    k: int = 10
    exclude: Exclude | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Decision:
        """From `model.decision`; raises ConfigError with everything that is wrong in it."""
        known = [field.name for field in fields(cls)]
        problems = [
            f"unknown key model.decision.{name}{did_you_mean(str(name), known) or ':'} {', '.join(known)}"
            for name in given
            if name not in known
        ]
        if given.get("rule", "knn") not in RULES:
            problems.append(f"unknown value model.decision.rule={given['rule']}: {', '.join(RULES)}")
        k = given.get("k", 10)
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            problems.append(f"model.decision.k={k} must be a whole number of neighbours, at least 1")
        if given.get("exclude") not in (None, *get_args(Exclude)):
            problems.append(
                f"unknown value model.decision.exclude={given['exclude']}: camera, sequence or null"
            )
        if problems:
            raise ConfigError(problems)
        return cls(**given)


@dataclass(frozen=True)
class Target:
    """What `tapetum accept` asks for: accuracy, a share in (0, 1], and seconds an image from file to answer.

    None asks for nothing.
    """

    accuracy: float | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Target:
        """From `model.target`; raises ConfigError with everything that is wrong in it."""
        known = [field.name for field in fields(cls)]
        problems = [
            f"unknown key model.target.{name}{did_you_mean(str(name), known) or ':'} {', '.join(known)}"
            for name in given
            if name not in known
        ]
        accuracy, seconds = given.get("accuracy"), given.get("seconds")
        if accuracy is not None and not 0 < accuracy <= 1:
            problems.append(f"model.target.accuracy={accuracy} must be a share above 0, at most 1: 0.95")
        if seconds is not None and not seconds > 0:
            problems.append(f"model.target.seconds={seconds} must be above 0")
        if problems:
            raise ConfigError(problems)
        return cls(**given)

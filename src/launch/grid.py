"""A sweep whose jobs are all known before the first one starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from ..config.check import check_config
from ..config.compose import Composed, compose, finish
from ..config.joined import chosen
from ..errors import ConfigError
from .jobs import Job, Outcome


@dataclass(frozen=True)
class Point:
    """One combination: its number, its overrides, and what Hydra composed from them."""

    number: int
    overrides: tuple[str, ...]
    composed: DictConfig


class Grid:
    """The combinations of a sweep, in their order: a `Source` of jobs.

    Raises one ConfigError with the problems of every job before any of them starts.
    """

    def __init__(self, points: Sequence[Point]) -> None:
        shared = set(points[0].overrides).intersection(*(point.overrides for point in points))
        own = {point.number: [one for one in point.overrides if one not in shared] for point in points}
        self.swept = list(
            dict.fromkeys(one.lstrip("+").split("=", 1)[0] for words in own.values() for one in words)
        )
        self.total = len(points)
        self.jobs: list[Job] = []
        problems = []
        for point in points:
            try:
                self.jobs.append(Job(point.number, point.overrides, _checked(point).config))
            except ConfigError as error:
                where = f"job {point.number} ({' '.join(own[point.number])})"
                problems += [f"{where}: {problem}" for problem in error.problems]
        if problems:
            raise ConfigError(problems)
        self._left = iter(self.jobs)

    def next(self) -> Job | None:
        """The next combination."""
        return next(self._left, None)

    def ended(self, outcome: Outcome) -> None:
        """Nothing is learnt from a job."""


def _checked(point: Point) -> Composed:
    # Of several data sets Hydra has merged the keys, so such a job is composed anew.
    composed = compose(point.overrides) if chosen(point.overrides) else finish(point.composed)
    check_config(composed)
    return composed

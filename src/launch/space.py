"""What a search is over: a command line in Hydra's syntax becomes fixed words and optuna's distributions.

`a,b` and `choice(a,b)` are one of a few, `range(1,10,2)` every second number, `interval(0,1)` any number
between, `int(interval(4,32))` any whole one, both ends included; `tag(log,…)` of the last three is drawn on a
logarithmic scale.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Sweep
from hydra.errors import HydraException
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from ..errors import ConfigError

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader

Value = str | int | float
"""Of a parameter in a study: a number, or one of a few in Hydra's words."""


@dataclass(frozen=True)
class Parameter:
    """One swept key. word: the key as an override has it, with the `+` that a new key needs."""

    key: str
    word: str
    distribution: BaseDistribution

    def override(self, value: Any) -> str:
        """The override that gives the key a value, which Hydra reads back as the same value."""
        return f"{self.word}={value!r}" if isinstance(value, float) else f"{self.word}={value}"

    def ends(self) -> list[Value]:
        """Values that speak for all: the two ends of a range, each one of a few."""
        found = self.distribution
        if isinstance(found, CategoricalDistribution):
            return [str(choice) for choice in found.choices]
        assert isinstance(found, IntDistribution | FloatDistribution), "there are three kinds"
        return list(dict.fromkeys((found.low, found.high)))

    def values(self) -> list[Value] | None:
        """Every value, None where they can't be counted."""
        found = self.distribution
        if isinstance(found, IntDistribution):
            return list(range(found.low, found.high + 1, found.step))
        if isinstance(found, FloatDistribution):
            if found.step is None:
                return None if found.low < found.high else [found.low]
            steps = round((found.high - found.low) / found.step)
            return [min(found.low + number * found.step, found.high) for number in range(steps + 1)]
        return self.ends()


@dataclass(frozen=True)
class Space:
    """What all trials share, and the swept keys by name."""

    fixed: tuple[str, ...]
    parameters: Mapping[str, Parameter]

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The space as optuna has it."""
        return {key: one.distribution for key, one in self.parameters.items()}

    def overrides(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """The command line of one trial."""
        return (*self.fixed, *(one.override(values[key]) for key, one in self.parameters.items()))


def read_space(words: Sequence[str], loader: ConfigLoader | None = None) -> Space:
    """Split overrides into fixed and swept ones; of several for one key the last counts.

    loader: Hydra's, which `glob(*)` asks for the options of a group. Raises one ConfigError with every
    parameter that can't be searched over, and where there is none at all.
    """
    parser = OverridesParser.create(config_loader=loader)
    try:
        last = {_name(one): one for one in parser.parse_overrides(list(words))}
    except HydraException as error:  # of a YAML's hydra.sweeper.params; the command line was checked before
        raise ConfigError(f"a search space can't be read: {str(error).splitlines()[0]}") from error
    fixed = [one.input_line or "" for one in last.values() if not one.is_sweep_override()]
    problems: list[str] = []
    parameters = {}
    for key, one in last.items():
        if one.is_sweep_override():
            problems += (wrong := list(_problems(one)))
            if not wrong:
                parameters[key] = Parameter(key, one.get_key_element(), _distribution(one))
    if not parameters and not problems:
        problems.append(
            "there is nothing to search over: type a range for at least one key, such as "
            "'optimizer.lr=tag(log,interval(1e-5,1e-2))' or data.batch_size=8,16,32"
        )
    if problems:
        raise ConfigError(problems)
    return Space(tuple(fixed), parameters)


def written(distribution: BaseDistribution) -> str:
    """A distribution in Hydra's syntax."""
    if isinstance(distribution, CategoricalDistribution):
        return f"choice({','.join(map(str, distribution.choices))})"
    assert isinstance(distribution, IntDistribution | FloatDistribution), "there are three kinds"
    whole, low, high, step = (
        isinstance(distribution, IntDistribution), distribution.low, distribution.high, distribution.step
    )  # fmt: skip
    if step is None or (whole and step == 1):
        inside = f"int(interval({low},{high}))" if whole else f"interval({low},{high})"
    else:
        inside = f"range({low},{high + step},{step})"
    return f"tag(log,{inside})" if distribution.log else inside


def command_line(words: Sequence[str]) -> str:
    """A training to copy into a shell."""
    return shlex.join(["python", "train.py", *words])


def _name(one: Override) -> str:
    return one.key_or_group if one.package is None else f"{one.key_or_group}@{one.package}"


def _distribution(one: Override) -> BaseDistribution:
    swept = one.value()
    log = isinstance(swept, Sweep) and "log" in swept.tags
    if isinstance(swept, IntervalSweep):
        low, high = _both(swept)
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=log)
        return FloatDistribution(low, high, log=log)
    if isinstance(swept, RangeSweep):
        values = sorted(swept.range())
        if isinstance(values[0], int):
            return IntDistribution(values[0], values[-1], log=log, step=abs(int(swept.step)))
        step = abs(float(swept.step))
        exact = Decimal(str(values[0])) + (len(values) - 1) * Decimal(str(step))  # optuna's own arithmetic
        return FloatDistribution(values[0], float(exact), step=step)
    return CategoricalDistribution(list(dict.fromkeys(one.sweep_string_iterator())))


def _problems(one: Override) -> Iterator[str]:
    """Why a swept override is no parameter; nothing where it is one."""
    swept, text = one.value(), one.input_line
    tags = swept.tags if isinstance(swept, Sweep) else set()
    if others := sorted(tags - {"log"}):
        yield f"{text}: unknown tag {', '.join(others)}: the one that is known is log, as in tag(log,…)"
    if isinstance(swept, IntervalSweep):
        low, high = _both(swept)
        if low > high:
            yield f"{text} ends before it starts: type {_name(one)}=interval({high:g},{low:g})"
        elif "log" in tags and low <= 0:
            yield f"{text}: a logarithmic scale starts above 0: type a larger lower end, or no tag(log,…)"
    elif isinstance(swept, RangeSweep):
        values = list(swept.range()) if swept.step else []
        if not values:
            yield f"{text} has no value: type range(START,STOP,STEP), which ends before STOP"
        elif "log" in tags and (abs(swept.step) != 1 or not isinstance(values[0], int) or min(values) <= 0):
            yield f"{text}: a logarithmic scale has no steps: type tag(log,interval(…))"
    elif "log" in tags:
        yield f"{text}: a logarithmic scale needs numbers between two ends: type tag(log,interval(…))"
    elif not list(one.sweep_string_iterator()):
        yield f"{text} matches nothing: type one of the names"


def _both(swept: IntervalSweep) -> tuple[float, float]:
    assert swept.start is not None, "the parser gives both ends"
    assert swept.end is not None, "the parser gives both ends"
    return swept.start, swept.end

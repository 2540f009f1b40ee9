"""How figures are written, the same way in the terminal, in HTML and in pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Interval = tuple[float, float]
UNDEFINED = "undefined"


def number(value: float | None, digits: int = 4) -> str:
    """A figure with `digits` decimals; `undefined` for NaN, a dash where there is none."""
    if value is None:
        return "–"
    if math.isnan(value):
        return UNDEFINED
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value != 0 and (abs(value) < 10.0**-digits or abs(value) >= 1e6):
        return f"{value:.2e}"
    if isinstance(value, int) or (value.is_integer() and abs(value) >= 10):
        return f"{int(value):,}"
    return f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share in [0, 1] as `97.3 %`; `undefined` for NaN, a dash where there is none."""
    if value is None:
        return "–"
    return UNDEFINED if math.isnan(value) else f"{100 * value:.{digits}f} %"


def interval(bounds: Interval | None, digits: int = 4) -> str:
    """`0.9612–0.9701`, or nothing where there is no interval."""
    if bounds is None or any(math.isnan(bound) for bound in bounds):
        return ""
    return f"{bounds[0]:.{digits}f}–{bounds[1]:.{digits}f}"


def percent_interval(bounds: Interval | None, digits: int = 1) -> str:
    """`96.1–97.0 %`, or nothing where there is no interval."""
    if bounds is None or any(math.isnan(bound) for bound in bounds):
        return ""
    return f"{100 * bounds[0]:.{digits}f}–{100 * bounds[1]:.{digits}f} %"


def signed(value: float, digits: int = 4) -> str:
    """A difference, `+0.0123` or `−0.0123`."""
    return f"{value + 0.0:+.{digits}f}".replace("-", "−")  # + 0.0: no minus before a zero


def chance(p: float) -> str:
    """A p-value: `0.031`, `< 0.001`, a dash where it is undefined."""
    if math.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def duration(seconds: float) -> str:
    """`41 s`, `6 min 12 s`, `3 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def plain(value: Any) -> str:
    """A config value as a reader would type it: `null`, `true`, `0.001`, `[1,2]`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(plain(item) for item in value) + "]"
    return str(value)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as `{dotted key: leaf}`; an empty mapping is a leaf, a list too."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            leaves |= flatten(value, f"{name}.")
        else:
            leaves[name] = value
    return leaves

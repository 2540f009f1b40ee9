"""The page of an acceptance: the verdict first, then what it rests on, how it was measured and what to do."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from ..evaluation.acceptance import Acceptance, Check
from ..evaluation.acceptance_rules import Recommendation
from ..evaluation.retrieval import Judged
from . import sections
from .figure import CYCLE
from .format import number, percent, percent_interval
from .page import Picture, write_page
from .retrieval_sections import searches
from .sections import LoadImage, Typed

_FACTS = ("network", "pretrained", "git", "hardware", "versions")
_PICTURES = ("confusion", "projection", "similarity", "rejection")
_MOST_CLASSES = 40


@dataclass(frozen=True)
class AcceptanceReport:
    """Everything that is said of one acceptance.

    limits: what the figures cannot say. measured: what was measured on what, in words. environment: as in
    environment.json. config: the run's, with the data and device that were judged. command, trained: the
    command lines of this acceptance and of the run's training, empty where unknown. load_image: as in
    `RunReport`.
    """

    title: str
    found: Acceptance
    judged: Judged
    recommendations: Sequence[Recommendation]
    limits: Sequence[str]
    measured: Mapping[str, str]
    environment: Mapping[str, Any]
    config: Mapping[str, Any]
    command: str
    trained: str = ""
    load_image: LoadImage | None = None

    def as_dict(self) -> dict[str, Any]:
        """What acceptance.json holds, the verdict first."""
        return {
            "title": self.title,
            **self.found.as_dict(),
            "limits": list(self.limits),
            "recommendations": [{**asdict(one), "type": "".join(typed)} for one, typed in self.recommended()],
            "measured": dict(self.measured),
            "command": self.command,
            "environment": dict(self.environment),
        }

    def recommended(self) -> list[tuple[Recommendation, Typed]]:
        """Each thing to do with what to type; two empty texts where nothing is typed."""
        return [(one, _typed(one, self)) for one in self.recommendations]


def write_acceptance_report(source: AcceptanceReport, out: Path) -> Path:
    """`out/index.html` (everything inside) and its pictures as `out/*.png`; returns the page's path."""
    found = source.found
    pictures = _pictures(source)
    facts = dict(sections.facts(source.config, source.environment, None, None))
    values: dict[str, object] = {
        "title": source.title,
        "found": found,
        "verdict": "PASS" if found.passed else "FAIL",
        "rule": rule_in_words(found),
        "checks": [_line(check) for check in found.checks],
        "stages": _stages(found),
        "classes": found.by_class[:_MOST_CLASSES],
        "more_classes": max(0, len(found.by_class) - _MOST_CLASSES),
        "memory": _memory(found),
        "health": _health(found),
        "recommendations": [
            (one.rule.replace("_", " ").capitalize(), one, typed) for one, typed in source.recommended()
        ],
        "limits": source.limits,
        "measured": [*source.measured.items(), *((name, facts[name]) for name in _FACTS if name in facts)],
        "absent": dict.fromkeys(_PICTURES, "Too few queries to draw."),
        "searches": searches(source.judged, source.load_image),
        "stretched": source.config["data"].get("radiometry") is not None,
        "pictures": {picture.name: picture for picture in pictures},
        "figures": found.figures,
        "command": source.command,
    }
    return write_page("acceptance.html", values, pictures, out)


def terminal(source: AcceptanceReport) -> list[Table | Text | str]:
    """What the command prints: the target table, then the verdict with its reasons."""
    found = source.found
    table = Table(title=f"{source.title}: acceptance", title_justify="left", header_style="bold")
    table.add_column("figure")
    for column in ("target", "reached", "95 % interval"):
        table.add_column(column, justify="right")
    table.add_column("")
    for line in map(_line, found.checks):
        verdict = Text(line["verdict"], style=line["style"])
        table.add_row(line["name"], line["target"], line["reached"], line["interval"], verdict)
    table.caption = f"{found.queries:,} queries, {found.gallery:,} gallery images, {rule_in_words(found)}" + (
        f"; of {', '.join(found.classes)}" if found.classes else ""
    )
    table.caption_justify = "left"
    shown: list[Table | Text | str] = [table]
    if found.latency is not None:
        parts = ", ".join(f"{stage.name} {_seconds(stage.p50)}" for stage in found.latency.stages)
        shown.append(f"an image, p50: {parts}")
    shown.append(Text("PASS" if found.passed else "FAIL", style="bold green" if found.passed else "bold red"))
    shown += [f"  {reason}" for reason in found.reasons]
    if source.limits:
        shown.append(f"{len(source.limits)} limits of these figures: see the report")
    names = ", ".join(one.rule for one in source.recommendations)
    if names:
        shown.append(f"recommended ({names}): see the report")
    return shown


def rule_in_words(found: Acceptance) -> str:
    """How a query was named."""
    decision = found.decision
    said = {
        "nearest": "named as the most similar gallery image",
        "knn": f"named by the majority of the {decision.k} most similar gallery images",
        "centroid": "named as the class whose mean is most similar",
    }[decision.rule]
    return said if decision.exclude is None else f"{said}, those of its class and {decision.exclude} left out"


def _line(check: Check) -> dict[str, Any]:
    """One row of the target table as texts."""
    timed = check.name.startswith("seconds")
    shown = _seconds if timed else percent
    bounds = (check.low, check.high)
    between = percent_interval(bounds)
    if timed:
        between = "" if any(map(math.isnan, bounds)) else f"{_seconds(check.low)}–{_seconds(check.high)}"
    verdict, style = ("reached", "green") if check.reached else ("missed", "red")
    if check.decides:
        verdict, style = ("pass", "bold green") if check.reached else ("fail", "bold red")
    note = ""
    if check.standing == "undecided":
        note = "the interval holds the target"
        if check.needed is not None:
            note += f"; about {check.needed:,} queries would decide it"
    elif not math.isnan(check.low):
        note = f"the whole interval is {check.standing} the target"
    names = {"seconds, p95": "time an image, p95", "seconds, p50": "time an image, p50"}
    return {
        "name": names.get(check.name, check.name),
        "target": ("at most " if timed else "at least ")
        + (_seconds(check.target) if timed else percent(check.target)),
        "reached": shown(check.value),
        "interval": between,
        "verdict": verdict,
        "style": style,
        "note": note,
        "decides": check.decides,
        "ok": check.reached,
    }


def _stages(found: Acceptance) -> list[dict[str, Any]]:
    """The stages with the share of the bar that each takes, the total last."""
    if found.latency is None:
        return []
    rows = [*zip(found.latency.stages, CYCLE, strict=False), (found.latency.total, "")]
    return [
        {
            "name": stage.name,
            "colour": colour,
            "width": f"{100 * stage.share:.2f}",
            "share": percent(stage.share, 0),
            "p50": _seconds(stage.p50),
            "p95": _seconds(stage.p95),
            "max": _seconds(stage.max),
            "what": _WHAT[stage.name],
        }
        for stage, colour in rows
    ]


_WHAT = {
    "load": "the file's bytes from the disk",
    "prepare": "decoding, radiometry, geometry",
    "embed": "the network, and its vector back in memory",
    "search": "the gallery, and the class that follows",
    "total": "from the file to the class",
}


def _memory(found: Acceptance) -> list[tuple[str, str]]:
    memory = found.memory
    if memory is None:
        return []
    place = "of the device" if memory.of == "device" else "of the whole process, libraries included"
    rows = [
        ("measured, highest", f"{_bytes(memory.measured)} {place}"),
        ("before the weights", _bytes(memory.before)),
    ]
    if memory.weights is None or memory.activations is None or memory.estimated is None:
        return [("estimated", f"unknown: {memory.unknown}"), *rows]
    return [
        (
            "estimated",
            f"{_bytes(memory.estimated)}: weights {_bytes(memory.weights)}, a batch of {memory.batch} "
            f"{_bytes(memory.activations)}, gallery {_bytes(memory.gallery)}",
        ),
        *rows,
    ]


def _health(found: Acceptance) -> list[tuple[str, str, str]]:
    """(figure, value, what it means) of the embeddings."""
    health = found.health
    if health is None:
        return []
    return [
        (
            "spread",
            number(health.spread, 3),
            "distance from the mean: 0 all images are one point, 1 none is like another",
        ),
        ("mean cosine", number(health.mean_cosine, 3), "of two images: near 1 all are alike"),
        ("effective rank", number(health.effective_rank, 1), "directions that are in use"),
        ("within a class", number(health.intra, 3), "mean distance 1 − cos of two images of one class"),
        ("between classes", number(health.inter, 3), "of two classes; should be well above the one within"),
    ]


def _pictures(source: AcceptanceReport) -> list[Picture]:
    from . import retrieval_plots as plots

    drawn = [
        ("confusion", plots.confusion_matrix(source.judged), "confusion matrix"),
        ("projection", plots.projection(source.judged), "queries on their two principal components"),
        (
            "similarity",
            plots.similarity_histograms(source.judged),
            "similarity to the nearest gallery images",
        ),
        (
            "rejection",
            plots.rejection_curves({"test": source.judged}),
            "accuracy of the answers that are kept",
        ),
    ]
    return [Picture(name, png, alt) for name, png, alt in drawn if png is not None]


def _typed(one: Recommendation, source: AcceptanceReport) -> Typed:
    """The command line of the training or of this acceptance with the overrides in it."""
    if not one.overrides:
        return "", ""
    if one.verb == "train":
        return sections.typed(source.trained, one.overrides)
    keys = [override.split("=", 1)[0] for override in one.overrides]
    kept = [word for word in shlex.split(source.command) if word.split("=", 1)[0] not in keys]
    return shlex.join(kept) + " ", shlex.join(one.overrides)


def _seconds(value: float) -> str:
    if math.isnan(value):
        return "undefined"
    return (
        f"{value:.2f} s"
        if value >= 1
        else f"{1000 * value:.3g} ms"
        if value >= 1e-4
        else f"{1e6 * value:.0f} µs"
    )


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"

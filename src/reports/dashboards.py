"""Dashboards at Weights & Biases as code: a workspace for the runs of a task, a report for those of a sweep.

Nothing here touches the network. What is random in the library, the ids of panels and run sets, is made from
their place in the dashboard, so that the same dashboard is the same file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import wandb_workspaces.reports.v2.interface as wr
import wandb_workspaces.workspaces.interface as ws
from wandb_workspaces import expr

from ..config.schema import METRICS
from .dashboard_names import GPUS, LEARNING_RATES, SHOWN, SPEED, SYSTEM, Shown
from .format import flatten

_AXIS = "trainer/global_step"
_WHOLE = 24  # columns of a report
_LOG_FROM = 50  # so many times the smallest value is the largest of an axis that is worth a logarithm
_CLOSED = ("Speed", "System")


@dataclass(frozen=True)
class Axis:
    """A parameter that a sweep varies: its key in the config, and whether its values span magnitudes."""

    key: str
    log: bool


def workspace(
    task: str,
    *,
    project: str,
    entity: str = "",
    figures: Collection[str] = (),
    view: tuple[str, str] = ("", ""),
) -> ws.Workspace:
    """The workspace of all runs of a task.

    figures: names that runs are known to have logged, from which the generators or classes are taken. view:
    (name, id) at W&B of a workspace that is to be replaced.
    """
    shown = SHOWN[task]
    best = f"best/{shown.monitor}"
    parts = [*sections(task, figures), ("Compare", [*_compare(), _importance(best)]), *_machine()]
    made = ws.Workspace(
        entity=entity,
        project=project,
        name=f"tapetum {task}",
        sections=[
            ws.Section(name=name, panels=panels, is_open=name not in _CLOSED)
            for name, panels in _named(f"workspace {task}", parts)
        ],
        settings=ws.WorkspaceSettings(x_axis=_AXIS),
        runset_settings=ws.RunsetSettings(
            filters=expr.And(expr.Config("task") == task),
            pinned_columns=["run:displayName", f"summary:{best}", f"summary:test/{shown.tested[0]}"],
        ),
    )
    made._internal_name, made._internal_id = view
    return made


def sweep_report(
    task: str,
    *,
    group: str,
    monitor: str,
    axes: Sequence[Axis],
    said: Sequence[str],
    project: str,
    entity: str = "",
    figures: Collection[str] = (),
    view: str = "",
) -> wr.Report:
    """The report of a sweep: what mattered, then what the task's workspace shows, of its jobs alone.

    group: that of its W&B runs. monitor: the figure that chose checkpoints. said: sentences at its head.
    figures: as in `workspace`. view: the id at W&B of a report that is to be replaced.
    """
    parts = [
        ("What mattered", _parameters(f"best/{monitor}", axes)),
        *sections(task, figures, monitor),
        ("Compare", _compare()),
        *_machine(),
    ]
    blocks: list[Any] = [wr.P(text=one) for one in said]
    for number, (name, panels) in enumerate(_named(f"sweep {group}", parts)):
        # without a project of its own, a run set is of the report's, and W&B is not asked for it
        runs = wr.Runset(name="jobs", filters=expr.And(expr.Metric("Group") == group))
        runs._id = _id(f"sweep {group}", f"run set {number}")
        blocks += [wr.H2(text=name), wr.PanelGrid(runsets=[runs], panels=panels)]
    made = wr.Report(
        project=project, entity=entity, title=f"Sweep {group}"[:128], blocks=blocks, width="fluid"
    )
    made.id = view
    return made


def as_json(dashboard: ws.Workspace | wr.Report) -> dict[str, Any]:
    """What W&B keeps of a dashboard, as plain data; for a report and a workspace alike under `spec`."""
    model = dashboard._to_model()
    return {
        "kind": "workspace" if isinstance(dashboard, ws.Workspace) else "report",
        "project": dashboard.project,
        "title": model.display_name,
        "spec": model.spec.model_dump(mode="json", by_alias=True, exclude_none=True),
    }


def axes(keys: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> list[Axis]:
    """What a sweep varies, as keys that W&B has in a run's config, and so can draw.

    Of a group, such as `model=npr,npr_64`, the first key below it in which the jobs differ. configs: those
    of the jobs, at least one.
    """
    flat = [flatten(config) for config in configs]
    found = []
    for key in keys:
        below = (name for name in flat[0] if name.startswith(f"{key}."))
        differing = (name for name in below if len({str(one.get(name)) for one in flat}) > 1)
        name = key if key in flat[0] else next(differing, None)
        if name is not None:
            found.append(Axis(name, _spans([one.get(name) for one in flat])))
    return found


def sections(task: str, figures: Collection[str], monitor: str | None = None) -> list[tuple[str, list[Any]]]:
    """Title → panels of what the runs of a task show, whichever runs these are."""
    shown = SHOWN[task]
    losses: list[Any] = [name for name in ("train/loss", "val/loss") if name in METRICS[task]]
    curves = [monitor, *shown.curves] if monitor else [*shown.curves]
    found: list[tuple[str, list[Any]]] = [
        (
            "Learning curves",
            [
                wr.LinePlot(title="loss", x=_AXIS, y=losses),
                *(
                    wr.LinePlot(title=name, x=_AXIS, y=[name])
                    for name in dict.fromkeys(curves)
                    if name not in losses
                ),
            ],
        ),
        ("Test", [wr.BarPlot(title=f"test/{name}", metrics=[f"test/{name}"]) for name in shown.tested]),
    ]
    if shown.part:
        found.append((f"By {shown.part}", _by_part(shown, figures)))
    pictures = [wr.MediaBrowser(title=name, media_keys=[f"report/{name}"]) for name in shown.pictures]
    samples: list[Any] = [wr.MediaBrowser(title=name, media_keys=[name]) for name in shown.images]
    samples += [wr.WeavePanelSummaryTable(table_name=name) for name in shown.tables]
    return [*found, ("Plots of the report", pictures), ("Samples", samples)]


def _by_part(shown: Shown, figures: Collection[str]) -> list[Any]:
    """Bars of each generator or class; where none is known yet, whatever will be logged under such a name."""
    panels: list[Any] = []
    for name in shown.of_parts:
        pattern = f"test/{shown.part}/[^/]+/{name}"
        there: list[Any] = sorted(one for one in figures if re.fullmatch(pattern, one))
        title = f"test, {name} by {shown.part}"
        if there:
            panels.append(wr.BarPlot(title=title, metrics=there, max_bars_to_show=100))
        else:
            panels.append(wr.LinePlot(title=title, x=_AXIS, metric_regex=f"^{pattern}$"))
    return panels


def _parameters(best: str, axes: Sequence[Axis]) -> list[Any]:
    columns = [
        wr.ParallelCoordinatesPlotColumn(
            metric=wr.Config(axis.key), display_name=axis.key, log=axis.log or None
        )
        for axis in axes
    ]
    columns.append(wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(best), display_name=best))
    return [
        wr.ParallelCoordinatesPlot(title=best, columns=columns, layout=wr.Layout(w=_WHOLE, h=10)),
        _importance(best),
        *(
            wr.ScatterPlot(
                title=axis.key, x=wr.Config(axis.key), y=wr.SummaryMetric(best), log_x=axis.log or None
            )
            for axis in axes
        ),
    ]


def _importance(best: str) -> Any:
    return wr.ParameterImportancePlot(with_respect_to=best, layout=wr.Layout(w=_WHOLE // 2, h=8))


def _compare() -> list[Any]:
    return [wr.RunComparer(diff_only="split", layout=wr.Layout(w=_WHOLE, h=10))]


def _machine() -> list[tuple[str, list[Any]]]:
    speed = [wr.LinePlot(title=name, x=_AXIS, y=[name]) for name in SPEED]
    rates = wr.LinePlot(title="learning rates", x=_AXIS, metric_regex=f"^{LEARNING_RATES}$")
    time = "RelativeTime(Process)"
    system = [wr.LinePlot(title=name, x=time, y=[name]) for name in SYSTEM]
    system += [wr.LinePlot(title=one.replace("\\", ""), x=time, metric_regex=f"^{one}$") for one in GPUS]
    return [("Speed", [*speed, rates]), ("System", system)]


def _named(dashboard: str, parts: Sequence[tuple[str, list[Any]]]) -> list[tuple[str, list[Any]]]:
    """The same with ids that follow from the place of a panel."""
    for name, panels in parts:
        for number, panel in enumerate(panels):
            panel._id = _id(dashboard, name, str(number))
    return list(parts)


def _id(*place: str) -> str:
    return hashlib.sha256("\n".join(place).encode()).hexdigest()[:12]


def _spans(values: Sequence[Any]) -> bool:
    """Whether numbers are all positive and lie magnitudes apart."""
    numbers = [one for one in values if isinstance(one, int | float) and not isinstance(one, bool)]
    return len(numbers) == len(values) > 0 and min(numbers) > 0 and max(numbers) >= _LOG_FROM * min(numbers)

"""`tapetum doctor`: is this machine fit for an experiment, and what to type where it is not.

Nothing here may fail because something else is broken: this process imports Python's own library only, and
what needs torch or Hydra runs in processes of its own (probes.py) that may crash or hang.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError, did_you_mean
from .machine import (
    NEEDS,
    Finding,
    data_findings,
    folder_findings,
    hardware_findings,
    memory,
    online_findings,
    requirements,
    tracker_findings,
    version_findings,
)

SECTIONS = ("versions", "machine", "folders", "config", "data", "weights", "trackers", "network")
TIMEOUT = 300.0  # seconds for a probe; a first import from a slow disk, or on a busy machine, takes its time
_FLAGS = ("--json", "--online")
_MARKS = {"ok": "ok", "warning": "warning", "problem": "problem", "absent": "-"}
_COLOURS = {"ok": "32", "warning": "33", "problem": "1;31", "absent": "2"}


@dataclass
class Examination:
    """What was found, section by section, and the memory of the config's step (bytes, or why unknown)."""

    findings: list[Finding]
    memory: dict[str, Any] | str | None = None

    def count(self, status: str) -> int:
        """How many findings are of that kind."""
        return sum(one.status == status for one in self.findings)


def main(arguments: Sequence[str]) -> int:
    """Print what was found (`--json`: as JSON); 1 where there is a problem, else 0."""
    flags = [one for one in arguments if one.startswith("-")]
    for one in flags:
        if one not in _FLAGS:
            near = did_you_mean(one, _FLAGS)
            raise ConfigError(f"unknown option {one}{near or ':'} tapetum doctor takes {', '.join(_FLAGS)}")
    found = examine([one for one in arguments if one not in flags], online="--online" in flags)
    if "--json" in flags:
        counts = {"problems": found.count("problem"), "warnings": found.count("warning")}
        print(json.dumps({**asdict(found), **counts}, indent=2, ensure_ascii=False))
    else:
        print("\n".join(_lines(found, colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ)))
    return 1 if found.count("problem") else 0


def examine(overrides: Sequence[str] = (), *, online: bool = False) -> Examination:
    """Everything about this machine that a run with these overrides depends on; raises nothing.

    online: also ask the hub and the trackers whether they answer; without it the network is not touched.
    """
    free = memory()[0]
    check = shlex.join(["tapetum", "check", *overrides])
    _progress("composing the config")
    asked = _probe("config", {"overrides": list(overrides)})
    # What is wrong in a config is told, and its values are then not relied on.
    config: dict[str, Any] = {} if asked.findings else asked.facts.get("config", {})
    _progress("importing packages, building the network")
    with ThreadPoolExecutor(2) as pool:
        imports = pool.submit(_imports)
        request = {"config": config, "check": check, "free": free}
        experiment = pool.submit(_probe, "experiment", request).result() if config else _Probe()
        broken = imports.result()
    devices = _Probe()
    if "torch" in broken:
        experiment = _Probe()  # it can only have said the same
    else:
        _progress("trying the devices")  # alone, since it is measured
        devices = _probe("devices", {"precision": config["trainer"]["precision"] if config else "32-true"})
    _progress("")
    loggers = [name for name, node in config.get("logger", {}).items() if node]
    data = config.get("data", {})
    paths = config.get("paths") or {
        "outputs": os.environ.get("TAPETUM_OUTPUTS", "outputs"),
        "cache": os.environ.get("TAPETUM_CACHE", "~/.cache/tapetum"),
    }
    roots = {key.removeprefix("data="): at for key, at in asked.facts.items() if key.startswith("data=")}
    chosen = asked.facts.get("choices", {}).get("data") if config else None
    server = str((config.get("logger", {}).get("mlflow") or {}).get("tracking_uri") or "")
    server = server or os.environ.get("MLFLOW_TRACKING_URI", "")
    needed = ["hub"] if experiment.facts.get("needs hub") else []  # trackers only make a run wait
    findings = [
        *version_findings(broken, loggers),
        *hardware_findings(data.get("num_workers", 0)),
        *devices.findings,
        *folder_findings(paths["outputs"], paths["cache"]),
        *(replace(one, do=one.do or check) for one in asked.findings),
        *data_findings(roots, chosen, data, paths["cache"]),
        *experiment.findings,
        *tracker_findings(loggers, server),
        *(online_findings(needed, server) if online else ()),
    ]
    findings.sort(key=lambda one: SECTIONS.index(one.section))
    return Examination(findings, experiment.facts.get("memory"))


# -- probes ------------------------------------------------------------------------------------------------


@dataclass
class _Probe:
    """What a probe told, and the step at which it ended early."""

    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    died_at: str = ""
    why: str = ""


def _probe(name: str, request: Mapping[str, Any]) -> _Probe:
    """Run one probe in a process of its own; that it died or hung is a finding."""
    found = _run(name, request)
    if found.died_at or found.why:
        section = {"devices": "machine", "imports": "versions"}.get(name, "config")
        said = f"the process ended while {found.died_at or 'starting'}: {found.why}"
        do = "pip install --force-reinstall torch torchvision" if "torch" in said else ""
        found.findings.append(Finding(section, name, "problem", said, do))
    return found


def _imports() -> dict[str, str]:
    """Distribution → why it can't be imported; one that kills its process does not hide those behind it."""
    names = sorted(map(_bare, requirements().core), key=lambda name: name != "torch")  # most need it
    broken: dict[str, str] = {}
    while names:
        found = _run("imports", {"names": names})
        failed = {name: why for name, why in found.facts.items() if why and name != "ended"}
        if "ended" not in found.facts:
            culprit = found.died_at or names[0]
            failed[culprit] = f"importing it ends the process: {found.why}"
        untried = [name for name in names if name not in found.facts and name not in failed]
        for name in [*untried, *failed]:
            needs = [one for one in (*broken, *failed) if one in map(_bare, _requires(name))]
            if needs:
                failed[name] = f"{NEEDS}{needs[0]}"
        broken |= failed
        names = [name for name in untried if name not in broken]
    return broken


def _requires(name: str) -> list[str]:
    """What a distribution can't do without, its extras left out."""
    try:
        found = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [text for text in found if "extra ==" not in text]


def _run(name: str, request: Mapping[str, Any]) -> _Probe:
    found = _Probe()
    # Modules are found where this process finds them; -P adds the current folder only where it does.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(one for one in sys.path if one)}
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "told"
        file.touch()
        command = [sys.executable, "-P", "-m", "tapetum.commands.probes", name, str(file)]
        try:
            done = subprocess.run(
                command, input=json.dumps(request), capture_output=True, text=True, errors="replace",
                env=environment, timeout=TIMEOUT, check=False,
            )  # fmt: skip
            found.why = _ending(done.returncode, done.stderr)
        except subprocess.TimeoutExpired:
            found.why = f"no answer within {TIMEOUT:.0f} s"
        except OSError as error:
            found.why = f"{sys.executable} can't be started: {error}"
        for line in file.read_text(encoding="utf-8").splitlines():
            told = json.loads(line)
            if "finding" in told:
                found.findings.append(Finding(**told["finding"]))
            elif "fact" in told:
                key, value = told["fact"]
                found.facts[key] = value
            else:
                found.died_at = told["at"]
    if found.facts.get("ended"):
        found.died_at = found.why = ""  # an exit that fails after all was told is of no interest
    return found


def _ending(code: int, stderr: str) -> str:
    """Why a process ended: its signal, or the last line that it wrote."""
    if code == 0:
        return ""
    last = (stderr.strip().splitlines() or [f"exit code {code}"])[-1]
    if code > 0:
        return last
    try:
        return f"{signal.Signals(-code).name}" + (f" ({last})" if stderr.strip() else "")
    except ValueError:
        return f"signal {-code}"


# -- helpers -----------------------------------------------------------------------------------------------


def _lines(found: Examination, *, colour: bool) -> Iterator[str]:
    """The findings for people, a line each, and below it what to type."""
    width = max((len(one.name) for one in found.findings), default=0)
    for section in SECTIONS:
        rows = [one for one in found.findings if one.section == section]
        if not rows:
            continue
        yield f"\n{section}" if section != SECTIONS[0] else section
        for one in rows:
            mark = f"{_MARKS[one.status]:<8}"
            mark = f"\033[{_COLOURS[one.status]}m{mark}\033[0m" if colour else mark
            inline = f" → {one.do}" if one.do and one.status == "absent" else ""
            yield f"  {mark}{one.name:<{width}}  {one.said}{inline}"
            if one.do and not inline:
                yield f"  {'':<8}{'':<{width}}  → {one.do}"
    problems, warnings = found.count("problem"), found.count("warning")
    yield f"\n{_count(problems, 'problem')}, {_count(warnings, 'warning')}"


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}" + ("" if number == 1 else "s")


def _progress(step: str) -> None:
    """What takes so long, for whoever waits at a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{step + ' …' if step else ''}", end="", file=sys.stderr, flush=True)


def _bare(requirement: str) -> str:
    """The distribution's name in `lightning>=2.6.4,<3`."""
    name = requirement.strip()
    for at, character in enumerate(name):
        if not (character.isalnum() or character in "-_."):
            return name[:at]
    return name

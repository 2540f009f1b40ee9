"""What `tapetum doctor` sees without importing anything that may be broken: this file needs Python alone."""

from __future__ import annotations

import importlib.metadata
import netrc
import os
import platform
import re
import shutil
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

Status = Literal["ok", "warning", "problem", "absent"]

MODULES = {
    "hydra-core": "hydra",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
}
"""Distributions whose module has another name."""

NEEDS = "it needs "
"""Begins the reason of a package that can't be imported because another one can't."""

_SHOWN = (
    "torch", "torchvision", "lightning", "hydra-core", "transformers", "timm", "peft", "wandb"
)  # fmt: skip
_LITTLE_DISK, _NO_DISK, _LITTLE_SHM = 5e9, 5e8, 1e9  # bytes
_SECONDS = 5.0  # that a server has to answer


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    status: `absent` is something optional that is not there. do: what to type, for a warning and a problem.
    """

    section: str
    name: str
    status: Status
    said: str
    do: str = ""


@dataclass(frozen=True)
class Requirements:
    """What pyproject.toml asks for: Python's range, the dependencies, the extras."""

    python: str
    core: list[str]
    extras: dict[str, list[str]]


def requirements() -> Requirements:
    """Of the checkout that this file lies in, else of the installed package."""
    file = Path(__file__).parents[2] / "pyproject.toml"
    if file.is_file():
        project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == "tapetum":
            extras = dict(project["optional-dependencies"])
            return Requirements(project["requires-python"], list(project["dependencies"]), extras)
    found = importlib.metadata.metadata("tapetum")
    core: list[str] = []
    extras = {}
    for line in importlib.metadata.requires("tapetum") or []:
        name, _, marker = line.partition(";")
        extra = re.search(r"extra == ['\"](\w+)['\"]", marker)
        (extras.setdefault(extra.group(1), []) if extra else core).append(name.strip())
    return Requirements(found["Requires-Python"], core, extras)


def version_findings(broken: Mapping[str, str], chosen: Collection[str]) -> Iterator[Finding]:
    """Python and every package: there, in its range, importable.

    broken: distribution → why its import failed. chosen: loggers of the config, whose extra must be there.
    """
    wanted = requirements()
    try:
        from packaging.requirements import Requirement
        from packaging.specifiers import SpecifierSet
    except ImportError as error:
        yield Finding("versions", "packaging", "problem", _first(error), "pip install packaging")
        return
    python = platform.python_version()
    fits = python in SpecifierSet(wanted.python)
    yield Finding(
        "versions",
        "python",
        "ok" if fits else "problem",
        f"{python} ({sys.executable})" + ("" if fits else f", tapetum needs {wanted.python}"),
        "" if fits else "make train PYTHON=python3.12",
    )
    others = 0
    for text in wanted.core:
        needed = Requirement(text)
        there = installed(needed.name)
        install = f"pip install '{text.replace(' ', '')}'"
        if there is None:
            yield Finding("versions", needed.name, "problem", "not installed", install)
        elif there not in needed.specifier:
            said = f"{there} is outside {needed.specifier}"
            yield Finding("versions", needed.name, "problem", said, install)
        elif needed.name in broken:
            why = broken[needed.name]
            do = f"{install} --force-reinstall --no-cache-dir"
            do = f"mend {why.removeprefix(NEEDS)} first" if why.startswith(NEEDS) else do
            yield Finding("versions", needed.name, "problem", f"{there} can't be imported: {why}", do)
        elif needed.name in _SHOWN:
            yield Finding("versions", needed.name, "ok", there)
        else:
            others += 1
    yield Finding("versions", "others", "ok", f"{others} more packages are there and in their ranges")
    for extra, texts in wanted.extras.items():
        if extra == "dev":
            continue
        lacking = [text for text in texts if installed(Requirement(text).name) is None]
        install = f"pip install 'tapetum[{extra}]'"
        if not lacking:
            versions = ", ".join(str(installed(Requirement(text).name)) for text in texts)
            yield Finding("versions", extra, "ok", f"{versions} (optional)")
        elif extra in chosen:
            yield Finding("versions", extra, "problem", f"not installed, but logger={extra}", install)
        else:
            yield Finding("versions", extra, "absent", "not installed (optional)", install)


def installed(name: str) -> str | None:
    """The version of a distribution, None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def hardware_findings(workers: int) -> Iterator[Finding]:
    """Processor, memory, shared memory. workers: data.num_workers."""
    cores = usable_cores()
    said = f"{cores} of {os.cpu_count()} cores may be used, {_processor()}"
    threads = os.environ.get("OMP_NUM_THREADS")
    said += f", OMP_NUM_THREADS={threads}" if threads else ""
    if workers > cores:
        do = f"data.num_workers={cores}"
        yield Finding("machine", "processor", "warning", f"{said}; data.num_workers={workers} is more", do)
    else:
        yield Finding("machine", "processor", "ok", said)
    free, total = memory()
    yield Finding("machine", "memory", "ok", f"{gb(free)} free of {gb(total)}")
    shared = Path("/dev/shm")
    if shared.is_dir():
        usage = shutil.disk_usage(shared)
        said = f"{gb(usage.free)} free of {gb(usage.total)} in {shared}"
        if usage.free < _LITTLE_SHM and workers:
            yield Finding(
                "machine",
                "shared memory",
                "warning",
                f"{said}: worker processes hand over their batches there",
                "docker run --shm-size=8g …, or data.num_workers=0",
            )
        else:
            yield Finding("machine", "shared memory", "ok", said)


def usable_cores() -> int:
    """Cores that this process may use: its affinity and its control group's share."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        return max(1, min(affinity, -(-int(quota) // int(period))))
    return affinity


def memory() -> tuple[int, int]:
    """(free, total) bytes that this process may use."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = page * os.sysconf("SC_PHYS_PAGES")
    available = re.search(r"MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"))
    free = 1024 * int(available[1]) if available else total
    limit, used = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")
    if limit.isdigit() and used.isdigit() and int(limit) < total:
        total = int(limit)
        free = min(free, max(0, total - int(used)))
    return free, total


def matrix_units() -> list[str]:
    """What the processor has for bfloat16: AMX, AVX512-BF16, or Arm's BF16; empty where nothing is known."""
    flags = set(re.findall(r"\b(amx_bf16|avx512_bf16|bf16)\b", _read("/proc/cpuinfo")))
    names = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "bf16": "BF16 instructions"}
    return [name for flag, name in names.items() if flag in flags]


def folder_findings(outputs: str, cache: str) -> Iterator[Finding]:
    """Whether runs and caches can be written, and how much room they have. Nothing is made there."""
    for name, path, key, variable in (
        ("outputs", outputs, "paths.outputs", "TAPETUM_OUTPUTS"),
        ("cache", cache, "paths.cache", "TAPETUM_CACHE"),
    ):
        folder = Path(path).expanduser()
        existing = next(one for one in (folder, *folder.absolute().parents) if one.exists())
        other = f"{key}=DIR, or export {variable}=DIR"
        try:
            with tempfile.TemporaryFile(dir=existing):
                pass
        except OSError as error:
            said = f"{folder} can't be written: {error.strerror or error}"
            yield Finding("folders", name, "problem", said, other)
            continue
        free = shutil.disk_usage(existing).free
        status: Status = "problem" if free < _NO_DISK else "warning" if free < _LITTLE_DISK else "ok"
        said = f"{folder}, {gb(free)} free" + ("" if folder.exists() else " (made when first used)")
        yield Finding("folders", name, status, said, "" if status == "ok" else f"make room, or {other}")


def data_findings(
    options: Mapping[str, Any], chosen: str | None, data: Mapping[str, Any], cache: str
) -> Iterator[Finding]:
    """Which data sets have their folder.

    options: `data=` option → its root, None where it leaves the root to the user. data: the config's own node
    of the chosen one.
    """
    for name, root in sorted({**options, **({chosen: data["root"]} if chosen else {})}.items()):
        if root is None:
            yield Finding("data", name, "absent", "has no folder of its own", f"data={name} data.root=DIR")
            continue
        folder = Path(root).expanduser()
        bring = f"data={name} data.root=DIR, or export TAPETUM_DATA=DIR where DIR/{folder.name} is the data"
        missing = _missing_roots(data) if name == chosen else []
        if missing:
            split, path = missing[0]
            said = f"data.roots.{split}={path} is no folder"
            yield Finding("data", name, "problem", said, f"data.roots.{split}=DIR")
        elif folder.is_dir() or (name == chosen and {"train", "test"} <= set(data.get("roots") or ())):
            yield Finding("data", name, "ok", str(folder))
        elif folder.is_relative_to(Path(cache).expanduser()):
            yield Finding("data", name, "ok", f"{folder} (rendered when first used)")
        elif name == chosen:
            yield Finding("data", name, "problem", f"{folder} is no folder", bring)
        else:
            yield Finding("data", name, "absent", f"{folder} is no folder", f"data={name} data.root=DIR")


def tracker_findings(chosen: Collection[str], tracking: str) -> Iterator[Finding]:
    """Whether what a logger needs is there; asks no server, and reads of credentials only that they exist.

    chosen: loggers of the config. tracking: where MLflow keeps runs.
    """
    there = installed("wandb")
    if there is not None:
        mode = os.environ.get("WANDB_MODE", "online")
        key = _wandb_key(str(urlsplit(wandb_address()).hostname))
        said = f"wandb {there}, WANDB_MODE={mode}, {key or 'not logged in'}"
        if mode in ("offline", "disabled", "dryrun") or key:
            yield Finding("trackers", "wandb", "ok", said)
        elif "wandb" in chosen:
            yield Finding("trackers", "wandb", "warning", said, "wandb login, or export WANDB_MODE=offline")
        else:
            yield Finding("trackers", "wandb", "absent", said, "wandb login, or export WANDB_MODE=offline")
    for name in ("tensorboard", "mlflow"):
        there = installed(name)
        if there is None:
            continue  # told under versions
        where = f", {tracking}" if name == "mlflow" and tracking else ""
        yield Finding("trackers", name, "ok", f"{name} {there}{where}")


def online_findings(needed: Collection[str], tracking: str) -> Iterator[Finding]:
    """Whether the servers answer, whatever they answer.

    needed: those without which the config can't run. tracking: MLflow's address, asked if it is a server.
    """
    places = [
        ("hub", os.environ.get("HF_ENDPOINT", "https://huggingface.co"), "HF_HUB_OFFLINE=1 uses the cache"),
        ("wandb", wandb_address(), "WANDB_MODE=offline keeps the run here"),
    ]
    if tracking.startswith("http"):
        places.append(("mlflow", tracking, "unset MLFLOW_TRACKING_URI, or logger=none"))
    for name, address, otherwise in places:
        began = time.perf_counter()
        try:
            with urllib.request.urlopen(address, timeout=_SECONDS):
                pass
        except urllib.error.HTTPError:
            pass  # it answered
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            status: Status = "problem" if name in needed else "warning"
            yield Finding("network", name, status, f"{address} does not answer: {reason}", otherwise)
            continue
        said = f"{address} answered in {time.perf_counter() - began:.1f} s"
        yield Finding("network", name, "ok", said)


def wandb_address() -> str:
    """Where runs would be sent."""
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")


def gb(count: float) -> str:
    """Bytes as `12.3 GB`."""
    return f"{count / 1e9:.1f} GB"


# -- helpers -----------------------------------------------------------------------------------------------


def _wandb_key(host: str) -> str:
    """Where a key for the host is kept, empty where there is none."""
    if os.environ.get("WANDB_API_KEY"):
        return "logged in by WANDB_API_KEY"
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return f"logged in to {host}" if netrc.netrc(str(file)).authenticators(host) else ""
    except (OSError, netrc.NetrcParseError):
        return ""


def _missing_roots(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    roots = data.get("roots") or {}
    return [(split, path) for split, path in roots.items() if path and not Path(path).expanduser().is_dir()]


def _processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _first(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

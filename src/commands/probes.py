"""The parts of `tapetum doctor` that import what may be broken; each runs in a process of its own.

`python -m tapetum.commands.probes NAME FILE` reads a request (JSON) from standard input and appends JSON
lines to FILE as it goes: `{"at": …}` before each step, `{"finding": …}` and `{"fact": [name, value]}` after
it. If the process dies or hangs, the last `at` says where.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import ConfigError, TapetumError
from .machine import MODULES, Finding, Status, gb, matrix_units

_SIDE, _TRIES = 512, 30  # of the matrices that are multiplied, and how often; the fastest counts
_HEADROOM = 0.9  # share of the free memory that an estimate may fill


class Told:
    """What a probe has to tell, written at once so that it outlives the process."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def at(self, step: str) -> None:
        """The step that begins."""
        self._write({"at": step})

    def fact(self, name: str, value: Any) -> None:
        """Something that the parent goes on with."""
        self._write({"fact": [name, value]})

    def finding(self, section: str, name: str, status: Status, said: str, do: str = "") -> None:
        """A line of the examination."""
        self._write({"finding": asdict(Finding(section, name, status, said, do))})

    def _write(self, line: Mapping[str, Any]) -> None:
        with self.file.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps(line) + "\n")


def config(told: Told, request: Mapping[str, Any]) -> None:
    """Compose the overrides and the root of every data set; phase 1 of the check."""
    told.at("composing the config")
    from ..config.check import check_config
    from ..config.compose import compose
    from ..config.groups import option_names
    from ..config.overrides import prepare

    try:
        composed = compose(prepare(request["overrides"], multirun=False))
        told.fact("config", composed.config)
        told.fact("choices", composed.choices)
        check_config(composed, need_files=False)
    except ConfigError as error:
        _config_problems(told, error)
    for name in option_names("data"):
        told.at(f"composing data={name}")
        paths = [one for one in request["overrides"] if one.startswith("paths.")]
        try:
            root = compose([*paths, f"data={name}"]).config["data"]["root"]
        except ConfigError:
            root = None  # it is for the user to say
        told.fact(f"data={name}", root)


def imports(told: Told, request: Mapping[str, Any]) -> None:
    """Import every distribution of the request, one after the other."""
    for name in request["names"]:
        told.at(name)
        try:
            importlib.import_module(MODULES.get(name, name.replace("-", "_")))
        except Exception as error:  # whatever a broken package raises is what we are here for
            told.fact(name, _said(error))
        else:
            told.fact(name, None)


def devices(told: Told, request: Mapping[str, Any]) -> None:
    """What torch can compute on, and in which precisions it really multiplies."""
    told.at("importing torch")
    import torch

    told.at("multiplying on the processor")
    _processor(told, str(request["precision"]))
    told.at("looking for CUDA")
    if torch.version.cuda is None:
        hidden = Path("/proc/driver/nvidia/version").exists()
        said = f"torch {torch.__version__} is built without CUDA"
        do = "pip install --force-reinstall torch torchvision" if hidden else ""
        told.finding(
            "machine",
            "cuda",
            "warning" if hidden else "absent",
            said + (", but there is a driver" if hidden else ""),
            do,
        )
    elif not torch.cuda.is_available():
        _no_cuda(told)
    else:
        for number in range(torch.cuda.device_count()):
            told.at(f"multiplying on cuda:{number}")
            _cuda(told, number)
    told.at("looking for an Apple GPU")
    if torch.backends.mps.is_available():
        told.at("multiplying on mps")
        times, refused = _products(torch.device("mps"))
        told.finding("machine", "mps", "ok" if times else "problem", _speeds(times, refused))


def experiment(told: Told, request: Mapping[str, Any]) -> None:
    """Phase 2 of the check without the index, the weights it needs, and the memory of a step."""
    told.at("importing torch and lightning")
    made: dict[str, Any] = request["config"]
    from ..runs.building import build_module, build_network_on_meta, parameter_counts
    from ..runs.memory import UnknownMemoryError, estimate
    from .memory import smaller
    from .preflight import hardware_problems, network_problems

    told.at("looking for weights")
    _weights(told, made)
    told.at("building the network")
    problems = [*hardware_problems(made["trainer"]), *network_problems(made)]
    for problem in problems:
        told.finding("config", "check", "problem", problem, request["check"])
    if problems:
        return
    net = build_network_on_meta(made)
    total, trainable = parameter_counts(net)
    told.finding("config", "network", "ok", f"{total:,} parameters, {trainable:,} of them trained")
    told.at("estimating memory")
    try:
        module: Any = build_module(made, net, train=False)
        found = estimate(net, made, module.input_spec)
    except UnknownMemoryError as error:
        told.fact("memory", f"unknown: {error}")
        told.finding("config", "memory", "absent", f"unknown: {error}")
        return
    told.fact("memory", found.as_dict())
    free, device = _free(made["trainer"], request["free"])
    if found.total > _HEADROOM * free:
        said = f"{found}, but {device} has {gb(free)} free"
        room = max(1.0, _HEADROOM * free - (found.total - found.activations))
        do = smaller(made, found.phase, parts=max(2, math.ceil(found.activations / room)))
        told.finding("config", "memory", "problem", said, do.lstrip(".: "))
    else:
        told.finding("config", "memory", "ok", f"{found}; {device} has {gb(free)} free")


PROBES = {probe.__name__: probe for probe in (config, imports, devices, experiment)}


def main() -> None:
    """Run one probe; what it raises is a finding, too."""
    name, file = sys.argv[1:]
    told = Told(Path(file))
    try:
        PROBES[name](told, json.load(sys.stdin))
    except TapetumError as error:
        told.finding("config", name, "problem", str(error))
        told.fact("ended", True)
    else:
        told.fact("ended", True)


# -- devices -----------------------------------------------------------------------------------------------


def _processor(told: Told, precision: str) -> None:
    import torch

    torch.set_num_threads(1)  # several would wait for each other where other programs run, too
    times, refused = _products(torch.device("cpu"))
    units = matrix_units()
    why = f", with {' and '.join(units)}" if units else ", without AMX or AVX512-BF16"
    said = f"torch {torch.__version__}, one thread: {_speeds(times, refused)}"
    if "bfloat16" not in times or "float32" not in times:
        told.finding("machine", "cpu", "problem", said, "pip install --force-reinstall torch torchvision")
        return
    ratio = times["float32"] / times["bfloat16"]
    said += f"; bfloat16 is {ratio:.1f}× as fast as float32{why}"
    if precision.startswith("bf16") and ratio < 1 and not torch.cuda.is_available():
        told.finding("machine", "cpu", "warning", said, "trainer.precision=32-true")
    else:
        told.finding("machine", "cpu", "ok", said)


def _cuda(told: Told, number: int) -> None:
    import torch

    try:
        free, total = torch.cuda.mem_get_info(number)
        major, minor = torch.cuda.get_device_capability(number)
        name = torch.cuda.get_device_name(number)
        times, refused = _products(torch.device("cuda", number))
    except RuntimeError as error:
        do = "nvidia-smi, and CUDA_VISIBLE_DEVICES without this device"
        told.finding("machine", f"cuda:{number}", "problem", _said(error), do)
        return
    native = "bfloat16 in hardware" if torch.cuda.is_bf16_supported(False) else "no bfloat16 in hardware"
    said = f"{name} ({major}.{minor}), {gb(free)} free of {gb(total)}, {native}: {_speeds(times, refused)}"
    ok = "float32" in times
    do = "" if ok else "pip install --force-reinstall torch torchvision"
    told.finding("machine", f"cuda:{number}", "ok" if ok else "problem", said, do)


def _no_cuda(told: Told) -> None:
    """Why a torch that is built for CUDA sees no device."""
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        reason = "no device is visible"
    except (RuntimeError, AssertionError) as error:
        reason = _said(error).split(". ")[0]
    driver = Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    said = f"torch is built for CUDA {torch.version.cuda}, but {reason}"
    said += f" (CUDA_VISIBLE_DEVICES={visible!r})" if visible is not None else ""
    if driver:
        told.finding("machine", "cuda", "warning", said, "nvidia-smi, unset CUDA_VISIBLE_DEVICES")
    else:
        told.finding("machine", "cuda", "absent", said)


def _products(device: Any) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds of a matrix product in each precision; and what the device refused or got wrong."""
    import torch

    times: dict[str, float] = {}
    refused: dict[str, str] = {}
    left = torch.randn(_SIDE, _SIDE, generator=torch.Generator().manual_seed(0))
    expected = (left @ left).to(device)
    scale = float(expected.abs().mean())
    for name in ("float32", "bfloat16", "float16"):
        try:
            there = left.to(device, getattr(torch, name))
            product = there @ there
            wrong = float((product.float() - expected).abs().mean()) / scale
            best = min(_timed(there, device) for _ in range(_TRIES))
        except RuntimeError as error:
            refused[name] = _said(error)
            continue
        if wrong < 0.05:  # a matrix of bfloat16 has an error of 0.003
            times[name] = best
        else:
            refused[name] = "wrong results"
    return times, refused


def _timed(matrix: Any, device: Any) -> float:
    import torch

    began = time.perf_counter()
    product = matrix @ matrix
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        float(product[0, 0])
    return time.perf_counter() - began


def _speeds(times: Mapping[str, float], refused: Mapping[str, str]) -> str:
    """`float32 0.08, bfloat16 0.5 TFLOP/s`, and what is not there."""
    rates = ", ".join(f"{name} {2 * _SIDE**3 / seconds / 1e12:.2f}" for name, seconds in times.items())
    missing = "; ".join(f"no {name}: {why}" for name, why in refused.items())
    return "; ".join(part for part in (f"{rates} TFLOP/s" if rates else "", missing) if part)


def _free(trainer: Mapping[str, Any], memory: int) -> tuple[int, str]:
    """Bytes that are free on the device of a Trainer's config, and its name."""
    import torch

    if trainer["accelerator"] in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0], "the GPU"
    return memory, "this machine"


# -- weights -----------------------------------------------------------------------------------------------


def _weights(told: Told, made: Mapping[str, Any]) -> None:
    """Whether the pretrained weights of the config are here: in the hub's cache, or at the path given."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    kept = {one.parent.parent for one in cache.glob("models--*/snapshots/*") if any(one.iterdir())}
    offline = bool(constants.HF_HUB_OFFLINE)
    models = "1 model" if len(kept) == 1 else f"{len(kept)} models"
    mode = "HF_HUB_OFFLINE is set, so nothing is fetched" if offline else "others are fetched when first used"
    told.finding("weights", "hub", "ok", f"{cache}: {models}; {mode}")
    given = made["model"]["net"].get("pretrained")
    if given is None or given is False:
        told.finding(
            "weights",
            "model",
            "ok",
            "starts from random weights" if given is False else "has no pretrained weights",
        )
        return
    if isinstance(given, str) and Path(given).expanduser().exists():
        told.finding("weights", "model", "ok", given)
        return
    identity = given if isinstance(given, str) else _hub_id(str(made["model"]["net"].get("name")))
    if identity is None:
        told.finding("weights", "model", "absent", f"unknown for {made['model']['net']['_target_']}")
        return
    told.fact("needs hub", True)
    snapshots = (cache / f"models--{identity.replace('/', '--')}" / "snapshots").glob("*/*")
    if any(one.exists() for one in snapshots):
        told.finding("weights", "model", "ok", f"{identity}, in the hub's cache")
        told.fact("needs hub", False)
    else:
        status: Status = "problem" if offline else "warning"
        do = f"hf download {identity}" + (" (with HF_HUB_OFFLINE unset)" if offline else "")
        told.finding(
            "weights", "model", status, f"{identity} is not in the hub's cache", f"{do}, or {_RANDOM}"
        )


_RANDOM = "model.net.pretrained=false"


def _hub_id(name: str) -> str | None:
    """Where timm's own weights of a model come from."""
    from ..backbones.timm_tower import pretrained_config

    try:
        found = pretrained_config(name).get("hf_hub_id")
    except ConfigError:
        return None
    return str(found) if found else None


# -- helpers -----------------------------------------------------------------------------------------------


def _config_problems(told: Told, error: ConfigError) -> None:
    for problem in error.problems:
        told.finding("config", "check", "problem", problem)


def _said(error: BaseException) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if isinstance(error, RuntimeError) else f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    main()

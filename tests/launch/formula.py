"""A place whose jobs end at once: their figures are a closed form of their config."""

from __future__ import annotations

import math

from tapetum.launch.jobs import run_jobs
from tapetum.launch.search import OptunaSearch
from tapetum.launch.space import read_space
from tapetum.launch.sweep_directory import SweepDirectory
from tapetum.runs.directory import write_json

SWEEP = {
    "trials": 4, "sampler": "tpe", "seed": 3, "pruner": "none", "warmup": 1, "startup_trials": 2,
    "objectives": None, "storage": None, "study": None,
}  # fmt: skip
SPACE = ("optimizer.lr=tag(log,interval(1e-5,1e-1))", "data.batch_size=range(8,65,8)")


def auroc(config):
    """Best at a learning rate of 1e-3 and a batch of 32."""
    off = math.log10(config["optimizer"]["lr"]) + 3, (config["data"]["batch_size"] - 32) / 32
    return 1 - (off[0] ** 2 + off[1] ** 2) / 10


class Formula:
    """A `Place`: `ends` says for a config what metrics.json becomes, or the exit code of a job that fails."""

    look_s = 0.0

    def __init__(self, ends=lambda config: {"best/val/auroc": auroc(config)}, jobs=1, most=math.inf):
        self.ends, self.jobs, self.most = ends, jobs, most
        self.started: list[int] = []
        self.open = self.most_open = 0

    def start(self, run, checkpoint, config):
        if len(self.started) == self.most:
            raise Killed
        self.started.append(int(run.path.name))
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        return Job(self, run, self.ends(config))


class Job:
    def __init__(self, place, run, figures):
        self.place, self.run, self.figures, self.looks, self.code = place, run, figures, 2, None

    def poll(self):
        self.looks -= 1
        if self.code is None and self.looks <= 0:
            self.place.open -= 1
            self.code = self.figures if isinstance(self.figures, int) else 0
            if not self.code:
                write_json(self.run.metrics, self.figures)
        return self.code

    def send(self, number):
        pass


class Killed(Exception):
    """The sweep's process, in the middle of everything."""


def search(directory, *words, space=SPACE, **sweep):
    return OptunaSearch(read_space([*space, *words]), {**SWEEP, **sweep}, directory)


def run(source, directory, place=None, said=None):
    place = place or Formula()
    sweep = SweepDirectory(directory, [])
    with sweep.held():
        sweep.begin(source.swept, {})
        lines = [] if said is None else said
        return run_jobs(source, sweep, place, stop_on_failure=False, say=lines.append)

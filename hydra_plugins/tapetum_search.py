"""Hydra's door to `tapetum.launch.search`: a sweep whose jobs an optuna study proposes.

Hydra accepts sweepers from this namespace package only, so this file stays thin: it joins the space of the
YAML with that of the command line and hands both over. Trials run as every sweep's jobs do, never here.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class TapetumSearch(Sweeper):
    """Searches over what `hydra.sweeper.params` and the command line sweep; the latter wins, key by key."""

    def __init__(self, params: Mapping[str, Any] | None = None) -> None:
        self.params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's hook: remembers what it composed of all that is not swept."""
        self.loader = hydra_context.config_loader
        self.composed = config

    def sweep(self, arguments: list[str]) -> None:
        """Run the search, then print what it found."""
        from tapetum.errors import ConfigError

        if find_spec("optuna") is None:
            raise ConfigError(
                "a search needs the package optuna, which is not installed: type pip install "
                "'tapetum[search]'"
            )
        from tapetum.launch.search import OptunaSearch
        from tapetum.launch.space import read_space
        from tapetum.launch.sweep import run_sweep

        words = [f"{key}={'null' if value is None else value}" for key, value in self.params.items()]
        space = read_space([*words, *arguments], self.loader)
        node = self.composed.get("sweep")
        settings: Any = None if node is None else OmegaConf.to_container(node, resolve=True)
        search = OptunaSearch(space, settings, Path(str(self.composed.hydra.sweep.dir)))
        run_sweep(self.composed, search)
        print(*search.best(), sep="\n", flush=True)


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="tapetum_search",
    node={"_target_": "hydra_plugins.tapetum_search.TapetumSearch", "params": None},
    provider="tapetum",
)

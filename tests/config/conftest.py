from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tapetum.config.check import check_config
from tapetum.config.compose import Composed, compose
from tapetum.config.overrides import prepare
from tapetum.errors import ConfigError

Check = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine's data, cache or outputs reach a test."""
    monkeypatch.chdir(tmp_path)
    for name in ("TAPETUM_DATA", "TAPETUM_CACHE", "TAPETUM_OUTPUTS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def problems() -> Check:
    """The problems that a command line has, from the first stage that finds any."""

    def run(*overrides: str, multirun: bool = False) -> list[str]:
        try:
            words = prepare(overrides, multirun=multirun)
            if not multirun:
                check_config(compose(words))
        except ConfigError as error:
            return list(error.problems)
        return []

    return run


@pytest.fixture
def edited() -> Check:
    """The problems of a good config after an edit, as of a YAML file that no command line looks at."""

    def run(edit: Callable[[dict[str, Any]], object], *overrides: str) -> list[str]:
        composed = compose(prepare(overrides, multirun=False))
        edit(composed.config)
        try:
            check_config(Composed(composed.config, composed.choices))
        except ConfigError as error:
            return list(error.problems)
        return []

    return run


@pytest.fixture
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], str]:
    """Writes a package with the given files and returns its name, which no other test uses."""

    def write(files: dict[str, str]) -> str:
        name = f"own_{secrets.token_hex(4)}"
        folder = tmp_path / "packages" / name
        folder.mkdir(parents=True)
        for file, source in {"__init__.py": "", **files}.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(source)
        monkeypatch.syspath_prepend(str(folder.parent))
        return name

    return write

"""What a newcomer gets: an environment that is ready or says why not, and a wheel that works on its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[1]
SETTINGS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
HEAVY = (
    "torch",
    "torchvision",
    "lightning",
    "transformers",
    "timm",
    "peft",
    "wandb",
    "matplotlib",
    "sklearn",
)


def test_every_package_under_src_is_listed():
    found = {
        ".".join(("tapetum", *file.parent.relative_to(REPOSITORY / "src").parts))
        for file in (REPOSITORY / "src").rglob("*.py")
    }
    assert set(SETTINGS["tool"]["setuptools"]["packages"]) == found | {"tapetum.conf", "hydra_plugins"}


def test_every_room_says_what_it_is():
    missing = [
        folder.name
        for folder in (REPOSITORY / "src").iterdir()
        if any(folder.rglob("*.py")) and not (folder / "__init__.py").is_file()
    ]
    assert missing == []


def test_every_requirement_is_pinned_once_and_within_its_range():
    pins = {}
    for line in (REPOSITORY / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            assert canonical(name) not in pins, f"{name} is pinned twice"
            pins[canonical(name)] = version
    extras = SETTINGS["project"]["optional-dependencies"].values()
    for text in [*SETTINGS["project"]["dependencies"], *(line for extra in extras for line in extra)]:
        requirement = Requirement(text)
        assert pins[canonical(requirement.name)] in requirement.specifier, text


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The built wheel; built from a copy, so that no build product is left in the checkout."""
    tree = tmp_path_factory.mktemp("tree")
    # Only what git knows: a file that an ignore rule swallows is in nobody's clone.
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "src", "conf", "hydra_plugins"]
    names = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split()
    for name in (REPOSITORY / one for one in names):
        if name.is_file():
            copied = tree / name.relative_to(REPOSITORY)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, copied)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, tree / name)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tree / "dist")]
    done = subprocess.run([*build, str(tree)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return zipfile.ZipFile(next((tree / "dist").glob("*.whl")))


def test_wheel_holds_every_file_that_a_run_needs(wheel):
    expected = set()
    for folder, package, kinds in (
        ("src", "tapetum", ("*.py", "*.html", "*.css", "py.typed")),
        ("conf", "tapetum/conf", ("*.py", "*.yaml")),
        ("hydra_plugins", "hydra_plugins", ("*.py",)),
    ):
        root = REPOSITORY / folder
        expected |= {
            f"{package}/{f.relative_to(root).as_posix()}" for kind in kinds for f in root.rglob(kind)
        }
    assert expected - set(wheel.namelist()) == set()


def test_wheel_works_outside_the_checkout(wheel, tmp_path):
    wheel.extractall(tmp_path / "site")
    modules = sorted(
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in wheel.namelist()
        if name.endswith(".py") and not name.endswith("__main__.py")
    )
    program = f"""
import importlib, pathlib, sys
for name in {modules!r}:
    module = importlib.import_module(name)
    assert module.__file__.startswith({str(tmp_path)!r}), (name, module.__file__)
from importlib.resources import files
assert files("tapetum.conf").joinpath("train.yaml").is_file()
from hydra import compose, initialize_config_module
with initialize_config_module("tapetum.conf", version_base="1.3"):
    assert compose("train").seed is not None
"""
    done = python("-c", program, cwd=tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert done.returncode == 0, done.stderr


def light_modules() -> list[str]:
    """What stands between typing a command and its first answer: the command line and the config."""
    files = [REPOSITORY / "src/__init__.py", REPOSITORY / "src/errors.py", REPOSITORY / "src/cli.py"]
    files += sorted((REPOSITORY / "src/config").glob("*.py"))
    dotted = (".".join(("tapetum", *f.relative_to(REPOSITORY / "src").with_suffix("").parts)) for f in files)
    return [name.removesuffix(".__init__") for name in dotted]


@pytest.mark.parametrize("module", light_modules())
def test_command_line_and_config_import_nothing_heavy(module):
    program = f"import sys, {module}; print(*sorted(set(sys.modules) & set({HEAVY!r})))"
    done = python("-c", program, cwd=REPOSITORY)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that set-up reads, and a PATH with a false uv: it makes an environment in no time."""
    (tmp_path / "scripts").mkdir()
    for name in ("pyproject.toml", "constraints.txt", "scripts/setup.sh"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    tool(tmp_path, "python3", f'exec {sys.executable} "$@"')
    tool(
        tmp_path,
        "uv",
        'echo "$@" >> uv.log\n'
        'if [ "$1" = venv ]; then mkdir -p .venv/bin; touch .venv/made; cp bin/imports .venv/bin/python; fi',
    )
    tool(tmp_path, "imports", 'test "$*" = "-c import torchvision"')
    return tmp_path


def test_setup_installs_the_pinned_set_once(clone):
    first = setup(clone)
    assert first.returncode == 0, first.stderr
    assert (
        "pip install --python .venv/bin/python -c constraints.txt -e .[dev]" in (clone / "uv.log").read_text()
    )
    calls = (clone / "uv.log").read_text()
    second = setup(clone)
    assert (second.returncode, second.stdout) == (0, "")
    assert (clone / "uv.log").read_text() == calls


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_changed_requirements_make_the_environment_anew(clone, name):
    setup(clone)
    (clone / ".venv/left-over").touch()
    with (clone / name).open("a") as file:
        file.write("\n# changed\n")
    assert setup(clone).returncode == 0
    assert (clone / ".venv/made").is_file()
    assert not (clone / ".venv/left-over").exists()


def test_copied_clone_does_not_go_on_using_the_environment_of_the_first(clone, tmp_path_factory):
    setup(clone)
    (clone / ".venv/left-over").touch()
    copy = shutil.copytree(clone, tmp_path_factory.mktemp("copy") / "clone")
    assert setup(copy).returncode == 0
    assert not (copy / ".venv/left-over").exists()


def test_interrupted_installation_is_never_taken_for_ready(clone):
    tool(clone, "uv", 'mkdir -p .venv/bin; [ "$1" = venv ] || exit 7')
    assert setup(clone).returncode == 7
    assert (clone / ".venv").is_dir()
    assert setup(clone).returncode == 7


def test_broken_torchvision_stops_the_setup(clone):
    tool(clone, "imports", "echo 'operator torchvision::nms does not exist' >&2; exit 1")
    for _ in range(2):
        done = setup(clone)
        assert done.returncode == 1
        assert "operator torchvision::nms does not exist" in done.stderr
        assert "torchvision cannot be imported" in done.stderr


def test_missing_venv_module_prints_the_apt_line_and_touches_nothing(clone):
    (clone / "bin/uv").unlink()
    tool(clone, "python3", 'case "$2" in *version*) echo 3.11 ;; *) exit 1 ;; esac')
    (clone / ".venv").mkdir()
    done = setup(clone)
    assert done.returncode == 1
    assert "sudo apt-get install python3-venv" in done.stderr
    assert (clone / ".venv").is_dir()


@pytest.mark.parametrize("version", ["3.10", "3.14"])
def test_python_out_of_range_stops_with_what_to_do(clone, version):
    tool(clone, "python3", f"echo {version}")
    done = setup(clone)
    assert done.returncode == 1
    assert f"python3 is Python {version}; tapetum needs 3.11, 3.12 or 3.13" in done.stderr
    assert "make train PYTHON=python3.12" in done.stderr


def test_missing_python_prints_the_apt_line(clone):
    done = setup(clone, PYTHON="python3.none")
    assert done.returncode == 1
    assert "python3.none is not installed" in done.stderr
    assert "sudo apt-get install python3 python3-venv" in done.stderr


def setup(clone: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run set-up with the false tools, and of the real ones only those that it needs: no uv among them."""
    for name in ("basename", "cat", "cksum", "cp", "dirname", "mkdir", "rm", "sh", "touch"):
        if not (clone / "bin" / name).exists():
            (clone / "bin" / name).symlink_to(str(shutil.which(name)))
    command = [str(clone / "bin/sh"), str(clone / "scripts/setup.sh")]
    environment = {"PATH": str(clone / "bin"), **environment}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def tool(clone: Path, name: str, script: str) -> None:
    file = clone / "bin" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def python(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **environment})


def canonical(name: str) -> str:
    return name.lower().replace("_", "-")

"""Every command in the pages runs as it is written.

A page is executed from top to bottom in a folder of its own that holds tiny data in the true layouts at the
paths the page names. What is not literally what a user types stands in two tables: REPLACED appends devices,
limits and weights to a command, COMMANDS says what is done with it, and so what is asserted of one that
can't run here. `tapetum` and `python train.py` run in this process, and so do the jobs of a sweep, since
importing torch takes seconds.
"""

from __future__ import annotations

import ast
import functools
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import huggingface_hub.constants
import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from tapetum.cli import main
from tapetum.config.groups import groups, option_names
from tapetum.config.overrides import prepare
from tapetum.errors import ConfigError
from tapetum.runs.directory import RunDirectory

from commands.experiments import jobs_in_this_process
from fetching.hub_server import Hub, serving
from layouts import (
    make_aigcdetectbenchmark,
    make_aigibench,
    make_cifake,
    make_community_forensics,
    make_drct,
    make_flickr30k,
    make_folder,
    make_forensynths,
    make_genimage,
    make_hf,
    make_image,
    make_image_text_folder,
    make_infrared_folder,
    make_llava,
    make_manifest,
    make_peer_list,
    make_solar_modules,
    make_tar_of,
    make_tars,
    make_univfd,
    make_wildrf,
)

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{one.name}" for one in (ROOT / "docs").glob("*.md"))]
DECISIONS = sorted(f"docs/decisions/{one.name}" for one in (ROOT / "docs" / "decisions").glob("*.md"))
COMMAND = re.compile(r"(tapetum|python|make|git|pip|ls|\.venv/bin/\w+|\.|eval|RUN=\S+) ?")

# A command that matches all of the first words and none of the second gets the overrides behind it, and why.
REPLACED: list[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], str]] = [
    (("train",), (), ("trainer.max_epochs=1", "accelerator=cpu"), "limit, device"),
    (("train", "trainer.devices=4"), (), ("trainer.devices=2",), "device"),
    (("train",), (), ("train.report=false",), "limit: the reports of one task are like each other"),
    (("train", "resume=outputs/"), (), ("trainer.max_epochs=2",), "limit: one epoch more than the run had"),
    (("train", "gradual_unfreeze"), (), ("trainer.max_epochs=6",), "limit: as long as its schedule"),
    (("train",), (" data=", " experiment="), ("data.index.train=64", "data.index.test=64"), "limit"),
    (("check",), (" data=", " experiment=", "data.index.train="), ("data.index.train=64",), "limit"),
    (("train", " data="), (), ("data.limit=8", "data.num_workers=0"), "limit"),
    (
        ("train", " experiment="),
        ("=synthetic_infrared", "=solar_modules", "=synthetic_captions", "=synthetic_vqa"),
        ("data.limit=8", "data.num_workers=0"),
        "limit",
    ),
    (("train", "=synthetic_captions"), (), ("data.index.train=64", "data.index.test=64"), "limit"),
    (
        ("train", "clip_qwen"),
        ("model.net.language_model=",),
        ("model.net.backbone=tiny-clip", "model.net.language_model=tiny-qwen3"),
        "no hub",
    ),
    (("train", "experiment=pixel_llm"), (), ("model.net.depth=1", "model.net.decoder_depth=1"), "limit"),
    (("train", "=synthetic_infrared"), (), ("data.index.train=64", "data.index.test=64"), "limit"),
    (("train", "=solar_modules"), (), ("data.limit=48",), "limit: a few of each class"),
    (("train", " experiment="), (), ("scheduler.warmup_epochs=0",), "limit: a warm-up within one epoch"),
    (("train", " experiment=infrared_resnet50"), (), ("model.net.pretrained=false",), "no hub"),
    (("train", " experiment=product_photo_detector"), (), ("model.net.pretrained=false",), "no hub"),
    (
        ("train", "instructblip_lora"),
        ("model.net.backbone=", "instructblip_prompt"),
        ("model.net.backbone=tiny:instructblip",),
        "no hub",
    ),
    (
        ("train", "qwen_vl_lora"),
        ("model.net.backbone=",),
        ("model.net.backbone=tiny:qwen_vl", "model.geometry.size=56"),
        "no hub",
    ),
    (("train", "experiment=instructblip_lora"), (), ("trainer.val_check_interval=1",), "limit"),
    (("train", "experiment=qwen_vl_lora"), (), ("trainer.val_check_interval=1",), "limit"),
    (("train", "experiment=", "vl"), ("_vqa",), ("scheduler.warmup_steps=1",), "limit: a short warm-up"),
    (("train", "experiment=instructblip"), (), ("scheduler.warmup_steps=1",), "limit: a short warm-up"),
    (
        ("train", "=synthetic_vqa"),
        (),
        ("data.index.train=64", "data.index.test=64", "data.val_fraction=0.2", "scheduler.warmup_steps=1"),
        "limit",
    ),
    (("train", "wandb"), ("logger.wandb.mode",), ("logger.wandb.mode=offline",), "no account"),
]


@dataclass
class Page:
    """A page being executed: where, and what its shell variables are."""

    name: str
    folder: Path
    prelude: list[str] = field(default_factory=list)
    names: dict[str, object] = field(default_factory=dict)

    def shell(self, line: str) -> str:
        """What a line prints in bash, with the variables that earlier lines have set."""
        done = subprocess.run(
            ["bash", "-euc", "\n".join([*self.prelude, line])],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{self.name}: {line}\n{done.stderr}"
        return done.stdout

    def words(self, line: str) -> list[str]:
        """The words of a line as bash hands them to a program."""
        return self.shell(f"printf '%s\\0' {line}").split("\0")[:-1]


def test_every_page_is_executed() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/runs.md", "docs/detection.md"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_page_runs_from_top_to_bottom(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fences = list(fences_of(ROOT / page))
    if not fences:
        return
    _write_data(tmp_path, (ROOT / page).read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("TAPETUM_OUTPUTS", raising=False)
    monkeypatch.delenv("TAPETUM_DATA", raising=False)
    jobs_in_this_process(monkeypatch)
    monkeypatch.setattr(sys, "argv", sys.argv)
    context = Page(page, tmp_path)
    for info, body in fences:
        language, _, place = info.partition(" ")
        rule = RULES.get(language)
        assert rule is not None, f"{page}: no rule covers a fence of {language or 'no language'}:\n{body}"
        rule(context, body, place)


# -- fences --------------------------------------------------------------------------------------------------


def fences_of(page: Path) -> Iterator[tuple[str, str]]:
    """(language and file name, text) of every fence; indented lines that look like commands count as bash."""
    language: str | None = None
    body: list[str] = []
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("```"):
            if language is None:
                language, body = line.strip().removeprefix("```"), []
            else:
                yield language, "\n".join(body)
                language = None
        elif language is not None:
            body.append(line)
        elif line.startswith("    ") and COMMAND.match(line.strip()):
            yield "bash", line.strip()
    assert language is None, f"{page} has a fence without an end"


def _bash(page: Page, body: str, place: str = "") -> None:
    for line in body.replace("\\\n", " ").splitlines():
        line = re.sub(r"\s#\s.*", "", line).strip()
        if not line or line.startswith("#"):
            continue
        for pattern, rule in COMMANDS.items():
            found = re.fullmatch(pattern, line)
            if found:
                rule(page, found)
                break
        else:
            raise AssertionError(f"{page.name}: no rule covers the command: {line}")


def _python(page: Page, body: str, place: str) -> None:
    """Written to the file that the fence names, or executed with the names of the page's earlier ones."""
    if place:
        file = page.folder / place
        file.parent.mkdir(exist_ok=True)
        file.write_text(body)
        return
    exec(compile(body, page.name, "exec"), page.names)


def _yaml(page: Page, body: str, place: str) -> None:
    """In the file that the fence names it is read by Hydra, and its values arrive in the config."""
    found = re.fullmatch(r"conf/(\w+)/(\w+)\.yaml", place)
    assert found, f"{page.name}: a yaml fence names its file, conf/…/….yaml:\n{body}"
    group, option = found.groups()
    conf = page.folder / "conf"
    shutil.copytree(ROOT / "conf", conf, dirs_exist_ok=True, ignore=shutil.ignore_patterns("local"))
    (conf / group).mkdir(exist_ok=True)
    (conf / group / f"{option}.yaml").write_text(body)
    with initialize_config_dir(str(conf), version_base="1.3"):
        composed = hydra_compose("train", [] if group == "local" else [f"{group}={option}"])
    for key, value in _leaves({k: v for k, v in yaml.safe_load(body).items() if k != "defaults"}):
        assert _select(composed, key) == value, f"{page.name}: {key} does not arrive"
    shutil.rmtree(conf)


def _text(page: Page, body: str, place: str) -> None:
    """A picture, or the files of a run, which are then compared with the latest one."""
    if not body.startswith("config.yaml "):
        return
    run = max(page.folder.glob("outputs/detection/*/*"), key=lambda path: path.name)
    _run(page, ["report", str(run)])
    named = {line.split()[0] for line in body.splitlines()}
    there = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    extra = {name for name in there if name.endswith(".png") or re.fullmatch(r"checkpoints/\w+\.json", name)}
    assert there - extra == named


RULES: dict[str, Callable[[Page, str, str], None]] = {
    "bash": _bash,
    "python": _python,
    "yaml": _yaml,
    "text": _text,
}


# -- commands ------------------------------------------------------------------------------------------------


def _tapetum(page: Page, line: re.Match[str]) -> None:
    words = page.words(line["rest"])
    if line["program"] == "python train.py":
        words = ["train", *words]
    if "resume=auto" in words:
        _interrupt(page, words)
    before = set(page.folder.glob("outputs/detection/*/*"))
    _run(page, [*words, *_replacements(words)])
    if "resume=auto" in words:
        assert set(page.folder.glob("outputs/detection/*/*")) == before, f"{line[0]} did not go on"


def _from_a_hub(page: Page, line: re.Match[str]) -> None:
    """As typed, with a hub on the loopback interface that has tiny copies of what is fetched."""
    images = {f"flickr30k-images/{number}.jpg": b"an image" for number in range(3)}
    captions = "".join(f'"[""a dog""]",train,{number}.jpg\n' for number in range(3))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in images.items():
            archive.writestr(name, content)
    copy = page.folder / "hub_copy"
    cifake = {str(one.relative_to(copy)): one.read_bytes() for one in copy.rglob("*") if one.is_file()}
    cifake = {name: content for name, content in cifake.items() if "validation" not in name}
    flickr30k = {
        "flickr30k-images.zip": packed.getvalue(),
        "flickr_annotations_30k.csv": f"raw,split,filename\n{captions}".encode(),
    }
    files = {"dragonintelligence/CIFAKE-image-dataset": cifake, "nlphuji/flickr30k": flickr30k}
    with serving(Hub(files=files)) as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        patch.setenv("HF_ENDPOINT", hub.url)
        _tapetum(page, line)


def _run(page: Page, words: list[str]) -> None:
    sys.argv = ["train.py", *words[1:]]
    # an acceptance of a model that was trained for an epoch says no, and that is an answer
    assert main(words) in ((0, 1) if words[0] == "accept" else (0,)), (
        f"{page.name}: tapetum {shlex.join(words)}"
    )


def _replacements(words: list[str]) -> list[str]:
    if words[0] not in ("train", "check") or any(word.startswith("-") for word in words if word != "-m"):
        return []
    text = " ".join(words)
    return [
        extra
        for having, lacking, extras, _ in REPLACED
        if all(one in text for one in having) and not any(one in text for one in lacking)
        for extra in extras
    ]


def _interrupt(page: Page, words: list[str]) -> None:
    """The latest run of that name ends as a killed one does: with a checkpoint and no final figures."""
    named = [word.removeprefix("name=") for word in words if word.startswith("name=")]
    name = named[0] if named else "npr_64-synthetic"
    run = RunDirectory(max(page.folder.glob(f"outputs/detection/{name}/*"), key=lambda path: path.name))
    run.metrics.unlink()


def _assignment(page: Page, line: re.Match[str]) -> None:
    page.prelude.append(line[0])
    assert page.shell(f'printf %s "${line[1]}"'), f"{page.name}: {line[0]} is empty"


def _listing(page: Page, line: re.Match[str]) -> None:
    assert page.shell(line[0])


def _make(page: Page, line: re.Match[str]) -> None:
    """Set-up can't run here: the target exists, and what `make train` then calls is run."""
    makefile = (ROOT / "Makefile").read_text()
    recipe = re.search(rf"^{line['target']}:[^\n]*\n((?:\t.*\n)*)", makefile, re.MULTILINE)
    assert recipe, f"{page.name}: make {line['target']} does not exist"
    if line["target"] == "train":
        assert "$(bin)/python train.py $(ARGS)" in recipe[1]
        words = ["train", *shlex.split(line["args"] or "")]
        _run(page, [*words, *_replacements(words)])


def _activate(page: Page, line: re.Match[str]) -> None:
    """There is no .venv in this folder; the one that set-up makes is the one that is named."""
    assert "-m venv .venv" in (ROOT / "scripts" / "setup.sh").read_text()


def _completion(page: Page, line: re.Match[str]) -> None:
    """bash takes what is printed, and a question of its is answered; in processes, as a shell starts them."""
    train = [sys.executable, str(ROOT / "train.py"), "-sc"]
    printed = subprocess.run([*train, "install=bash"], capture_output=True, text=True, check=False)
    assert printed.returncode == 0, printed.stderr
    script = printed.stdout + "\ncomplete -p"
    loaded = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert "hydra_bash_completion" in loaded.stdout, loaded.stderr
    asked = {**os.environ, "COMP_LINE": "python train.py model=np", "COMP_POINT": "24"}
    answer = subprocess.run([*train, "query=bash"], capture_output=True, text=True, check=False, env=asked)
    assert "model=npr_64" in answer.stdout.split(), answer.stderr


def _benchmark(page: Page, line: re.Match[str]) -> None:
    """tests/benchmarks runs them."""
    assert (ROOT / "benchmarks" / line[1]).is_file()


def _extra(page: Page, line: re.Match[str]) -> None:
    """Installs from a registry; the extra exists."""
    assert re.search(rf"^{line[1]} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)


def _example(page: Page, line: re.Match[str]) -> None:
    """Installs from this checkout; its package becomes importable in the page's folder instead."""
    example = ROOT / line[1]
    assert (example / "pyproject.toml").is_file()
    for package in example.glob("*/__init__.py"):
        shutil.copytree(package.parent, page.folder / package.parent.name)


def _tensorboard(page: Page, line: re.Match[str]) -> None:
    """It serves until it is stopped; there is something to show."""
    assert list((page.folder / line[1]).rglob("events.out.tfevents*"))


def _wandb_sync(page: Page, line: re.Match[str]) -> None:
    """Needs an account; W&B finds the run there."""
    command = [sys.executable, "-m", "wandb", "sync", "--dry-run", page.shell(f"printf %s {line[1]}")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=page.folder)
    assert "Would sync 1 run" in done.stderr


# A command → what is done. The first five run it; of the others, the docstring says what is asserted instead.
COMMANDS: dict[str, Callable[[Page, re.Match[str]], None]] = {
    r"eval \"\$\(python train\.py -sc install=bash\)\"": _completion,
    r"(?P<program>tapetum) (?P<rest>download .*|.* data\.index\.repo=.*)": _from_a_hub,
    r"(?P<program>python train\.py|tapetum)\s+(?P<rest>.*)": _tapetum,
    r"([A-Z]+)=\$\(.*\)": _assignment,
    r"ls .*": _listing,
    r"make (?P<target>\w+)(?: ARGS=\"(?P<args>.*)\")?": _make,
    r"\. \.venv/bin/activate": _activate,
    r"\.venv/bin/python benchmarks/(\w+\.py)(?: --quick)?": _benchmark,
    r"pip install 'tapetum\[(\w+)\]'": _extra,
    r"tensorboard --logdir (\S+)": _tensorboard,
    r"wandb sync (\S+)": _wandb_sync,
    r"pip install -e (examples/\w+)": _example,
}


def test_a_command_without_a_rule_fails(tmp_path: Path) -> None:
    page = Page("a page", tmp_path)
    with pytest.raises(AssertionError, match="no rule covers the command: rm -rf photos"):
        _bash(page, "rm -rf photos")


def test_a_command_that_fails_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    with pytest.raises(AssertionError, match="tapetum check model=nonesuch"):
        _bash(Page("a page", tmp_path), "tapetum check model=nonesuch")


# -- what the pages say besides ----------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CONTRIBUTING.md"])
def test_settings_in_running_text_exist(page: str) -> None:
    text = re.sub(r"```.*?```", "", _ours(page), flags=re.DOTALL)
    spans = set(re.findall(r"`'?([a-z_]+(?:\.[a-z_0-9]+)*=[^`']+)'?`", text))
    unknown = [span for span in sorted(spans) if not _placeholder(span) and not _accepted(span)]
    assert unknown == []


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_in_running_text_exist(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make (\w+)[^`]*`", _ours(page)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"


@pytest.mark.parametrize("page", [*PAGES, *DECISIONS])
def test_links_lead_somewhere(page: str) -> None:
    file = ROOT / page
    for target in re.findall(r"\]\(([^)]+)\)", file.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (file.parent / path).resolve() if path else file
        assert linked.exists(), f"{page} → {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in anchors, f"{page} → {target}"


def test_readme_lists_the_options_that_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", text, re.MULTILINE)
    assert len(rows) > 5
    assert {group for group, _ in rows} <= groups().keys()
    for group, options in rows:
        assert set(re.findall(r"`([^`]+)`", options)) == set(option_names(group)), group


def test_architecture_names_what_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = re.findall(r"^\| `(\w+)(/|\.py)` \| [^|]+ \| ([^|]+) \|$", text, re.MULTILINE)
    package = {path.name for path in (ROOT / "src").iterdir() if (path / "__init__.py").is_file()}
    assert {room for room, slash, _ in rooms if slash == "/"} == package
    for room, slash, names in rooms:
        place = ROOT / "src" / room
        files = sorted(place.glob("*.py")) if slash == "/" else [place.with_suffix(".py")]
        defined = {name for file in files for name in _defined(file)}
        missing = [name for name in re.findall(r"`([^`]+)`", names) if not set(name.split(".")) <= defined]
        assert missing == [], room


def test_every_heading_of_troubleshooting_is_part_of_a_message() -> None:
    said = [re.sub(r"\s+", " ", text) for text in _messages()]
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    headings = re.findall(r"^### `(.+)`$", text, re.MULTILINE)
    assert len(headings) > 40
    for heading in headings:
        parts = [part.strip() for part in heading.split("…") if part.strip()]
        assert any(all(part in message for part in parts) for message in said), heading


# -- helpers -----------------------------------------------------------------------------------------------


def _ours(page: str) -> str:
    """The text of a page, without the column `before` of its tables, which has the words of other tools."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    before = False
    for number, line in enumerate(lines):
        before = line.startswith("| before |") or (before and line.startswith("|"))
        if before:
            lines[number] = line.partition("` |")[2] or line.partition(" | ")[2]
    return "\n".join(lines)


def _write_data(folder: Path, text: str) -> None:
    """The data that pages talk about; benchmarks where the text names them."""
    make_folder(folder / "photos", generated="generated", splits={"train": 8, "val": 4, "test": 4})
    for number, generator in enumerate(("midjourney", "flux")):
        splits = {"train": 6, "test": 2}
        make_folder(folder / "albums", real="camera", generated=generator, splits=splits, seed=number)
    make_folder(folder / "album" / "test", generated="generated", splits={"": 4}, seed=7)
    make_cifake(folder / "cifake")
    for scene in range(12):
        for number, name in enumerate(("real", "flux", "midjourney")):
            make_image(folder / f"twins/{scene:02d}_{name}.png", generated=number > 0, seed=(scene, number))
    make_manifest(folder / "listed", splits={"train": 8, "val": 4, "test": 4})
    make_hf(folder / "hub_copy")
    make_tars(folder / "shards")
    make_tar_of(folder / "cifake", folder / "packed" / "cifake.tar")
    if "thermal" in text:
        make_infrared_folder(folder / "thermal")
        make_infrared_folder(folder / "thermal16", bits=16)
        make_solar_modules(folder / "solar")
    if "pictures" in text:
        make_image_text_folder(folder / "pictures", splits={"": 24})
        make_flickr30k(folder / "flickr30k")
    if "llava" in text:
        make_llava(folder / "llava", two=False)
        make_genimage(folder / "data" / "genimage")
    if "bench/" in text:
        _write_benchmarks(folder / "bench")


def _write_benchmarks(folder: Path) -> None:
    make_genimage(folder / "genimage")
    make_forensynths(folder / "forensynths")
    make_univfd(folder / "univfd")
    make_aigcdetectbenchmark(folder / "aigcdetectbenchmark")
    make_aigibench(folder / "aigibench")
    make_wildrf(folder / "wildrf")
    make_community_forensics(folder / "community_forensics", train=24)
    make_drct(folder / "drct", folder / "MSCOCO")
    make_peer_list(folder / "listed", file="list.json")


_PLACEHOLDER = re.compile(r"…|<|[A-Z]{3,}|=(True|False|k)$|^(group|key)=|\bmy_|photo: |=\[?(package|a)\b")
_WRITTEN_BY_THE_READER = {"experiment=thumbnails", "experiment=twins"}  # the pages tell how


def _placeholder(span: str) -> bool:
    return span in _WRITTEN_BY_THE_READER or _PLACEHOLDER.search(span) is not None


CHOICES = ["", "callbacks=none", *(
    f"{group}={one}" for group in ("data", "model", "scheduler") for one in option_names(group)
)]  # fmt: skip


@functools.cache
def _accepted(span: str) -> bool:
    """Whether some choice of data and model takes the setting; the one that took the last is asked first."""
    for choice in CHOICES:
        try:
            prepare([*([choice] if choice else []), span], multirun=False)
        except ConfigError:
            continue
        CHOICES.remove(choice)
        CHOICES.insert(0, choice)
        return True
    return False


def _leaves(node: dict[str, object], key: str = "") -> Iterator[tuple[str, object]]:
    for name, value in node.items():
        inner = f"{key}.{name}" if key else name
        if isinstance(value, dict):
            yield from _leaves(value, inner)
        else:
            yield inner, value


def _select(node: object, key: str) -> object:
    for name in key.split("."):
        node = node[name]  # type: ignore[index]
    return node


def _defined(file: Path) -> Iterator[str]:
    yield file.stem
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def _messages() -> Iterator[str]:
    """Every string in the sources, `…` where a value goes; and the set-up script."""
    for file in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
    yield (ROOT / "scripts" / "setup.sh").read_text(encoding="utf-8")

"""Where a repository of the hub lies on the disk; fetched when it is asked for, its revision known."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError
from ..fetching.hub import Revision, Unreachable, fetch, look_up, read_record, recorded_revision, write_record
from ..fetching.progress import shown
from .walk import IMAGE_SUFFIXES

_REPO = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def fetched(root: Path, repo: str, revision: str | None) -> Path:
    """The folder of a repository, fetched if it is not there, gone on with if it is not complete."""
    if not _REPO.fullmatch(repo) or ".." in repo:
        raise ConfigError(f"data.index.repo={repo}: must be an id on the hub, org/name")
    folder = root / repo
    record = read_record(folder)
    if record is None and _has_data(folder):
        if revision is not None:
            raise DataError(
                f"{folder} was not fetched by tapetum, so nobody knows whether it is at {revision}: type "
                f"data.index.revision=null, or remove the folder"
            )
        return folder
    if record is not None and record.get("complete") is True and _same(record, revision):
        return folder
    if record is not None and record.get("complete") is True:
        raise DataError(
            f"{folder} holds {repo} at {record.get('revision')} ({record.get('asked') or 'main'}), "
            f"not at {revision}: remove the folder, or name another data.root"
        )
    try:
        if record is not None and _same(record, revision):
            found = recorded_revision(record, folder)
        else:
            found = look_up(repo, wanted=_wanted, revision=revision)
            found = _parquet_first(found)
        folder.mkdir(parents=True, exist_ok=True)
        write_record(folder, found, complete=False, asked=revision)
        with shown(found, folder) as tell:
            fetch(found, folder, tell=tell)
    except Unreachable as error:
        at = f" --revision {revision}" if revision else ""
        raise DataError(
            f"{error}\n{repo} is not in {folder}. Where the hub can be reached, type\n"
            f"  hf download {repo} --repo-type dataset{at} --local-dir {folder}\n"
            f"(carry the folder here if that was elsewhere), then here\n"
            f"  tapetum check data=hf data.root={folder} 'data.index.positive=[NAME]'"
        ) from error
    write_record(folder, found, complete=True, asked=revision)
    return folder


def revision_of(folder: Path) -> str | None:
    """The commit, from our record, the hub's own notes of `hf download --local-dir`, or the hub's cache."""
    record = read_record(folder)
    if record is not None:
        return str(record.get("revision"))
    resolved = folder.resolve()
    if resolved.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", resolved.name):
        return resolved.name
    commits = set()
    for notes in (folder / ".cache" / "huggingface" / "download").rglob("*.metadata"):
        commits.add(notes.read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip())
    return " and ".join(sorted(commits)) or None


def visible(folder: Path, files: Iterable[Path]) -> list[str]:
    """Paths of files relative to a folder, with `/`, hidden ones left out."""
    below = (file.relative_to(folder) for file in files if file.is_file())
    return [file.as_posix() for file in below if not any(part.startswith(".") for part in file.parts)]


def _same(record: Mapping[str, Any], revision: str | None) -> bool:
    return revision is None or revision in (record.get("asked"), record.get("revision"))


def _wanted(path: str) -> bool:
    file = Path(path)
    if any(part.startswith(".") for part in file.parts):
        return False
    return file.name in ("README.md", "metadata.csv", "metadata.jsonl") or file.suffix.lower() in {
        ".parquet",
        *IMAGE_SUFFIXES,
    }


def _parquet_first(found: Revision) -> Revision:
    """Of a repository with parquet files those and the card; DataError where it holds nothing to read."""
    parquet = [file for file in found.files if file.path.endswith(".parquet")]
    kept = [file for file in found.files if not parquet or file in parquet or file.path == "README.md"]
    if not any(file.path != "README.md" for file in kept):
        raise DataError(
            f"{found.repo} holds neither parquet files nor images (script or archives): its converted copy "
            "may, type data.index.revision=refs/convert/parquet"
        )
    return replace(found, files=tuple(kept))


def _has_data(folder: Path) -> bool:
    return folder.is_dir() and any(
        _wanted(file) and file != "README.md" for file in visible(folder, folder.rglob("*"))
    )

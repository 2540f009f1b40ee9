"""A data set's files from the hub into a folder: one revision, resumable, checked against its checksums.

huggingface_hub finds the revision and its files, authenticates and explains refusals; it throws away what a
killed process had fetched and checks no sha256, so the transfer itself is written here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock

from ..errors import DataError

RECORD = "download.json"
"""Beside the data: where they came from, at which revision, and whether they are complete."""

Tell = Callable[[int, int], None]

_ATTEMPTS = 5  # in a row without a byte more than before
_PAUSE = 1.0  # seconds before the next attempt
_TIMEOUT = 30.0
_CHUNK = 1 << 20
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FREE = 64 * 2**20  # left on the disk


@dataclass(frozen=True)
class RemoteFile:
    """A file of a revision. sha256: of its bytes where it is stored as LFS; else blob is git's hash of it."""

    path: str
    size: int
    sha256: str | None
    blob: str | None


@dataclass(frozen=True)
class Revision:
    """One commit of a data set's repository, and those of its files that are wanted."""

    repo: str
    commit: str
    endpoint: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


class Unreachable(DataError):
    """The hub does not answer, or must not be asked (HF_HUB_OFFLINE)."""


def look_up(
    repo: str,
    *,
    wanted: Callable[[str], bool],
    revision: str | None = None,
    endpoint: str | None = None,
) -> Revision:
    """The commit that `revision` (a branch, tag or commit; None: main) is now, and its wanted files.

    endpoint: of a mirror; None: HF_ENDPOINT, else the hub. Nobody but the configured endpoint gets the token.
    Raises Unreachable, or DataError where there is no such data set, revision, or permission.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    base = _endpoint(endpoint)
    try:
        info = HfApi(endpoint=base, token=_token(base)).dataset_info(
            repo, revision=revision, files_metadata=True, timeout=_TIMEOUT
        )
    except HFValidationError as error:
        raise DataError(f"{repo!r} is no id of a data set on the hub ({error}): write org/name") from error
    except HfHubHTTPError as error:
        raise DataError(_refusal(error, repo, revision, base)) from error
    except (_transport_error(), OSError, ValueError) as error:
        raise Unreachable(f"{base} cannot be asked for the data set {repo}: {_first(error)}") from error
    if not _COMMIT.fullmatch(info.sha or ""):
        raise DataError(f"{base} names no commit for {repo}: is it a hub? See HF_ENDPOINT and --endpoint")
    files = []
    for entry in info.siblings or ():
        if not wanted(entry.rfilename):
            continue
        _check_path(entry.rfilename, repo)
        if entry.size is None:
            raise DataError(f"{base} does not say how long {entry.rfilename} of {repo} is")
        sha256 = entry.lfs.sha256 if entry.lfs else None
        files.append(RemoteFile(entry.rfilename, entry.size, sha256, entry.blob_id))
    return Revision(repo, str(info.sha), base, tuple(sorted(files, key=lambda file: file.path)))


def fetch(revision: Revision, folder: Path, *, extra: int = 0, tell: Tell | None = None) -> None:
    """Every file of the revision below folder; each appears there when it is whole and its hash is right.

    What is unfinished stands beside it as `.part` and is gone on with, by this process or the next. A file
    that is there already, with the right length, is left as it is.

    extra: bytes that will be needed besides. tell: gets (bytes there, bytes in all) every now and then.

    Raises DataError where the disk has no room, the server refuses, gives up, or sends something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".download.lock"):
        there = {file.path: _there(folder, file) for file in revision.files}
        _check_room(folder, revision.size - sum(there.values()) + extra, revision.repo)
        for file in revision.files:
            if (folder / file.path).is_file() and there[file.path] == file.size:
                continue
            before = sum(count for path, count in there.items() if path != file.path)

            def told(done: int, before: int = before) -> None:
                if tell is not None:
                    tell(before + done, revision.size)

            _fetch_file(revision, file, folder / file.path, told)
            there[file.path] = file.size


def read_record(folder: Path) -> dict[str, Any] | None:
    """What download.json in a folder says, None where there is none; DataError where it cannot be read."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / RECORD} cannot be read ({error}): remove it to download anew") from error
    if not isinstance(record, dict):
        raise DataError(f"{folder / RECORD} is no record of a download: remove it to download anew")
    return record


def write_record(folder: Path, revision: Revision, *, complete: bool, **more: Any) -> None:
    """Write download.json, in one step."""
    record = {
        "repo": revision.repo,
        "revision": revision.commit,
        "endpoint": revision.endpoint,
        "complete": complete,
        "files": {
            file.path: {"size": file.size, "sha256": file.sha256, "git": file.blob} for file in revision.files
        },
        **more,
    }
    unfinished = folder / f".{RECORD}.{os.getpid()}"
    unfinished.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(folder / RECORD)


def recorded_revision(record: Mapping[str, Any], folder: Path) -> Revision:
    """The revision that an unfinished download.json names: going on needs no new look at what main is now."""
    try:
        files = tuple(
            RemoteFile(str(path), int(file["size"]), file["sha256"], file["git"])
            for path, file in record["files"].items()
        )
        for file in files:
            _check_path(file.path, str(record["repo"]))
        return Revision(str(record["repo"]), str(record["revision"]), str(record["endpoint"]), files)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{folder / RECORD} is damaged ({error!r}): remove it to download anew") from error


# --- one file ---


def _fetch_file(revision: Revision, file: RemoteFile, target: Path, tell: Callable[[int], None]) -> None:
    part = _part(target, file)
    part.parent.mkdir(parents=True, exist_ok=True)
    if part.is_file() and part.stat().st_size > file.size:
        part.unlink()
    best, failures = _length(part), 0
    while _length(part) < file.size or not part.is_file():
        try:
            _attempt(revision, file, part, tell)
            reason = f"it ended after {_length(part):,} of {file.size:,} bytes"
        except _Passing as error:
            reason = str(error)
        if _length(part) > best:
            best, failures = _length(part), 0
            continue
        failures += 1
        if failures == _ATTEMPTS:
            raise DataError(
                f"{file.path} of {revision.repo} could not be fetched from {revision.endpoint}: {reason}. "
                "What came is kept: type the same again to go on"
            )
        time.sleep(_PAUSE)
    if _length(part) > file.size:
        part.unlink()
        raise DataError(
            f"{revision.endpoint} sent more than the {file.size:,} bytes that {file.path} of {revision.repo} "
            "has: what came is thrown away. Type the same again; if it stays so, do not trust the server"
        )
    wrong = _wrong_hash(part, file)
    if wrong:
        part.unlink()
        raise DataError(
            f"{file.path} of {revision.repo} is not what the hub lists: {wrong}. It was damaged on its way "
            "or changed; what came is thrown away. Type the same again to fetch it anew"
        )
    part.replace(target)


class _Passing(Exception):
    """A failure after which another attempt may succeed."""


def _attempt(revision: Revision, file: RemoteFile, part: Path, tell: Callable[[int], None]) -> None:
    """Ask for what is missing and append it; from the start where the server does not know about ranges."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    url = hf_hub_url(
        revision.repo, file.path, repo_type="dataset", revision=revision.commit, endpoint=revision.endpoint
    )
    have = _length(part)
    headers = build_hf_headers(token=_token(revision.endpoint))
    headers["Accept-Encoding"] = "identity"  # a range counts the bytes of the file, not of its compression
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        with get_session().stream(
            "GET", url, headers=headers, timeout=_TIMEOUT, follow_redirects=True
        ) as response:
            if response.status_code >= 400:
                response.read()
                hf_raise_for_status(response)
            start = have if response.status_code == 206 else 0
            with part.open("r+b" if start else "wb") as opened:
                opened.seek(start)
                for chunk in response.iter_bytes():  # as it comes: a chunk that never fills would be lost
                    opened.write(chunk)
                    tell(min(opened.tell(), file.size))
                    if opened.tell() > file.size:
                        return
    except HfHubHTTPError as error:
        if error.response.status_code == 416:  # what is there is longer than what the server has
            part.unlink(missing_ok=True)
        if error.response.status_code in (408, 416, 429) or error.response.status_code >= 500:
            raise _Passing(f"the server says {error.response.status_code}") from error
        raise DataError(_refusal(error, revision.repo, revision.commit, revision.endpoint)) from error
    except _transport_error() as error:
        raise _Passing(f"the connection was lost ({_first(error)})") from error
    except ConnectionError as error:  # HF_HUB_OFFLINE
        raise Unreachable(f"{revision.endpoint} cannot be asked for {file.path}: {_first(error)}") from error


def _wrong_hash(path: Path, file: RemoteFile) -> str:
    """What is wrong with a file's bytes; empty where nothing is, or where the hub lists no hash."""
    hashed = hashlib.sha256() if file.sha256 else hashlib.sha1(f"blob {file.size}\0".encode())
    with path.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            hashed.update(chunk)
    expected = file.sha256 or file.blob
    if expected is None or hashed.hexdigest() == expected:
        return ""
    kind = "sha256" if file.sha256 else "git hash"
    return f"its {kind} is {hashed.hexdigest()[:16]}…, listed is {expected[:16]}…"


def _part(target: Path, file: RemoteFile) -> Path:
    """Named by the hash, so that the part of another version is never gone on with."""
    version = (file.sha256 or file.blob or "unknown")[:16]
    return target.with_name(f".{target.name}.{version}.part")


def _there(folder: Path, file: RemoteFile) -> int:
    target = folder / file.path
    if target.is_file():
        if target.stat().st_size == file.size:
            return file.size
        raise DataError(
            f"{target} has {target.stat().st_size:,} bytes, but that file of the revision has {file.size:,}: "
            "remove it, or download into another folder"
        )
    return min(_length(_part(target, file)), file.size)


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _check_room(folder: Path, needed: int, repo: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed + _FREE > free:
        raise DataError(
            f"{repo} needs {needed / 1e9:.2f} GB more, and {folder} has {free / 1e9:.2f} GB free: make room, "
            "or name a folder on another disk"
        )


def _check_path(path: str, repo: str) -> None:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\\" in path or "\0" in path or not path:
        raise DataError(f"{repo} lists a file {path!r} that would lie outside its folder: it is not fetched")


# --- the hub ---


def _endpoint(endpoint: str | None) -> str:
    from huggingface_hub import constants

    base = (endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    if not base.startswith(("http://", "https://")):
        raise DataError(f"the endpoint {base} is no address: write https://…")
    return base


def _token(endpoint: str) -> bool | None:
    from huggingface_hub import constants

    known = {constants.ENDPOINT.rstrip("/"), os.environ.get("HF_ENDPOINT", "").rstrip("/")}
    return None if endpoint in known else False


def _transport_error() -> type[Exception]:
    """The base of what the hub's HTTP library raises; which one it is depends on the version."""
    from huggingface_hub import errors

    found: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
    return found


def _refusal(error: Any, repo: str, revision: str | None, endpoint: str) -> str:
    status = error.response.status_code
    where = f"{repo} on {endpoint}" + (f" at {revision}" if revision else "")
    if status in (401, 403):
        return (
            f"{endpoint} does not give out {repo} ({status}): it is private, gated or does not exist. Accept "
            f"its conditions on {endpoint}/datasets/{repo}, then type hf auth login"
        )
    if status == 404:
        return f"there is no {where} (404): look for its id and revision on {endpoint}/datasets"
    return f"{endpoint} answers {status} when asked for {repo}: {_first(error)}"


def _first(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

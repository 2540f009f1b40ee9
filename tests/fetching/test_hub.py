"""Files of a revision, from a hub that misbehaves in every way a server can."""

from __future__ import annotations

import hashlib

import huggingface_hub.constants
import pytest
from tapetum.errors import DataError
from tapetum.fetching import hub as hub_module
from tapetum.fetching.hub import (
    Unreachable,
    fetch,
    look_up,
    read_record,
    recorded_revision,
    write_record,
)

from fetching.hub_server import Hub, serving

BIG = hashlib.shake_256(b"big").digest(200_000)
REPO = "org/images"
FILES = {"README.md": b"# hello\n", "data/train-00000-of-00001.parquet": BIG, "other/deep/x.jpg": b"jpg"}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_module, "_PAUSE", 0.01)
    with serving(Hub(files={REPO: dict(FILES)})) as running:
        yield running


def found(server, **options):
    return look_up(REPO, wanted=lambda path: True, endpoint=server.url, **options)


def leftovers(folder):
    return sorted(path.name for path in folder.rglob("*.part"))


def test_every_file_arrives_as_it_is(server, tmp_path):
    told = []
    fetch(found(server), tmp_path, tell=lambda done, total: told.append((done, total)))
    for path, content in FILES.items():
        assert (tmp_path / path).read_bytes() == content
    size = sum(map(len, FILES.values()))
    assert told[-1] == (size, size)
    assert leftovers(tmp_path) == []
    assert found(server).commit == server.commit


def test_only_what_is_wanted_is_listed(server):
    revision = look_up(REPO, wanted=lambda path: path.endswith(".parquet"), endpoint=server.url)
    assert [file.path for file in revision.files] == ["data/train-00000-of-00001.parquet"]
    assert revision.files[0].sha256 == hashlib.sha256(BIG).hexdigest()


def test_dropped_connections_are_gone_on_with_where_they_broke(server, tmp_path):
    server.files[REPO].pop("README.md")
    server.cut, server.cuts = 60_000, 3
    fetch(found(server), tmp_path)
    assert (tmp_path / "data/train-00000-of-00001.parquet").read_bytes() == BIG
    asked = server.asked("train-00000-of-00001.parquet")
    starts = [int(headers.get("Range", "bytes=0-")[6:-1]) for headers in asked]
    assert starts == sorted(starts)
    assert starts[0] == 0
    assert len(starts) > 1
    assert all(start > 0 for start in starts[1:])


def test_what_came_is_kept_for_the_next_start(server, tmp_path):
    server.cut, server.cuts = 60_000, 1
    target = "train-00000-of-00001.parquet"
    server.files[REPO] = {f"data/{target}": BIG}
    revision = found(server)

    def stop_midway(done, total):
        if done >= 40_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(revision, tmp_path, tell=stop_midway)
    (part,) = (tmp_path / "data").glob(".*.part")
    kept = part.stat().st_size
    assert kept >= 40_000
    server.cuts = 0
    server.requests.clear()
    fetch(revision, tmp_path)
    assert (tmp_path / "data" / target).read_bytes() == BIG
    assert server.asked(target)[0]["Range"] == f"bytes={kept}-"
    server.requests.clear()
    fetch(revision, tmp_path)
    assert server.requests == []


def test_server_that_ignores_ranges_still_gives_a_right_file(server, tmp_path):
    server.cut, server.cuts, server.ranges = 60_000, 2, False
    fetch(found(server), tmp_path)
    assert (tmp_path / "data/train-00000-of-00001.parquet").read_bytes() == BIG


def test_server_that_never_gets_further_is_given_up(server, tmp_path):
    server.cut, server.cuts, server.ranges = 60_000, 10_000, False
    server.files[REPO] = {"x.parquet": BIG}
    with pytest.raises(
        DataError, match=r"x\.parquet of org/images could not be fetched .* type the same again"
    ):
        fetch(found(server), tmp_path)
    assert len(server.asked("x.parquet")) <= 8
    assert not (tmp_path / "x.parquet").exists()
    server.cuts = 0
    fetch(found(server), tmp_path)
    assert (tmp_path / "x.parquet").read_bytes() == BIG


def test_more_than_was_listed_is_thrown_away(server, tmp_path):
    server.extra = 5
    with pytest.raises(DataError, match=r"sent more than the 8 bytes that README\.md"):
        fetch(found(server), tmp_path)
    assert leftovers(tmp_path) == []
    assert not (tmp_path / "README.md").exists()
    server.extra = 0
    fetch(found(server), tmp_path)
    assert (tmp_path / "README.md").read_bytes() == FILES["README.md"]


def test_less_than_was_listed_is_no_file(server, tmp_path):
    revision = found(server)
    server.files[REPO]["README.md"] = b"# hell"
    with pytest.raises(DataError, match=r"README.md of org/images could not be fetched"):
        fetch(revision, tmp_path)
    assert not (tmp_path / "README.md").exists()


@pytest.mark.parametrize(("path", "kind"), [("README.md", "git hash"), ("other/deep/x.jpg", "sha256")])
def test_wrong_bytes_of_the_right_length_are_thrown_away(server, tmp_path, path, kind):
    revision = found(server)
    right = server.files[REPO][path]
    server.files[REPO][path] = b"?" * len(right)
    with pytest.raises(DataError, match=f"{path} of org/images is not what the hub lists: its {kind} is"):
        fetch(revision, tmp_path)
    assert not (tmp_path / path).exists()
    assert leftovers(tmp_path) == []
    server.files[REPO][path] = right
    fetch(revision, tmp_path)
    assert (tmp_path / path).read_bytes() == right


def test_file_that_changes_between_attempts_is_never_put_together_of_both(server, tmp_path):
    server.files[REPO] = {"x.parquet": BIG}
    revision = found(server)
    server.cut, server.cuts = 60_000, 10_000
    server.ranges = False
    with pytest.raises(DataError):
        fetch(revision, tmp_path)
    server.cuts, server.ranges = 0, True
    server.files[REPO]["x.parquet"] = bytes(len(BIG))
    with pytest.raises(DataError, match="is not what the hub lists"):
        fetch(revision, tmp_path)
    changed = found(server)  # a look at what there is now: another hash, another part
    fetch(changed, tmp_path)
    assert (tmp_path / "x.parquet").read_bytes() == bytes(len(BIG))


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (403, r"does not give out org/images \(403\): it is private, gated or does not exist"),
        (404, r"there is no org/images on .* at a+ \(404\)"),
        (400, "answers 400 when asked for org/images"),
        (500, "could not be fetched from .*: the server says 500"),
    ],
)
def test_refusals_of_a_file_are_explained(server, tmp_path, status, message):
    revision = found(server)
    server.status = status
    with pytest.raises(DataError, match=message):
        fetch(revision, tmp_path)


def test_absent_repository_and_revision_are_named(server):
    with pytest.raises(DataError, match=r"there is no org/other on"):
        look_up("org/other", wanted=bool, endpoint=server.url)
    with pytest.raises(DataError, match=r"there is no org/images on .* at v9 \(404\)"):
        found(server, revision="v9")
    with pytest.raises(DataError, match="is no id of a data set"):
        look_up("not//an id", wanted=bool, endpoint=server.url)
    with pytest.raises(DataError, match="the endpoint ftp://x is no address"):
        look_up(REPO, wanted=bool, endpoint="ftp://x")


@pytest.mark.parametrize("path", ["../outside.parquet", "/etc/outside", "a/../../outside", "a\\..\\outside"])
def test_listed_file_outside_the_folder_is_refused(server, path):
    server.files[REPO][path] = b"x"
    with pytest.raises(DataError, match="would lie outside its folder"):
        found(server)


def test_disk_without_room_is_told_before_anything_is_fetched(server, tmp_path):
    server.listed["README.md"] = {"size": 10**18}
    with pytest.raises(DataError, match=r"org/images needs 1000000000\.\d\d GB more, and .* GB free"):
        fetch(found(server), tmp_path)
    assert server.asked("README.md") == []


def test_file_of_another_length_is_not_overwritten(server, tmp_path):
    (tmp_path / "README.md").write_bytes(b"my own notes")
    with pytest.raises(DataError, match=r"README\.md has 12 bytes, but that file of the revision has 8"):
        fetch(found(server), tmp_path)
    assert (tmp_path / "README.md").read_bytes() == b"my own notes"


def test_token_goes_to_the_configured_endpoint_only(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch(found(server), tmp_path / "foreign")
    assert [headers for _, headers in server.requests if "authorization" in map(str.lower, headers)] == []
    server.requests.clear()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    fetch(look_up(REPO, wanted=bool), tmp_path / "own")
    assert all(headers.get("authorization") == "Bearer hf_secret" for _, headers in server.requests)


def test_nobody_at_the_address_and_offline_are_unreachable(server, monkeypatch):
    with pytest.raises(
        Unreachable, match=r"http://127\.0\.0\.1:9 cannot be asked for the data set org/images"
    ):
        look_up(REPO, wanted=bool, endpoint="http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Unreachable, match="offline mode is enabled"):
        found(server)
    assert server.requests == []


def test_record_says_what_is_needed_to_go_on(server, tmp_path):
    assert read_record(tmp_path) is None
    revision = found(server)
    write_record(tmp_path, revision, complete=False, asked="main")
    record = read_record(tmp_path)
    assert (record["revision"], record["complete"], record["asked"]) == (server.commit, False, "main")
    assert recorded_revision(record, tmp_path) == revision
    assert [path.name for path in tmp_path.iterdir()] == ["download.json"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"repo": "a/b"}', '{"repo": "a", "files": {"../x": 3}}'])
def test_damaged_record_says_what_to_do(tmp_path, text):
    (tmp_path / "download.json").write_text(text)
    with pytest.raises(DataError, match="remove it to download anew"):
        recorded_revision(read_record(tmp_path), tmp_path)

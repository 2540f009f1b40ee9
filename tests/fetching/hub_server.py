"""A hub on the loopback interface that answers as the real one does, and misbehaves as it is told."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep
from urllib.parse import unquote, urlparse

COMMIT = "a" * 40


@dataclass
class Hub:
    """The repositories that are served, and what is wrong with the server.

    cut: bytes after which a connection is dropped, for so many requests. slow: seconds between pieces.
    extra: bytes sent beyond the file. status: what a file request is answered with instead.
    """

    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commit: str = COMMIT
    listed: dict[str, dict[str, object]] = field(default_factory=dict)
    cut: int = 0
    cuts: int = 0
    slow: float = 0.0
    extra: int = 0
    status: int = 0
    ranges: bool = True
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def asked(self, path: str) -> list[dict[str, str]]:
        """The headers of the requests for a file."""
        return [headers for where, headers in self.requests if where.endswith("/" + path)]

    def listing(self, repo: str) -> dict[str, object]:
        siblings = []
        for path, content in self.files[repo].items():
            entry: dict[str, object] = {"rfilename": path, "size": len(content), "blobId": git_hash(content)}
            if not path.endswith((".md", ".csv")):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 130}
            siblings.append({**entry, **self.listed.get(path, {})})
        return {"id": repo, "sha": self.commit, "siblings": siblings, "private": False, "gated": False}


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlparse(self.path).path)
            hub.requests.append((path, dict(self.headers)))
            for repo in hub.files:
                if path.startswith(f"/api/datasets/{repo}"):
                    revision = path.removeprefix(f"/api/datasets/{repo}").removeprefix("/revision/")
                    if revision not in ("", "main", hub.commit):
                        self._refuse(404, {"X-Error-Code": "RevisionNotFound"})
                    else:
                        self._answer(200, json.dumps(hub.listing(repo)).encode(), {})
                    return
                prefix = f"/datasets/{repo}/resolve/{hub.commit}/"
                if path.startswith(prefix) and path.removeprefix(prefix) in hub.files[repo]:
                    self._file(hub.files[repo][path.removeprefix(prefix)])
                    return
            self._refuse(404, {"X-Error-Code": "RepoNotFound"})

        def _file(self, content: bytes) -> None:
            if hub.status:
                self._refuse(hub.status, {})
                return
            start = int(self.headers["Range"][6:-1]) if hub.ranges and "Range" in self.headers else 0
            if start and start >= len(content):
                self._refuse(416, {})
                return
            body = content[start:] + b"x" * hub.extra
            headers = {"X-Repo-Commit": hub.commit}
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._answer(206 if start else 200, body, headers)

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if "X-Repo-Commit" in headers and hub.cuts:
                hub.cuts -= 1
                self.wfile.write(body[: hub.cut])
                self.close_connection = True
                return
            for place in range(0, len(body), 4096):
                self.wfile.write(body[place : place + 4096])
                if hub.slow and "X-Repo-Commit" in headers:
                    self.wfile.flush()
                    sleep(hub.slow)

        def _refuse(self, status: int, headers: dict[str, str]) -> None:
            self._answer(status, b'{"error": "no"}', headers)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()

"""Real servers on a free loopback port that die in the middle, and W&B's own reader of its files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


def wandb_records(directory: Path) -> list[dict[str, Any]]:
    """Every record of an offline or online run's transaction log, as W&B itself reads it."""
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(directory)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"WANDB_ERROR_REPORTING": "false"},
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def of_type(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The bodies of the records of one kind."""
    return [record[kind] for record in records if record["type"] == kind]


class WandbServer(ThreadingHTTPServer):
    """As much of W&B's HTTP interface as a run needs; `seen` are the paths and operations that were asked.

    dies: whether it closes its port for good once the run has begun and sends its first figures.
    """

    daemon_threads = True

    def __init__(self, dies: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _WandbHandler)
        self.dies = dies
        self.seen: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def die(self) -> None:
        """Nobody listens any more; connections that are open find out with their next request."""
        threading.Thread(target=lambda: (self.shutdown(), self.server_close()), daemon=True).start()


class _WandbHandler(BaseHTTPRequestHandler):
    server: WandbServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        answer: dict[str, Any] = {}
        if self.path == "/graphql":
            answer = {"data": self._query(json.loads(body))}
        elif self.server.dies and self.path.endswith("/file_stream"):
            self.server.die()
            self.close_connection = True
            return
        self.server.seen.append(self.path)
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_PUT = do_GET = do_POST

    def _query(self, question: dict[str, Any]) -> dict[str, Any]:
        named = re.search(r"(?:query|mutation) (\w+)", question["query"])
        values, name = question.get("variables") or {}, named[1] if named else ""
        owner = {"id": "e", "name": "me"}
        self.server.seen.append(name)
        if name == "UpsertBucket":
            project = {"id": "p", "name": values.get("project"), "entity": owner}
            bucket = {"id": "b", "name": values.get("name"), "displayName": values.get("displayName")}
            bucket |= {"config": "{}", "historyLineCount": 0, "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if name == "RunResumeStatus":
            return {"model": {"id": "p", "name": "p", "entity": owner, "bucket": None}}
        if name == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{self.server.url}/up/{file}"} for file in values["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        return {}

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


@contextmanager
def mlflow_server(
    folder: Path, port: int = 0, dies_at: Callable[[str, bytes], bool] = lambda path, body: False
) -> Iterator[int]:
    """MLflow's own server application with its database in `folder`; gives the port.

    dies_at: whether it closes its port instead of answering a request (path, body).
    """
    os.environ |= {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/mlflow.db",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
    }
    from mlflow.server import app, handlers
    from werkzeug.serving import WSGIRequestHandler, make_server

    handlers._tracking_store = None  # of the server before, in this process
    died = threading.Event()

    class Quiet(WSGIRequestHandler):
        def log(self, *arguments: object) -> None:
            """Quiet."""

    def application(environ: dict[str, Any], start: Any) -> Any:
        from io import BytesIO

        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if dies_at(environ["PATH_INFO"], body) or died.is_set():
            died.set()
            threading.Thread(target=lambda: (server.shutdown(), server.server_close())).start()
            raise ConnectionAbortedError
        return app.wsgi_app(environ | {"wsgi.input": BytesIO(body)}, start)

    server = make_server("127.0.0.1", port, application, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)

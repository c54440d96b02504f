"""A Hugging Face Hub on loopback: what its client asks for files, answered from folders."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote


@dataclass
class Repository:
    """One model on the hub: its commits, each with the content of its files, and its branches."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)  # what is said of a file, whatever it has
    refusal: tuple[int, str] | None = None  # status and X-Error-Code, for whoever asks

    def push(self, files: Path | dict[str, bytes], branch: str = "main") -> str:
        """Add a commit of the files in a folder, and return its hash."""
        if isinstance(files, Path):
            paths = [path for path in files.rglob("*") if path.is_file()]
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in paths}
        found = hashlib.sha1(repr((len(self.commits), sorted(files.items()))).encode())
        self.commits[found.hexdigest()] = files
        self.branches[branch] = found.hexdigest()
        return found.hexdigest()


class Hub:
    """Models by OWNER/NAME, and the log of what was asked: method and path."""

    def __init__(self) -> None:
        self.models: dict[str, Repository] = {}
        self.asked: list[str] = []
        self.endpoint = ""
        self.breaks = False  # from here on each answer is 500

    def add(self, name: str, files: Path | dict[str, bytes]) -> str:
        """Push files to a model, and return the commit."""
        return self.models.setdefault(name, Repository()).push(files)


class _Answers(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(self.path.split("?")[0])
        self.hub.asked.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        listing = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if listing else parts[:2])
        rest = parts[4:] if listing else parts[2:]
        model = self.hub.models.get(name)
        if self.hub.breaks:
            self._send(500)
        elif model is None:
            self._send(401)  # what the hub says of models that are none, and of private ones
        elif model.refusal is not None:
            status, code = model.refusal
            self._send(status, {"X-Error-Code": code})
        else:
            self._of_model(model, rest)

    def _of_model(self, model: Repository, rest: list[str]) -> None:
        kind, revision, *inner = rest
        commit = model.branches.get(revision, revision)
        files = model.commits.get(commit)
        if files is None:
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
        elif kind == "tree":
            listed = [
                {"type": "file", "path": path, "size": len(content), "oid": "0"}
                for path, content in files.items()
            ]
            self._send(200, {}, json.dumps(listed).encode())
        elif kind == "resolve" and "/".join(inner) in files:
            path = "/".join(inner)
            headers = {"X-Repo-Commit": commit, "ETag": f'"{_etag(files[path])}"'}
            if path in model.sizes:
                headers["X-Linked-Size"] = str(model.sizes[path])
            self._send(200, headers, files[path])
        else:
            self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})

    def _send(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """Serve a hub for the duration of the block."""
    hub = Hub()
    handler = type("Answers", (_Answers,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            server.shutdown()

"""A hub on this machine: enough of its interface to be asked for files, over real HTTP.

HEAD, GET  /org/name/resolve/REVISION/FILE        a file, or a part of it
GET        /api/models/org/name/tree/REVISION     what files there are
GET        /api/models/org/name/revision/REVISION which commit that is

and of ModelScope's, whose only revision is master:

GET        /api/v1/models/org/name/repo/files     what files there are
GET        /api/v1/models/org/name/repo           a file, or a part of it
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit

from tests.cli_runner import make_environment

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repository:
    """Files, and how they are given: not without the licence, cut off, or with a failure."""

    folder: Path
    commit: str = COMMIT
    gated: bool = False
    status: int = 200
    cut: dict[str, int] = field(default_factory=dict)  # bytes of a file, before it breaks off once
    short: tuple[str, ...] = ()  # files that end too early each time
    claimed: dict[str, int] = field(default_factory=dict)  # bytes that a file is said to have


@dataclass
class Hub:
    """The repositories, what was asked of them, and where."""

    address: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)  # "GET /path", in order
    tokens: set[str | None] = field(default_factory=set)

    def fetched(self) -> set[str]:
        """The names of the files that were given."""
        gets = (line for line in self.asked if line.startswith("GET ") and "/resolve/" in line)
        return {line.rsplit("/", 1)[-1] for line in gets}

    def environment(self, cache: Path, **more: str) -> dict[str, str]:
        """The environment of a process that asks this hub."""
        where = {"HF_ENDPOINT": self.address, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0"}
        scope = {"MODELSCOPE_ENDPOINT": self.address, "MODELSCOPE_HOME": str(cache / "scope-home")}
        scope["MODELSCOPE_CACHE"] = str(cache / "scope")
        return make_environment(**{**where, **scope, "HF_HUB_DISABLE_XET": "1", **more})


@contextmanager
def serve(answer: "type[Answer] | None" = None) -> Iterator[Hub]:
    """A hub without repositories, until `with` ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), answer or Answer)
    server.daemon_threads = True
    server.hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Answer(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:  # noqa: N802
        self.answer()

    def do_GET(self) -> None:  # noqa: N802
        self.answer()

    def answer(self) -> None:
        hub: Hub = self.server.hub
        path = unquote(urlsplit(self.path).path)
        hub.asked.append(f"{self.command} {path}")
        hub.tokens.add(self.headers.get("Authorization"))
        if path.startswith("/api/v1/"):
            self.scope(hub, path)
            return
        words = path.removeprefix("/api/models").strip("/").split("/")
        repository = hub.repositories.get("/".join(words[:2]))
        kind, revision, *rest = words[2:] or ["revision", "main"]
        if repository is None:
            self.refuse(404, "RepoNotFound")
        elif repository.status != 200:
            self.refuse(repository.status)
        elif revision not in ("main", repository.commit):
            self.refuse(404, "RevisionNotFound")
        elif kind == "tree":
            self.give(json.dumps(_tree(repository)).encode())
        elif kind == "revision":
            self.give(json.dumps({"id": "/".join(words[:2]), "sha": repository.commit}).encode())
        else:
            self.file(repository, "/".join(rest))

    def scope(self, hub: Hub, path: str) -> None:
        """What ModelScope says."""
        words = path.removeprefix("/api/v1/models/").split("/")
        asked = parse_qs(urlsplit(self.path).query)
        repository = hub.repositories.get("/".join(words[:2]))
        if repository is None or asked.get("Revision") != ["master"]:
            self.refuse(404)
        elif repository.gated:
            self.refuse(403)
        elif words[2:] == ["repo", "files"]:
            files = [
                {
                    "Path": each["path"],
                    "Size": each["size"],
                    "Type": "blob",
                    "Sha256": hashlib.sha256(
                        (repository.folder / str(each["path"])).read_bytes()
                    ).hexdigest(),
                }
                for each in _tree(repository)
            ]
            self.give(json.dumps({"Code": 200, "Data": {"Files": files}}).encode())
        else:
            self.file(repository, asked["FilePath"][0])

    def file(self, repository: Repository, name: str) -> None:
        path = repository.folder / name
        if repository.gated:
            self.refuse(403, "GatedRepo")
        elif not path.is_file():
            self.refuse(404, "EntryNotFound", commit=repository.commit)
        else:
            self.part(repository, name, path.read_bytes())

    def part(self, repository: Repository, name: str, data: bytes) -> None:
        """A file, or those bytes of it that are asked for."""
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        size = repository.claimed.get(name, len(data))
        known = {"ETag": etag, "X-Repo-Commit": repository.commit, "X-Linked-Size": str(size)}
        begin, status = 0, 200
        if span := self.headers.get("Range"):
            first, last = span.removeprefix("bytes=").split("-")
            begin, end = int(first), min(int(last or len(data)), len(data) - 1)
            known["Content-Range"] = f"bytes {begin}-{end}/{len(data)}"
            data, status = data[begin : end + 1], 206
        if name in repository.short and self.command == "GET":
            data = data[: len(data) // 2]
        stop = repository.cut.pop(name, None) if self.command == "GET" else None
        self.give(data, status, stop=stop, **known)

    def give(self, data: bytes, status: int = 200, stop: int | None = None, **known: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **known}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[:stop])
        if stop is not None:
            self.close_connection = True

    def refuse(self, status: int, code: str = "", commit: str = "") -> None:
        known = {"X-Error-Code": code, "X-Repo-Commit": commit}
        self.give(b"{}", status, **{name: value for name, value in known.items() if value})

    def log_message(self, *words: object) -> None:
        """A test is silent."""


def _tree(repository: Repository) -> list[dict[str, object]]:
    """Every file, as the hub lists them."""
    paths = sorted(path for path in repository.folder.rglob("*") if path.is_file())
    return [
        {
            "type": "file",
            "path": path.relative_to(repository.folder).as_posix(),
            "size": path.stat().st_size,
            "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
        }
        for path in paths
    ]

"""A Hugging Face hub and a ModelScope on this machine, over real HTTP, for tests of downloads.

    HEAD, GET  /org/name/resolve/REVISION/FILE         a file, or a range of it
    GET        /api/models/org/name/tree/REVISION      the list of files
    GET        /api/models/org/name/revision/REVISION  the commit
    GET        /api/v1/models/org/name/repo/files      ModelScope: the list of files
    GET        /api/v1/models/org/name/repo            ModelScope: a file, or a range of it

ModelScope's only revision is master.
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

import pytest
from huggingface_hub import constants

from tests.cli_runner import make_environment

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repository:
    """The files of a folder, and what goes wrong when they are requested.

    Attributes:
        folder: its files.
        commit: the only revision besides main.
        gated: whether the licence must be accepted first.
        status: of every response, where it is not 200.
        breaks_off_at: bytes of a file after which its first download breaks off.
        truncated_files: files of which every download is half as long as it should be.
        claimed_bytes: sizes that are listed for files, in place of their own.
        listed_files: names that ModelScope lists besides those of the folder.
    """

    folder: Path
    commit: str = COMMIT
    gated: bool = False
    status: int = 200
    breaks_off_at: dict[str, int] = field(default_factory=dict)
    truncated_files: tuple[str, ...] = ()
    claimed_bytes: dict[str, int] = field(default_factory=dict)
    listed_files: tuple[str, ...] = ()


@dataclass
class FakeHub:
    """The repositories of a hub, and a record of the requests."""

    address: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)  # "GET /path", in order
    tokens: set[str | None] = field(default_factory=set)

    def downloaded_files(self) -> set[str]:
        """The names of the files that were downloaded."""
        return {
            request.rsplit("/", 1)[-1]
            for request in self.requests
            if request.startswith("GET ") and "/resolve/" in request
        }

    def make_environment(self, cache: Path, **changes: str) -> dict[str, str]:
        """The environment variables of a process that uses this hub."""
        return make_environment(
            **{
                "HF_ENDPOINT": self.address,
                "HF_HOME": str(cache),
                "HF_HUB_OFFLINE": "0",
                "HF_HUB_DISABLE_XET": "1",
                "MODELSCOPE_ENDPOINT": self.address,
                "MODELSCOPE_HOME": str(cache / "modelscope-home"),
                "MODELSCOPE_CACHE": str(cache / "modelscope"),
                **changes,
            }
        )


@contextmanager
def serve_hub(handler: "type[HubRequestHandler] | None" = None) -> Iterator[FakeHub]:
    """Serve a hub without repositories until `with` ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler or HubRequestHandler)
    server.daemon_threads = True
    server.hub = FakeHub(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use_hub(monkeypatch: pytest.MonkeyPatch, hub: FakeHub | None, cache: Path) -> None:
    """Let this process use a Hugging Face hub; without one it is offline, with the cache alone."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", hub is None)
    if hub is not None:
        url_template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url_template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


class HubRequestHandler(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:  # noqa: N802
        self.handle_request()

    def do_GET(self) -> None:  # noqa: N802
        self.handle_request()

    def handle_request(self) -> None:
        hub: FakeHub = self.server.hub
        path = unquote(urlsplit(self.path).path)
        hub.requests.append(f"{self.command} {path}")
        hub.tokens.add(self.headers.get("Authorization"))
        if path.startswith("/api/v1/"):
            self.handle_modelscope_request(hub, path)
            return
        names = path.removeprefix("/api/models").strip("/").split("/")
        repo_id = "/".join(names[:2])
        repository = hub.repositories.get(repo_id)
        kind, revision, *rest = names[2:] or ["revision", "main"]
        if repository is None:
            self.send_failure(404, "RepoNotFound")
        elif repository.status != 200:
            self.send_failure(repository.status)
        elif revision not in ("main", repository.commit):
            self.send_failure(404, "RevisionNotFound")
        elif kind == "tree":
            self.send_data(json.dumps(list_files(repository)).encode())
        elif kind == "revision":
            self.send_data(json.dumps({"id": repo_id, "sha": repository.commit}).encode())
        else:
            self.send_file(repository, "/".join(rest))

    def handle_modelscope_request(self, hub: FakeHub, path: str) -> None:
        names = path.removeprefix("/api/v1/models/").split("/")
        query = parse_qs(urlsplit(self.path).query)
        repository = hub.repositories.get("/".join(names[:2]))
        if repository is None or query.get("Revision") != ["master"]:
            self.send_failure(404)
        elif repository.gated:
            self.send_failure(403)
        elif names[2:] == ["repo", "files"]:
            files = [
                {
                    "Path": file["path"],
                    "Size": file["size"],
                    "Type": "blob",
                    "Sha256": hash_bytes((repository.folder / str(file["path"])).read_bytes()),
                }
                for file in list_files(repository)
            ]
            files += [
                {"Path": name, "Size": 2, "Type": "blob", "Sha256": hash_bytes(b"{}")}
                for name in repository.listed_files
            ]
            self.send_data(json.dumps({"Code": 200, "Data": {"Files": files}}).encode())
        else:
            self.send_file(repository, query["FilePath"][0])

    def send_file(self, repository: Repository, name: str) -> None:
        """Send a file, or the range of it that is requested."""
        path = repository.folder / name
        if repository.gated:
            self.send_failure(403, "GatedRepo")
            return
        if not path.is_file():
            self.send_failure(404, "EntryNotFound", commit=repository.commit)
            return
        data = path.read_bytes()
        num_bytes = repository.claimed_bytes.get(name, len(data))
        headers = {
            "ETag": f'"{hash_bytes(data)}"',
            "X-Repo-Commit": repository.commit,
            "X-Linked-Size": str(num_bytes),
        }
        status = 200
        if byte_range := self.headers.get("Range"):
            first, last = byte_range.removeprefix("bytes=").split("-")
            begin, end = int(first), min(int(last or len(data)), len(data) - 1)
            headers["Content-Range"] = f"bytes {begin}-{end}/{len(data)}"
            data, status = data[begin : end + 1], 206
        if name in repository.truncated_files and self.command == "GET":
            data = data[: len(data) // 2]
        stop_at = repository.breaks_off_at.pop(name, None) if self.command == "GET" else None
        self.send_data(data, status, stop_at=stop_at, **headers)

    def send_data(
        self, data: bytes, status: int = 200, stop_at: int | None = None, **headers: str
    ) -> None:
        """Send bytes; with `stop_at` the connection breaks off after so many."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[:stop_at])
        if stop_at is not None:
            self.close_connection = True

    def send_failure(self, status: int, error_code: str = "", commit: str = "") -> None:
        headers = {"X-Error-Code": error_code, "X-Repo-Commit": commit}
        sent = {name: value for name, value in headers.items() if value}
        self.send_data(b"{}", status, **sent)

    def log_message(self, *args: object) -> None:
        """Tests print nothing."""


def hash_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def list_files(repository: Repository) -> list[dict[str, object]]:
    """Every file, as a hub lists them."""
    return [
        {
            "type": "file",
            "path": path.relative_to(repository.folder).as_posix(),
            "size": path.stat().st_size,
            "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
        }
        for path in sorted(repository.folder.rglob("*"))
        if path.is_file()
    ]

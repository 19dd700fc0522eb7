"""What ModelScope is asked for a base, and one line for each way in which it does not give it.

    cache/models/org--name/snapshots/<revision>/   its files, where modelscope-hub keeps them

A revision is a branch or a tag, master where none is named; what was found first stays. The
variables MODELSCOPE_CACHE, MODELSCOPE_ENDPOINT and MODELSCOPE_API_TOKEN mean what they mean to
ModelScope's own tools.
"""

import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from dlm.errors import BaseError, MissingExtra
from dlm.plan.weights import CONFIG, PREFIX_BYTES, Tensor, Weights

if TYPE_CHECKING:
    from modelscope_hub import FileInfo, HubApi

SCOPE = "ms:"
SITE = "https://modelscope.cn"
MASTER = "master"
MODEL = "model"
WEIGHTS = "model*.safetensors"  # of what is not here yet, the heads of which are read
RETRY = "run it again where there is a network (what came is kept), or use base_model: sparrow"


def settle_scope(name: str, revision: str | None, beside: str) -> Path:
    """The folder with a model's config, and the file `beside` it where there is one."""
    folder = scope_folder(name, revision)
    if (folder / CONFIG).is_file():
        return folder
    file_in_scope(name, revision, CONFIG)
    if in_scope(name, revision, beside):
        file_in_scope(name, revision, beside)
    return folder


def file_in_scope(name: str, revision: str | None, file: str) -> Path:
    """One file of a model, fetched when it is not here yet."""
    folder = scope_folder(name, revision)
    with _asking(name, revision) as api, redirect_stderr(io.StringIO()):
        return api.download_file(
            _bare(name), MODEL, file, revision=revision or MASTER, local_dir=folder
        )


def in_scope(name: str, revision: str | None, file: str) -> bool:
    """Whether a model has a file; where its weights are here, so is all that it has."""
    folder = scope_folder(name, revision)
    if (folder / file).is_file() or any(folder.glob(WEIGHTS)):
        return (folder / file).is_file()
    with _asking(name, revision) as api:
        return any(each.path == file for each in _files(api, name, revision))


def fetch_from_scope(name: str, revision: str | None, patterns: list[str]) -> Path:
    """The folder with all of a model's files of these patterns, their hashes checked."""
    folder = scope_folder(name, revision)
    with _asking(name, revision) as api:
        silent = nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO())
        with silent:
            for each in _files(api, name, revision):
                if any(fnmatch(each.path, pattern) for pattern in patterns):
                    api.download_file(
                        _bare(name),
                        MODEL,
                        each.path,
                        revision=revision or MASTER,
                        local_dir=folder,
                        expected_sha256=each.sha256,
                        file_size=each.size,
                    )
    return folder


def missing_in_scope(name: str, revision: str | None, patterns: list[str]) -> int:
    """How many bytes of those files are not here yet."""
    folder = scope_folder(name, revision)
    with _asking(name, revision) as api:
        wanted = [
            each
            for each in _files(api, name, revision)
            if any(fnmatch(each.path, pattern) for pattern in patterns)
        ]
    return sum(each.size for each in wanted if not (folder / each.path).is_file())


def weights_in_scope(name: str, revision: str | None) -> Weights:
    """The tensors of a model, of which only the heads of the files are fetched."""
    with _asking(name, revision) as api:
        found = {
            each.path: _head(api, name, revision, each.path)
            for each in _files(api, name, revision)
            if fnmatch(each.path, WEIGHTS)
        }
    if not found:
        what = "has no safetensors, and pickles are not read"
        raise BaseError(what, where=_told(name, revision), mend="name another")
    return found


def scope_folder(name: str, revision: str | None) -> Path:
    """Where the files of a model are kept, whether they are there or not."""
    try:
        from modelscope_hub import get_default_config
    except ImportError as reason:
        raise MissingExtra("modelscope-hub", "modelscope") from reason
    cache = get_default_config().cache_dir / "models" / _bare(name).replace("/", "--")
    return cache / "snapshots" / (revision or MASTER)


def _head(api: "HubApi", name: str, revision: str | None, file: str) -> dict[str, Tensor]:
    """The tensors that the head of a file tells."""
    prefix = _span(api, name, revision, file, (0, PREFIX_BYTES))
    end = PREFIX_BYTES + int.from_bytes(prefix, "little")
    told = json.loads(_span(api, name, revision, file, (PREFIX_BYTES, end)))
    told.pop("__metadata__", None)
    return {key: Tensor(tuple(each["shape"]), *each["data_offsets"]) for key, each in told.items()}


def _span(
    api: "HubApi", name: str, revision: str | None, file: str, span: tuple[int, int]
) -> bytes:
    """The bytes of a file from one place up to another."""
    begin, end = span
    answer = api.legacy.download_stream(
        _bare(name),
        MODEL,
        file,
        revision or MASTER,
        headers={"Range": f"bytes={begin}-{end - 1}"},
    )
    with answer:
        whole = answer.status_code == 200  # where ranges are passed over
        taken: bytes = answer.raw.read(end if whole else end - begin)
    return taken[begin:] if whole else taken


def _files(api: "HubApi", name: str, revision: str | None) -> "list[FileInfo]":
    return api.list_repo_files(_bare(name), MODEL, revision=revision or MASTER)


@contextmanager
def _asking(name: str, revision: str | None) -> "Iterator[HubApi]":
    """Raise one line, without addresses or tokens, where ModelScope does not give it."""
    try:
        from modelscope_hub import HubApi, errors
    except ImportError as reason:
        raise MissingExtra("modelscope-hub", "modelscope") from reason
    logging.getLogger("modelscope_hub").setLevel(logging.CRITICAL)  # what matters is told below
    where = _told(name, revision)
    try:
        yield HubApi()
    except errors.NotExistError as reason:
        what = "is not on ModelScope, has no such revision, or is private"
        raise BaseError(what, where=where, mend=f"see {SITE}/models/{_bare(name)}") from reason
    except (errors.AuthenticationError, errors.PermissionDeniedError) as reason:
        what, mend = "is given only to those who may read it", "set MODELSCOPE_API_TOKEN"
        raise BaseError(what, where=where, mend=mend) from reason
    except errors.InvalidParameter as reason:
        what, mend = "is no name of ModelScope", "write ms:org/name, or ms:org/name@revision"
        raise BaseError(what, where=where, mend=mend) from reason
    except (errors.HubError, OSError, ValueError) as reason:
        told = type(reason).__name__
        what = f"cannot be fetched from ModelScope ({told})"
        raise BaseError(what, where=where, mend=RETRY) from reason


def _told(name: str, revision: str | None) -> str:
    return f"{name}@{revision}" if revision else name


def _bare(name: str) -> str:
    return name.removeprefix(SCOPE)

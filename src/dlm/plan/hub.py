"""What the weight files of a base tell without being loaded: names, shapes, sizes.

    folder/  config.json                      the class
             model.safetensors                every tensor, or
             model.safetensors.index.json     which tensor is in which of several files

Only safetensors are read: a pickle runs what it holds.

What ModelScope is asked for a base, and one line for each way in which it does not give it.

    cache/models/org--name/snapshots/<revision>/   its files, where modelscope-hub keeps them

A revision is a branch or a tag, master where none is named; what was found first stays. The
variables MODELSCOPE_CACHE, MODELSCOPE_ENDPOINT and MODELSCOPE_API_TOKEN mean what they mean to
ModelScope's own tools.

What the hub is asked for a base, and one line for each way in which it does not give it.

    cache/models--org--name/  refs/main          the commit that was found first
                              snapshots/<sha>/   its config.json and README.md, later its weights

A name without a revision means the commit that lies in the cache: a document keeps the base it
began with, and needs no network. A name that begins with ms: is one of ModelScope's, which is asked
in plan/scope.py.
"""

import hashlib
import io
import json
import logging
import math
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import (
    HfApi,
    constants,
    get_local_safetensors_metadata,
    hf_hub_download,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    NotASafetensorsRepoError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    SafetensorsParsingError,
)
from huggingface_hub.errors import HTTPError as ConnectionFault  # type: ignore[attr-defined]
from huggingface_hub.utils.tqdm import disable_progress_bars

from dlm.errors import DlmError, MissingExtra, ModelError
from dlm.io import to_disk_full_error

if TYPE_CHECKING:
    from huggingface_hub.utils._safetensors import SafetensorsRepoMetadata
    from modelscope_hub import FileInfo, HubApi


HF_CONFIG_FILE = "config.json"
PICKLE_GLOBS = ("*.bin", "*.pt", "*.pth", "*.ckpt")
SAFETENSORS_LENGTH_BYTES = 8  # of a safetensors file: the length of its header, little-endian
FINGERPRINT_TENSOR_BYTES = 256  # of each tensor: training changes nearly all its numbers


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file; its bytes are those from `begin` to `end` behind the header."""

    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def num_elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


TensorIndex = dict[str, dict[str, TensorInfo]]  # by file, by name


def read_tensor_index(folder: Path) -> TensorIndex:
    """The tensors of a folder. Raises BaseError for files that are missing, cut off or pickles."""
    try:
        weights = parse_safetensors_metadata(get_local_safetensors_metadata(folder))
    except NotASafetensorsRepoError as reason:
        raise _make_missing_weights_error(folder) from reason
    except FileNotFoundError as reason:
        what = f"{Path(str(reason.filename)).name} is missing"
        raise make_damaged_checkpoint_error(what, folder) from reason
    except (OSError, ValueError, AttributeError, TypeError, SafetensorsParsingError) as reason:
        told = " ".join(str(reason).split())
        raise make_damaged_checkpoint_error(f"cannot be read ({told})", folder) from reason
    for name, tensors in weights.items():
        _check_file_length(folder / name, tensors)
    return weights


def parse_safetensors_metadata(metadata: "SafetensorsRepoMetadata") -> TensorIndex:
    """The same, from what the hub's library read."""
    return {
        name: {
            key: TensorInfo(tuple(each.shape), *each.data_offsets) for key, each in tensors.items()
        }
        for name, tensors in (
            (name, file.tensors) for name, file in metadata.files_metadata.items()
        )
    }


def fingerprint_checkpoint(folder: Path, tensor_index: TensorIndex) -> str:
    """A revision for a folder: another one when its shape, or any tensor, was changed."""
    digest = hashlib.sha256((folder / HF_CONFIG_FILE).read_bytes())
    for name in sorted(tensor_index):
        with (folder / name).open("rb") as file:
            prefix = file.read(SAFETENSORS_LENGTH_BYTES)
            header = int.from_bytes(prefix, "little")
            digest.update(prefix + file.read(header))
            for tensor in tensor_index[name].values():
                file.seek(SAFETENSORS_LENGTH_BYTES + header + tensor.start)
                digest.update(file.read(min(FINGERPRINT_TENSOR_BYTES, tensor.end - tensor.start)))
    return digest.hexdigest()[:40]


def make_damaged_checkpoint_error(what: str, path: Path) -> ModelError:
    """The error for what cannot be loaded. The hub's cache mends nothing by itself: say how."""
    cached = next((part for part in path.parts if part.startswith("models--")), None)
    mend = "copy or make the folder again"
    if cached:
        name = cached.removeprefix("models--").replace("--", "/")
        mend = f"`hf cache rm model/{name}`, then run it again"
    return ModelError(what, where=str(path), hint=mend)


def _check_file_length(path: Path, tensors: dict[str, TensorInfo]) -> None:
    """Refuse a file that ends before, or goes on after, what its header promises."""
    with path.open("rb") as file:
        header = int.from_bytes(file.read(SAFETENSORS_LENGTH_BYTES), "little")
    promised = (
        SAFETENSORS_LENGTH_BYTES + header + max((each.end for each in tensors.values()), default=0)
    )
    size = path.stat().st_size
    if size != promised:
        what = f"has {size:,} bytes where its header promises {promised:,}"
        raise make_damaged_checkpoint_error(what, path)


def _make_missing_weights_error(folder: Path) -> ModelError:
    pickles = sorted(path.name for form in PICKLE_GLOBS for path in folder.glob(form))
    if not pickles:
        return make_damaged_checkpoint_error("no model.safetensors in this folder", folder)
    mend = "save the model with transformers' save_pretrained, which writes safetensors"
    what = f"holds its weights as a pickle ({pickles[0]}); only safetensors are read"
    return ModelError(what, where=str(folder), hint=mend)


MODELSCOPE_PREFIX = "ms:"
MODELSCOPE_URL = "https://modelscope.cn"
MODELSCOPE_DEFAULT_REVISION = "master"
MODELSCOPE_REPO_TYPE = "model"
MODELSCOPE_WEIGHTS_GLOB = (
    "model*.safetensors"  # of what is not here yet, the heads of which are read
)
OFFLINE_RETRY_HINT = (
    "run it again where there is a network (what came is kept), or use base_model: sparrow"
)


def resolve_modelscope_dir(repo_id: str, revision: str | None, extra_filename: str) -> Path:
    """The folder with a model's config, and the file `beside` it where there is one."""
    folder = get_modelscope_dir(repo_id, revision)
    if (folder / HF_CONFIG_FILE).is_file():
        return folder
    download_modelscope_file(repo_id, revision, HF_CONFIG_FILE)
    if has_modelscope_file(repo_id, revision, extra_filename):
        download_modelscope_file(repo_id, revision, extra_filename)
    return folder


def download_modelscope_file(repo_id: str, revision: str | None, filename: str) -> Path:
    """One file of a model, fetched when it is not here yet."""
    folder = get_modelscope_dir(repo_id, revision)
    with _open_modelscope_api(repo_id, revision) as api, redirect_stderr(io.StringIO()):
        return api.download_file(
            _strip_modelscope_prefix(repo_id),
            MODELSCOPE_REPO_TYPE,
            filename,
            revision=revision or MODELSCOPE_DEFAULT_REVISION,
            local_dir=folder,
        )


def has_modelscope_file(repo_id: str, revision: str | None, filename: str) -> bool:
    """Whether a model has a file; where its weights are here, so is all that it has."""
    folder = get_modelscope_dir(repo_id, revision)
    if (folder / filename).is_file() or any(folder.glob(MODELSCOPE_WEIGHTS_GLOB)):
        return (folder / filename).is_file()
    with _open_modelscope_api(repo_id, revision) as api:
        return any(each.path == filename for each in _list_modelscope_files(api, repo_id, revision))


def download_modelscope_files(repo_id: str, revision: str | None, patterns: list[str]) -> Path:
    """The folder with all of a model's files of these patterns, their hashes checked."""
    folder = get_modelscope_dir(repo_id, revision)
    with _open_modelscope_api(repo_id, revision) as api:
        silent = nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO())
        with silent:
            for each in _list_modelscope_files(api, repo_id, revision):
                if any(fnmatch(each.path, pattern) for pattern in patterns):
                    api.download_file(
                        _strip_modelscope_prefix(repo_id),
                        MODELSCOPE_REPO_TYPE,
                        each.path,
                        revision=revision or MODELSCOPE_DEFAULT_REVISION,
                        local_dir=folder,
                        expected_sha256=each.sha256,
                        file_size=each.size,
                    )
    return folder


def count_missing_modelscope_bytes(repo_id: str, revision: str | None, patterns: list[str]) -> int:
    """How many bytes of those files are not here yet."""
    folder = get_modelscope_dir(repo_id, revision)
    with _open_modelscope_api(repo_id, revision) as api:
        wanted = [
            each
            for each in _list_modelscope_files(api, repo_id, revision)
            if any(fnmatch(each.path, pattern) for pattern in patterns)
        ]
    return sum(each.size for each in wanted if not (folder / each.path).is_file())


def fetch_modelscope_tensor_index(repo_id: str, revision: str | None) -> TensorIndex:
    """The tensors of a model, of which only the heads of the files are fetched."""
    with _open_modelscope_api(repo_id, revision) as api:
        found = {
            each.path: _read_remote_header(api, repo_id, revision, each.path)
            for each in _list_modelscope_files(api, repo_id, revision)
            if fnmatch(each.path, MODELSCOPE_WEIGHTS_GLOB)
        }
    if not found:
        what = "has no safetensors, and pickles are not read"
        raise ModelError(what, where=_format_model_name(repo_id, revision), hint="name another")
    return found


def get_modelscope_dir(repo_id: str, revision: str | None) -> Path:
    """Where the files of a model are kept, whether they are there or not."""
    try:
        from modelscope_hub import get_default_config
    except ImportError as reason:
        raise MissingExtra("modelscope-hub", "modelscope") from reason
    cache = (
        get_default_config().cache_dir
        / "models"
        / _strip_modelscope_prefix(repo_id).replace("/", "--")
    )
    return cache / "snapshots" / (revision or MODELSCOPE_DEFAULT_REVISION)


def _read_remote_header(
    api: "HubApi", repo_id: str, revision: str | None, filename: str
) -> dict[str, TensorInfo]:
    """The tensors that the head of a file tells."""
    prefix = _read_remote_bytes(api, repo_id, revision, filename, (0, SAFETENSORS_LENGTH_BYTES))
    end = SAFETENSORS_LENGTH_BYTES + int.from_bytes(prefix, "little")
    told = json.loads(
        _read_remote_bytes(api, repo_id, revision, filename, (SAFETENSORS_LENGTH_BYTES, end))
    )
    told.pop("__metadata__", None)
    return {
        key: TensorInfo(tuple(each["shape"]), *each["data_offsets"]) for key, each in told.items()
    }


def _read_remote_bytes(
    api: "HubApi", repo_id: str, revision: str | None, filename: str, byte_range: tuple[int, int]
) -> bytes:
    """The bytes of a file from one place up to another."""
    begin, end = byte_range
    answer = api.legacy.download_stream(
        _strip_modelscope_prefix(repo_id),
        MODELSCOPE_REPO_TYPE,
        filename,
        revision or MODELSCOPE_DEFAULT_REVISION,
        headers={"Range": f"bytes={begin}-{end - 1}"},
    )
    with answer:
        whole = answer.status_code == 200  # where ranges are passed over
        taken: bytes = answer.raw.read(end if whole else end - begin)
    return taken[begin:] if whole else taken


def _list_modelscope_files(api: "HubApi", repo_id: str, revision: str | None) -> "list[FileInfo]":
    return api.list_repo_files(
        _strip_modelscope_prefix(repo_id),
        MODELSCOPE_REPO_TYPE,
        revision=revision or MODELSCOPE_DEFAULT_REVISION,
    )


@contextmanager
def _open_modelscope_api(repo_id: str, revision: str | None) -> "Iterator[HubApi]":
    """Raise one line, without addresses or tokens, where ModelScope does not give it."""
    try:
        from modelscope_hub import HubApi, errors
    except ImportError as reason:
        raise MissingExtra("modelscope-hub", "modelscope") from reason
    logging.getLogger("modelscope_hub").setLevel(logging.CRITICAL)  # what matters is told below
    where = _format_model_name(repo_id, revision)
    try:
        yield HubApi()
    except errors.NotExistError as reason:
        what = "is not on ModelScope, has no such revision, or is private"
        raise ModelError(
            what,
            where=where,
            hint=f"see {MODELSCOPE_URL}/models/{_strip_modelscope_prefix(repo_id)}",
        ) from reason
    except (errors.AuthenticationError, errors.PermissionDeniedError) as reason:
        what, mend = "is given only to those who may read it", "set MODELSCOPE_API_TOKEN"
        raise ModelError(what, where=where, hint=mend) from reason
    except errors.InvalidParameter as reason:
        what, mend = "is no name of ModelScope", "write ms:org/name, or ms:org/name@revision"
        raise ModelError(what, where=where, hint=mend) from reason
    except (errors.HubError, OSError, ValueError) as reason:
        told = type(reason).__name__
        what = f"cannot be fetched from ModelScope ({told})"
        raise ModelError(what, where=where, hint=OFFLINE_RETRY_HINT) from reason


def _format_model_name(repo_id: str, revision: str | None) -> str:
    return f"{repo_id}@{revision}" if revision else repo_id


def _strip_modelscope_prefix(repo_id: str) -> str:
    return repo_id.removeprefix(MODELSCOPE_PREFIX)


_logger = logging.getLogger(__name__)

HF_PREFIX = "hf:"
BUNDLED_PREFIX = "embedded:"  # what lies in this package
MODEL_CARD_FILE = "README.md"
TOKENIZER_FILE_GLOBS = ["*.json", "*.txt", "*.jinja", "*.model", MODEL_CARD_FILE]  # never code
MODEL_FILE_GLOBS = [
    "model.safetensors",
    "model-*.safetensors",
    *TOKENIZER_FILE_GLOBS,
]  # never pickles, nor other formats
HUB_TIMEOUT_SECONDS = 10.0
HF_URL = "https://huggingface.co"  # where licences are accepted, wherever files are mirrored
HF_LOGIN_HINT = "`hf auth login` with a token that may read it"
HUB_EXCEPTIONS = (
    *(ConnectionFault, OSError, ValueError),
    *(NotASafetensorsRepoError, SafetensorsParsingError),
)
HUB_ERROR_MESSAGES: tuple[tuple[type[Exception], str, str], ...] = (
    (
        GatedRepoError,
        "needs its licence accepted",
        f"accept it at {HF_URL}/{{name}}, then `hf auth login`",
    ),
    (RevisionNotFoundError, "has no such revision", f"see {HF_URL}/{{name}}/commits/main"),
    (
        RepositoryNotFoundError,
        "is not on the hub, or is private",
        f"check the name, or {HF_LOGIN_HINT}",
    ),
    (HFValidationError, "is no name of the hub", "write hf:org/name, or hf:org/name@commit"),
    (
        RemoteEntryNotFoundError,
        f"has no {HF_CONFIG_FILE}",
        "name a model that transformers can load",
    ),
    (NotASafetensorsRepoError, "has no safetensors, and pickles are not read", "name another"),
    (SafetensorsParsingError, "its safetensors cannot be read", "name another revision"),
)


def find_local_model(source: str, revision: str | None) -> Path | None:
    """Where the weights that a `source` names lie on this machine, if they do."""
    if source.startswith(BUNDLED_PREFIX):
        return Path(str(files("dlm.models"))) / source.removeprefix(BUNDLED_PREFIX)
    place = Path(source)
    return place if place.is_absolute() else find_cached_model(source, revision)


def resolve_snapshot_dir(repo_id: str, revision: str | None) -> Path:
    """The folder of the cache with a repository's config; it is named after the commit."""
    if repo_id.startswith(MODELSCOPE_PREFIX):
        return resolve_modelscope_dir(repo_id, revision, MODEL_CARD_FILE)
    known = _find_cached_config_dir(repo_id, revision)
    if known:
        return known
    with convert_hub_errors(repo_id, revision), disable_progress_bars():
        HfApi().model_info(
            repo_id, revision=revision, timeout=HUB_TIMEOUT_SECONDS
        )  # it asks but once
        folder = Path(hf_hub_download(repo_id, HF_CONFIG_FILE, revision=revision)).parent
        with suppress(EntryNotFoundError):
            hf_hub_download(repo_id, MODEL_CARD_FILE, revision=folder.name)
    return folder


def download_hub_file(repo_id: str, revision: str, filename: str) -> Path:
    """One small file of a repository."""
    if repo_id.startswith(MODELSCOPE_PREFIX):
        return download_modelscope_file(repo_id, revision, filename)
    with convert_hub_errors(repo_id), disable_progress_bars():
        return Path(hf_hub_download(repo_id, filename, revision=revision))


def download_hub_file_if_exists(repo_id: str, revision: str, filename: str) -> Path | None:
    """The same, or None where the repository has none."""
    if repo_id.startswith(MODELSCOPE_PREFIX):
        return (
            download_modelscope_file(repo_id, revision, filename)
            if has_modelscope_file(repo_id, revision, filename)
            else None
        )
    try:
        return download_hub_file(repo_id, revision, filename)
    except ModelError as error:
        if isinstance(error.__cause__, EntryNotFoundError) and find_cached_model(repo_id, revision):
            return None
        if isinstance(error.__cause__, RemoteEntryNotFoundError):
            return None
        raise


def fetch_tensor_index(repo_id: str, revision: str) -> TensorIndex:
    """The tensors of a repository, of which only the heads of the files are fetched."""
    if repo_id.startswith(MODELSCOPE_PREFIX):
        return fetch_modelscope_tensor_index(repo_id, revision)
    with convert_hub_errors(repo_id), disable_progress_bars():
        return parse_safetensors_metadata(
            HfApi().get_safetensors_metadata(repo_id, revision=revision)
        )


def find_cached_model(repo_id: str, revision: str | None) -> Path | None:
    """The folder of the cache with all of a base's weights, if it is there."""
    folder = _find_cached_config_dir(repo_id, revision)
    try:
        return folder if folder and read_tensor_index(folder) else None
    except ModelError:
        return None


def download_model(repo_id: str, revision: str | None) -> Path:
    """The folder of the cache with all of a base's files; how much is fetched is said first."""
    if repo_id.startswith(MODELSCOPE_PREFIX):
        _check_download_size(
            repo_id, count_missing_modelscope_bytes(repo_id, revision, MODEL_FILE_GLOBS)
        )
        return download_modelscope_files(repo_id, revision, MODEL_FILE_GLOBS)
    with convert_hub_errors(repo_id):
        with disable_progress_bars():
            wanted = snapshot_download(
                repo_id, revision=revision, allow_patterns=MODEL_FILE_GLOBS, dry_run=True
            )
        size = sum(file.file_size or 0 for file in wanted if file.will_download)
        _check_download_size(repo_id, size)
        with nullcontext() if sys.stderr.isatty() else disable_progress_bars():
            return Path(
                snapshot_download(repo_id, revision=revision, allow_patterns=MODEL_FILE_GLOBS)
            )


def download_tokenizer(repo_id: str, revision: str | None) -> Path:
    """The same without the weights: what its tokenizer needs."""
    if repo_id.startswith(MODELSCOPE_PREFIX):
        return download_modelscope_files(repo_id, revision, TOKENIZER_FILE_GLOBS)
    with convert_hub_errors(repo_id), disable_progress_bars():
        return Path(
            snapshot_download(repo_id, revision=revision, allow_patterns=TOKENIZER_FILE_GLOBS)
        )


@contextmanager
def convert_hub_errors(repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Raise one line, without addresses or tokens, where the hub does not give what it should."""
    where = f"{HF_PREFIX}{repo_id}@{revision}" if revision else f"{HF_PREFIX}{repo_id}"
    try:
        yield
    except HUB_EXCEPTIONS as reason:
        raise _make_hub_error(repo_id, where, reason) from reason


def _make_hub_error(repo_id: str, where: str, reason: Exception) -> DlmError:
    causes = (reason, reason.__cause__)
    for kind, what, mend in HUB_ERROR_MESSAGES:
        if any(isinstance(each, kind) for each in causes):
            return ModelError(what, where=where, hint=mend.format(name=repo_id))
    answers = [each for each in causes if isinstance(each, HfHubHTTPError)]
    mend = "run it again where there is a network (what came is kept), or use base_model: sparrow"
    why = "there is no connection, or it broke off"
    if answers:
        status = answers[0].response.status_code
        why = f"the hub answers {status}"
        mend = HF_LOGIN_HINT if status in (401, 403) else "try again later"
    elif any(isinstance(each, OfflineModeIsEnabled) for each in causes):
        why, mend = "HF_HUB_OFFLINE is set", f"`hf download {repo_id}` where there is a network"
    what = f"is not in {constants.HF_HUB_CACHE} and cannot be fetched: {why}"
    return to_disk_full_error(reason, _get_hub_cache_dir()) or ModelError(
        what, where=where, hint=mend
    )


def _find_cached_config_dir(repo_id: str, revision: str | None) -> Path | None:
    if repo_id.startswith(MODELSCOPE_PREFIX):
        folder = get_modelscope_dir(repo_id, revision)
        return folder if (folder / HF_CONFIG_FILE).is_file() else None
    with convert_hub_errors(repo_id, revision):
        known = try_to_load_from_cache(repo_id, HF_CONFIG_FILE, revision=revision)
    return Path(known).parent if isinstance(known, str) else None


def _check_download_size(repo_id: str, num_bytes: int) -> None:
    """Say what is fetched, and refuse to begin what the disk cannot hold."""
    folder = next(
        each for each in (_get_hub_cache_dir(), *_get_hub_cache_dir().parents) if each.exists()
    )
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        what = f"takes {format_download_size(num_bytes)} and {format_download_size(free)} are free"
        mend = "free some, or set HF_HOME to a folder on a larger disk"
        raise ModelError(what, where=repo_id, hint=mend)
    if num_bytes:
        _logger.info("fetching %s (%s)", repo_id, format_download_size(num_bytes))


def _get_hub_cache_dir() -> Path:
    return Path(constants.HF_HUB_CACHE).absolute()


def format_download_size(num_bytes: int) -> str:
    """Bytes in the unit that suits them."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"

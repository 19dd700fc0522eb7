"""Model files on the Hugging Face hub and on ModelScope: caches, downloads, refusals.

Owns where a model is in the caches of both hubs, what is downloaded (safetensors, never pickles or
code), and the one-line error for each way in which a hub refuses.

    HF_HUB_CACHE/models--org--name/            refs/main: the commit that was resolved first
                                               snapshots/<commit>/: its files
    MODELSCOPE_CACHE/models/org--name/         snapshots/<revision>/: its files

A name without a revision means the commit that is in the cache (of ModelScope, `master`), so that a
document keeps its model and needs no network. Names that begin with `ms:` are ModelScope's, which
reads MODELSCOPE_CACHE, MODELSCOPE_ENDPOINT and MODELSCOPE_API_TOKEN.
"""

import io
import logging
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from fnmatch import fnmatch
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import (
    HfApi,
    constants,
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
from huggingface_hub.errors import HTTPError as HubConnectionError  # type: ignore[attr-defined]
from huggingface_hub.utils.tqdm import disable_progress_bars

from dlm.errors import HubError, MissingExtra, ModelError
from dlm.io import to_disk_full_error
from dlm.plan.safetensors_index import (
    HF_CONFIG_FILE,
    WEIGHTS_FILE,
    TensorHeader,
    TensorIndex,
    TensorInfo,
    is_safe_file_name,
    parse_tensor_header,
    read_tensor_index,
)

if TYPE_CHECKING:
    from modelscope_hub import FileInfo, HubApi

_logger = logging.getLogger(__name__)

HF_PREFIX = "hf:"
MODELSCOPE_PREFIX = "ms:"
BUNDLED_PREFIX = "embedded:"  # models inside this package

MODEL_CARD_FILE = "README.md"
TOKENIZER_FILE_GLOBS = ["*.json", "*.txt", "*.jinja", "*.model", MODEL_CARD_FILE]  # never code
MODEL_FILE_GLOBS = [WEIGHTS_FILE, "model-*.safetensors", *TOKENIZER_FILE_GLOBS]

HUB_TIMEOUT_SECONDS = 10.0
HF_URL = "https://huggingface.co"  # where licences are accepted, whatever mirror is set
HF_LOGIN_HINT = "`hf auth login` with a token that may read it"
HF_EXCEPTIONS = (
    *(HubConnectionError, OSError, ValueError),
    *(NotASafetensorsRepoError, SafetensorsParsingError),
)
MODELSCOPE_URL = "https://modelscope.cn"
MODELSCOPE_DEFAULT_REVISION = "master"
MODELSCOPE_NAME_RE = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)  # org/name
MODELSCOPE_REPO_TYPE = "model"
MODELSCOPE_WEIGHTS_GLOB = "model*.safetensors"
OFFLINE_RETRY_HINT = (
    "run it again where there is a network (downloads resume), or use base_model: sparrow"
)


def find_local_model(source: str, revision: str | None) -> Path | None:
    """Return the folder of a model's weights where they are on this machine."""
    if source.startswith(BUNDLED_PREFIX):
        name = source.removeprefix(BUNDLED_PREFIX)
        return Path(str(files("dlm.models"))) / name if is_safe_file_name(name) else None
    return Path(source) if Path(source).is_absolute() else find_cached_model(source, revision)


def find_cached_model(repo_id: str, revision: str | None) -> Path | None:
    """Return the folder of the cache with all of a model's weights, if it is there."""
    folder = _find_cached_config_dir(repo_id, revision)
    try:
        return folder if folder and read_tensor_index(folder) else None
    except ModelError:
        return None


def resolve_snapshot_dir(repo_id: str, revision: str | None) -> Path:
    """Return the folder of the cache with a model's config, fetched where it is not there.

    The folder is named after the commit. Raises HubError (`hub.*`) or ModelError
    (`model.no_config`).
    """
    if folder := _find_cached_config_dir(repo_id, revision):
        return folder
    if repo_id.startswith(MODELSCOPE_PREFIX):
        folder = _download_modelscope_files(repo_id, revision, [HF_CONFIG_FILE, MODEL_CARD_FILE])
        if not (folder / HF_CONFIG_FILE).is_file():
            raise _make_no_config_error(_format_model_name(repo_id, revision))
        return folder
    with _convert_hf_errors(repo_id, revision), disable_progress_bars():
        HfApi().model_info(repo_id, revision=revision, timeout=HUB_TIMEOUT_SECONDS)  # no retries
        folder = Path(hf_hub_download(repo_id, HF_CONFIG_FILE, revision=revision)).parent
        with suppress(EntryNotFoundError):
            hf_hub_download(repo_id, MODEL_CARD_FILE, revision=folder.name)
    return folder


def download_hub_file(repo_id: str, revision: str, filename: str) -> Path | None:
    """Return one small file of a model, fetched where it is not here; None where it has none.

    Raises:
        HubError: the hub does not give it (`hub.*`).
    """
    if repo_id.startswith(MODELSCOPE_PREFIX):
        folder = _get_modelscope_dir(repo_id, revision)
        if not (folder / filename).is_file() and not any(folder.glob(MODELSCOPE_WEIGHTS_GLOB)):
            _download_modelscope_files(repo_id, revision, [filename])
        return folder / filename if (folder / filename).is_file() else None
    try:
        with _convert_hf_errors(repo_id), disable_progress_bars():
            return Path(hf_hub_download(repo_id, filename, revision=revision))
    except ModelError as error:
        cause = error.__cause__
        # offline, only a model that is here as a whole shows that it has no such file
        if isinstance(cause, RemoteEntryNotFoundError) or (
            isinstance(cause, EntryNotFoundError) and find_cached_model(repo_id, revision)
        ):
            return None
        raise


def fetch_tensor_index(repo_id: str, revision: str) -> TensorIndex:
    """Read the headers of a model's weight files on its hub, without the weights."""
    if repo_id.startswith(MODELSCOPE_PREFIX):
        return _fetch_modelscope_tensor_index(repo_id, revision)
    with _convert_hf_errors(repo_id), disable_progress_bars():
        metadata = HfApi().get_safetensors_metadata(repo_id, revision=revision)
    return {
        filename: {
            name: TensorInfo(tuple(tensor.shape), *tensor.data_offsets, str(tensor.dtype))
            for name, tensor in file.tensors.items()
        }
        for filename, file in metadata.files_metadata.items()
    }


def download_model(repo_id: str, revision: str | None) -> Path:
    """Return the folder with all of a model's files; logs first how much is fetched.

    Raises:
        HubError: the disk cannot hold it (`hub.disk_space`), or the hub does not give it.
    """
    if repo_id.startswith(MODELSCOPE_PREFIX):
        return _download_modelscope_files(repo_id, revision, MODEL_FILE_GLOBS, with_weights=True)
    with _convert_hf_errors(repo_id):
        with disable_progress_bars():
            planned_files = snapshot_download(
                repo_id, revision=revision, allow_patterns=MODEL_FILE_GLOBS, dry_run=True
            )
        num_bytes = sum(file.file_size or 0 for file in planned_files if file.will_download)
        _check_download_size(repo_id, num_bytes, _get_hf_cache_dir(), "HF_HOME")
        with nullcontext() if sys.stderr.isatty() else disable_progress_bars():
            return Path(
                snapshot_download(repo_id, revision=revision, allow_patterns=MODEL_FILE_GLOBS)
            )


def download_tokenizer(repo_id: str, revision: str | None) -> Path:
    """Return the folder with a model's files, its weights left out."""
    if repo_id.startswith(MODELSCOPE_PREFIX):
        return _download_modelscope_files(repo_id, revision, TOKENIZER_FILE_GLOBS)
    with _convert_hf_errors(repo_id), disable_progress_bars():
        return Path(
            snapshot_download(repo_id, revision=revision, allow_patterns=TOKENIZER_FILE_GLOBS)
        )


def _find_cached_config_dir(repo_id: str, revision: str | None) -> Path | None:
    if repo_id.startswith(MODELSCOPE_PREFIX):
        folder = _get_modelscope_dir(repo_id, revision)
        return folder if (folder / HF_CONFIG_FILE).is_file() else None
    with _convert_hf_errors(repo_id, revision):
        config_path = try_to_load_from_cache(repo_id, HF_CONFIG_FILE, revision=revision)
    return Path(config_path).parent if isinstance(config_path, str) else None


def _get_hf_cache_dir() -> Path:
    return Path(constants.HF_HUB_CACHE).absolute()


def _check_download_size(repo_id: str, num_bytes: int, cache_dir: Path, variable: str) -> None:
    """Log what is fetched, and refuse to begin what the disk cannot hold."""
    disk = next(folder for folder in (cache_dir, *cache_dir.parents) if folder.exists())
    free_bytes = shutil.disk_usage(disk).free
    if num_bytes > free_bytes:
        raise HubError(
            f"takes {_format_size(num_bytes)} and {_format_size(free_bytes)} are free",
            where=repo_id,
            hint=f"free some, or set {variable} to a folder on a larger disk",
            code="hub.disk_space",
        )
    if num_bytes:
        _logger.info("fetching %s (%s)", repo_id, _format_size(num_bytes))


def _format_size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"


def _format_model_name(repo_id: str, revision: str | None) -> str:
    prefix = "" if repo_id.startswith(MODELSCOPE_PREFIX) else HF_PREFIX
    return f"{prefix}{repo_id}@{revision}" if revision else f"{prefix}{repo_id}"


@contextmanager
def _convert_hf_errors(repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Raise one line, without addresses or tokens, for each way in which the hub refuses."""
    try:
        yield
    except HF_EXCEPTIONS as error:
        where = _format_model_name(repo_id, revision)
        known = _find_known_hf_error(repo_id, where, error)
        disk_full = to_disk_full_error(error, _get_hf_cache_dir())
        raise known or disk_full or _make_unreachable_error(repo_id, where, error) from error


def _find_known_hf_error(repo_id: str, where: str, error: Exception) -> ModelError | None:
    errors: dict[type[Exception], ModelError] = {  # a GatedRepoError is a RepositoryNotFoundError
        GatedRepoError: HubError(
            "needs its licence accepted",
            where=where,
            hint=f"accept it at {HF_URL}/{repo_id}, then `hf auth login`",
            code="hub.gated",
        ),
        RevisionNotFoundError: HubError(
            "has no such revision",
            where=where,
            hint=f"see {HF_URL}/{repo_id}/commits/main",
            code="hub.no_such_revision",
        ),
        RepositoryNotFoundError: HubError(
            "is not on the hub, or is private",
            where=where,
            hint=f"check the name, or {HF_LOGIN_HINT}",
            code="hub.not_found",
        ),
        HFValidationError: HubError(
            "is not a name of the hub",
            where=where,
            hint="write hf:org/name, or hf:org/name@commit",
            code="hub.bad_name",
        ),
        RemoteEntryNotFoundError: _make_no_config_error(where),
        NotASafetensorsRepoError: _make_no_safetensors_error(where),
        SafetensorsParsingError: _make_bad_safetensors_error(where),
    }
    causes = (error, error.__cause__)
    return next(
        (
            converted
            for kind, converted in errors.items()
            if any(isinstance(c, kind) for c in causes)
        ),
        None,
    )


def _make_unreachable_error(repo_id: str, where: str, error: Exception) -> HubError:
    causes = (error, error.__cause__)
    what = f"is not in {constants.HF_HUB_CACHE} and cannot be fetched"
    for cause in causes:
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            what = f"{what}: the hub answers {status}"
            if status in (401, 403):
                return HubError(what, where=where, hint=HF_LOGIN_HINT, code="hub.unauthorized")
            return HubError(what, where=where, hint="try again later", code="hub.http_error")
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in causes):
        hint = f"`hf download {repo_id}` where there is a network"
        return HubError(
            f"{what}: HF_HUB_OFFLINE is set", where=where, hint=hint, code="hub.offline"
        )
    return HubError(
        f"{what}: there is no connection, or it was lost",
        where=where,
        hint=OFFLINE_RETRY_HINT,
        code="hub.unreachable",
    )


def _make_no_config_error(where: str) -> ModelError:
    return ModelError(
        f"has no {HF_CONFIG_FILE}",
        where=where,
        hint="name a model that transformers can load",
        code="model.no_config",
    )


def _make_no_safetensors_error(where: str) -> ModelError:
    return ModelError(
        "has no safetensors, and pickles are not read",
        where=where,
        hint="name another",
        code="model.no_safetensors",
    )


def _make_bad_safetensors_error(where: str) -> ModelError:
    return ModelError(
        "its safetensors cannot be read",
        where=where,
        hint="name another revision",
        code="model.damaged_checkpoint",
    )


def _get_modelscope_dir(repo_id: str, revision: str | None) -> Path:
    """The folder of a model's files in ModelScope's cache, whether they are there or not."""
    name, snapshot = _strip_modelscope_prefix(repo_id), revision or MODELSCOPE_DEFAULT_REVISION
    if not (MODELSCOPE_NAME_RE.fullmatch(name) and is_safe_file_name(snapshot)):
        raise _make_bad_modelscope_name_error(repo_id, revision)
    try:
        from modelscope_hub import get_default_config
    except ImportError as error:
        raise MissingExtra("modelscope-hub", "modelscope") from error
    folder = get_default_config().cache_dir / "models" / name.replace("/", "--")
    return folder / "snapshots" / snapshot


def _download_modelscope_files(
    repo_id: str, revision: str | None, patterns: list[str], *, with_weights: bool = False
) -> Path:
    """Download a model's files of these patterns, their hashes checked; return their folder."""
    folder = _get_modelscope_dir(repo_id, revision)
    with _open_modelscope_api(repo_id, revision) as api:
        file_infos = [
            info
            for info in _list_modelscope_files(api, repo_id, revision)
            if any(fnmatch(info.path, pattern) for pattern in patterns)
        ]
        if with_weights:
            missing = (info.size for info in file_infos if not (folder / info.path).is_file())
            _check_download_size(repo_id, sum(missing), folder, "MODELSCOPE_CACHE")
        show_progress = with_weights and sys.stderr.isatty()
        with nullcontext() if show_progress else redirect_stderr(io.StringIO()):
            for info in file_infos:
                api.download_file(
                    _strip_modelscope_prefix(repo_id),
                    MODELSCOPE_REPO_TYPE,
                    info.path,
                    revision=revision or MODELSCOPE_DEFAULT_REVISION,
                    local_dir=folder,
                    expected_sha256=info.sha256,
                    file_size=info.size,
                )
    return folder


def _fetch_modelscope_tensor_index(repo_id: str, revision: str | None) -> TensorIndex:
    with _open_modelscope_api(repo_id, revision) as api:
        tensor_index = {
            info.path: _read_modelscope_header(api, repo_id, revision, info)
            for info in _list_modelscope_files(api, repo_id, revision)
            if fnmatch(info.path, MODELSCOPE_WEIGHTS_GLOB)
        }
    if not tensor_index:
        raise _make_no_safetensors_error(_format_model_name(repo_id, revision))
    return tensor_index


def _read_modelscope_header(
    api: "HubApi", repo_id: str, revision: str | None, info: "FileInfo"
) -> TensorHeader:
    def read_bytes(begin: int, end: int) -> bytes:
        response = api.legacy.download_stream(
            _strip_modelscope_prefix(repo_id),
            MODELSCOPE_REPO_TYPE,
            info.path,
            revision or MODELSCOPE_DEFAULT_REVISION,
            headers={"Range": f"bytes={begin}-{end - 1}"},
        )
        with response:
            ignores_range = response.status_code == 200
            data: bytes = response.raw.read(end if ignores_range else end - begin)
        return data[begin:] if ignores_range else data

    try:
        return parse_tensor_header(read_bytes, info.size or None)
    except ValueError as error:
        raise _make_bad_safetensors_error(_format_model_name(repo_id, revision)) from error


def _list_modelscope_files(
    api: "HubApi", repo_id: str, revision: str | None
) -> "Iterator[FileInfo]":
    """The files at the top of a model; others, and names that lead elsewhere, are left out."""
    for info in api.list_repo_files(
        _strip_modelscope_prefix(repo_id),
        MODELSCOPE_REPO_TYPE,
        revision=revision or MODELSCOPE_DEFAULT_REVISION,
    ):
        if is_safe_file_name(info.path):
            yield info


@contextmanager
def _open_modelscope_api(repo_id: str, revision: str | None) -> "Iterator[HubApi]":
    """Open ModelScope; raise one line, without addresses or tokens, where it refuses."""
    _get_modelscope_dir(repo_id, revision)  # raises where the library is missing or the name bad
    from modelscope_hub import HubApi, errors

    logging.getLogger("modelscope_hub").setLevel(logging.CRITICAL)  # the errors below say it
    where = _format_model_name(repo_id, revision)
    try:
        yield HubApi()
    except errors.NotExistError as error:
        raise HubError(
            "is not on ModelScope, has no such revision, or is private",
            where=where,
            hint=f"see {MODELSCOPE_URL}/models/{_strip_modelscope_prefix(repo_id)}",
            code="hub.not_found",
        ) from error
    except (errors.AuthenticationError, errors.PermissionDeniedError) as error:
        raise HubError(
            "may be read only with an account that has access",
            where=where,
            hint="set MODELSCOPE_API_TOKEN",
            code="hub.unauthorized",
        ) from error
    except errors.InvalidParameter as error:
        raise _make_bad_modelscope_name_error(repo_id, revision) from error
    except (errors.HubError, OSError, ValueError) as error:
        raise HubError(
            f"cannot be fetched from ModelScope ({type(error).__name__})",
            where=where,
            hint=OFFLINE_RETRY_HINT,
            code="hub.unreachable",
        ) from error


def _make_bad_modelscope_name_error(repo_id: str, revision: str | None) -> HubError:
    return HubError(
        "is not a name of ModelScope",
        where=_format_model_name(repo_id, revision),
        hint="write ms:org/name, or ms:org/name@revision",
        code="hub.bad_name",
    )


def _strip_modelscope_prefix(repo_id: str) -> str:
    return repo_id.removeprefix(MODELSCOPE_PREFIX)

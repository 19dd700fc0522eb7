"""What the hub is asked for a base, and one line for each way in which it does not give it.

    cache/models--org--name/  refs/main          the commit that was found first
                              snapshots/<sha>/   its config.json and README.md, later its weights

A name without a revision means the commit that lies in the cache: a document keeps the base it
began with, and needs no network. A name that begins with ms: is one of ModelScope's, which is asked
in plan/scope.py.
"""

import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib.resources import files
from pathlib import Path

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
from huggingface_hub.errors import HTTPError as ConnectionFault  # type: ignore[attr-defined]
from huggingface_hub.utils.tqdm import disable_progress_bars

from dlm.errors import BaseError, DlmError
from dlm.files import disk_full
from dlm.plan.scope import (
    SCOPE,
    fetch_from_scope,
    file_in_scope,
    in_scope,
    missing_in_scope,
    scope_folder,
    settle_scope,
    weights_in_scope,
)
from dlm.plan.weights import CONFIG, Weights, read_weights, weights_of

logger = logging.getLogger(__name__)

SCHEME = "hf:"
EMBEDDED = "embedded:"  # what lies in this package
CARD = "README.md"
WORDS = ["*.json", "*.txt", "*.jinja", "*.model", CARD]  # never code
ALL = ["model.safetensors", "model-*.safetensors", *WORDS]  # never pickles, nor other formats
PATIENCE_SECONDS = 10.0
SITE = "https://huggingface.co"  # where licences are accepted, wherever files are mirrored
LOGIN = "`hf auth login` with a token that may read it"
FAULTS = (
    *(ConnectionFault, OSError, ValueError),
    *(NotASafetensorsRepoError, SafetensorsParsingError),
)
REFUSALS: tuple[tuple[type[Exception], str, str], ...] = (
    (
        GatedRepoError,
        "needs its licence accepted",
        f"accept it at {SITE}/{{name}}, then `hf auth login`",
    ),
    (RevisionNotFoundError, "has no such revision", f"see {SITE}/{{name}}/commits/main"),
    (RepositoryNotFoundError, "is not on the hub, or is private", f"check the name, or {LOGIN}"),
    (HFValidationError, "is no name of the hub", "write hf:org/name, or hf:org/name@commit"),
    (RemoteEntryNotFoundError, f"has no {CONFIG}", "name a model that transformers can load"),
    (NotASafetensorsRepoError, "has no safetensors, and pickles are not read", "name another"),
    (SafetensorsParsingError, "its safetensors cannot be read", "name another revision"),
)


def place_of(source: str, revision: str | None) -> Path | None:
    """Where the weights that a `source` names lie on this machine, if they do."""
    if source.startswith(EMBEDDED):
        return Path(str(files("dlm.model"))) / source.removeprefix(EMBEDDED)
    place = Path(source)
    return place if place.is_absolute() else snapshot(source, revision)


def settle(name: str, revision: str | None) -> Path:
    """The folder of the cache with a repository's config; it is named after the commit."""
    if name.startswith(SCOPE):
        return settle_scope(name, revision, CARD)
    known = _config_in_cache(name, revision)
    if known:
        return known
    with asking(name, revision), disable_progress_bars():
        HfApi().model_info(name, revision=revision, timeout=PATIENCE_SECONDS)  # it asks but once
        folder = Path(hf_hub_download(name, CONFIG, revision=revision)).parent
        with suppress(EntryNotFoundError):
            hf_hub_download(name, CARD, revision=folder.name)
    return folder


def file_on_hub(name: str, revision: str, file: str) -> Path:
    """One small file of a repository."""
    if name.startswith(SCOPE):
        return file_in_scope(name, revision, file)
    with asking(name), disable_progress_bars():
        return Path(hf_hub_download(name, file, revision=revision))


def file_if_any(name: str, revision: str, file: str) -> Path | None:
    """The same, or None where the repository has none."""
    if name.startswith(SCOPE):
        return file_in_scope(name, revision, file) if in_scope(name, revision, file) else None
    try:
        return file_on_hub(name, revision, file)
    except BaseError as error:
        if isinstance(error.__cause__, EntryNotFoundError) and snapshot(name, revision):
            return None
        if isinstance(error.__cause__, RemoteEntryNotFoundError):
            return None
        raise


def weights_on_hub(name: str, revision: str) -> Weights:
    """The tensors of a repository, of which only the heads of the files are fetched."""
    if name.startswith(SCOPE):
        return weights_in_scope(name, revision)
    with asking(name), disable_progress_bars():
        return weights_of(HfApi().get_safetensors_metadata(name, revision=revision))


def snapshot(name: str, revision: str | None) -> Path | None:
    """The folder of the cache with all of a base's weights, if it is there."""
    folder = _config_in_cache(name, revision)
    try:
        return folder if folder and read_weights(folder) else None
    except BaseError:
        return None


def fetch(name: str, revision: str | None) -> Path:
    """The folder of the cache with all of a base's files; how much is fetched is said first."""
    if name.startswith(SCOPE):
        _say_and_check(name, missing_in_scope(name, revision, ALL))
        return fetch_from_scope(name, revision, ALL)
    with asking(name):
        with disable_progress_bars():
            wanted = snapshot_download(name, revision=revision, allow_patterns=ALL, dry_run=True)
        size = sum(file.file_size or 0 for file in wanted if file.will_download)
        _say_and_check(name, size)
        with nullcontext() if sys.stderr.isatty() else disable_progress_bars():
            return Path(snapshot_download(name, revision=revision, allow_patterns=ALL))


def fetch_words(name: str, revision: str | None) -> Path:
    """The same without the weights: what its tokenizer needs."""
    if name.startswith(SCOPE):
        return fetch_from_scope(name, revision, WORDS)
    with asking(name), disable_progress_bars():
        return Path(snapshot_download(name, revision=revision, allow_patterns=WORDS))


@contextmanager
def asking(name: str, revision: str | None = None) -> Iterator[None]:
    """Raise one line, without addresses or tokens, where the hub does not give what it should."""
    where = f"{SCHEME}{name}@{revision}" if revision else f"{SCHEME}{name}"
    try:
        yield
    except FAULTS as reason:
        raise _refusal(name, where, reason) from reason


def _refusal(name: str, where: str, reason: Exception) -> DlmError:
    causes = (reason, reason.__cause__)
    for kind, what, mend in REFUSALS:
        if any(isinstance(each, kind) for each in causes):
            return BaseError(what, where=where, mend=mend.format(name=name))
    answers = [each for each in causes if isinstance(each, HfHubHTTPError)]
    mend = "run it again where there is a network (what came is kept), or use base_model: sparrow"
    why = "there is no connection, or it broke off"
    if answers:
        status = answers[0].response.status_code
        why = f"the hub answers {status}"
        mend = LOGIN if status in (401, 403) else "try again later"
    elif any(isinstance(each, OfflineModeIsEnabled) for each in causes):
        why, mend = "HF_HUB_OFFLINE is set", f"`hf download {name}` where there is a network"
    what = f"is not in {constants.HF_HUB_CACHE} and cannot be fetched: {why}"
    return disk_full(reason, _cache()) or BaseError(what, where=where, mend=mend)


def _config_in_cache(name: str, revision: str | None) -> Path | None:
    if name.startswith(SCOPE):
        folder = scope_folder(name, revision)
        return folder if (folder / CONFIG).is_file() else None
    with asking(name, revision):
        known = try_to_load_from_cache(name, CONFIG, revision=revision)
    return Path(known).parent if isinstance(known, str) else None


def _say_and_check(name: str, size: int) -> None:
    """Say what is fetched, and refuse to begin what the disk cannot hold."""
    folder = next(each for each in (_cache(), *_cache().parents) if each.exists())
    free = shutil.disk_usage(folder).free
    if size > free:
        what = f"takes {told(size)} and {told(free)} are free"
        mend = "free some, or set HF_HOME to a folder on a larger disk"
        raise BaseError(what, where=name, mend=mend)
    if size:
        logger.info("fetching %s (%s)", name, told(size))


def _cache() -> Path:
    return Path(constants.HF_HUB_CACHE).absolute()


def told(size: int) -> str:
    """Bytes in the unit that suits them."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"

"""check: what can be known of a document before it is learned, and what a model hears in it."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dlm.errors import ClipError, UsageError
from dlm.verbs.ask import Opened
from dlm.verbs.overrides import Overrides
from dlm.verbs.say import Bare, Device, DocumentPath, Progress, Say, VersionName, within

if TYPE_CHECKING:
    from dlm.batches.show import ShownRow
    from dlm.clips.clip import Clip
    from dlm.use.dictation import Dictation
    from dlm.verbs.prepare import Prepared

LISTENED_CLIPS = 200  # a few minutes for a small base without an accelerator


def check(
    path: DocumentPath,
    *,
    show_labels: Annotated[bool, Say("Decode one clip's row: what of it is learned.")] = False,
    full: Annotated[bool, Say("Decode every sound, also where there are thousands.")] = False,
    listen: Annotated[
        bool, Say("Let the version in use, or else the base, transcribe clips: finds wrong texts.")
    ] = False,
    clips: Annotated[
        int | None, Say(f"Listen to so many clips; {LISTENED_CLIPS} when not said.")
    ] = None,
    version: VersionName = None,
    bare: Bare = False,
    device: Device = None,
    page: Annotated[
        Path | None, Say("Write all of it as a page with players.", value="FILE.html")
    ] = None,
    overrides: Overrides = None,
    progress: Progress | None = None,
) -> "Prepared":
    """Find every problem that can be known before training."""
    from dlm.verbs.prepare import prepare

    _sensible(listen=listen, clips=clips, model=bool(version or bare or device))
    _writable(page)
    listener = _listener(path, version, bare=bare, device=device) if listen else None
    checked = prepare(path, overrides=overrides, progress=progress, full=full)
    if show_labels:
        checked = replace(checked, row=_shown(checked))
    if listener is not None:
        heard = _dictation(checked, listener, clips or LISTENED_CLIPS, progress)
        problems = (*checked.problems, *heard.problems())
        checked = replace(checked, dictation=heard, problems=problems)
    return _with_page(checked, page) if page is not None else checked


def _sensible(*, listen: bool, clips: int | None, model: bool) -> None:
    """Refuse options that only mean something beside --listen."""
    within("--clips", clips, least=1)
    if not listen and (model or clips is not None):
        what = "--clips, --version, --base and --device are about what --listen hears"
        raise UsageError(what, mend="add --listen")


def _writable(page: Path | None) -> None:
    """Refuse a page that could not be written, or would overwrite something else."""
    if page is None:
        return
    from dlm.use.audit_page import require_extra

    require_extra()
    if page.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--page {page} is no .html file", mend="name one, such as clips.html")


def _shown(checked: "Prepared") -> "ShownRow | None":
    """The first row with sound as it is learned, through the base's tokenizer alone."""
    from dlm.batches.forms import chat_of
    from dlm.batches.show import show_row
    from dlm.model.load import tokenizer_of

    bad = {problem.where for problem in checked.fatal}
    fine = [clip for clip in checked.learn if clip.place not in bad]
    clip = next((clip for clip in fine if clip.sounds), fine[0] if fine else None)
    if clip is None:
        return None
    base, taken_in = checked.base, checked.document.settings.training.audio
    chat = chat_of(tokenizer_of(base), base)
    return show_row(clip, chat, base.strides, taken_in.most_windows)


def _listener(path: Path, name: str | None, *, bare: bool, device: str | None) -> Opened:
    """The version that is named or in use; else the base alone, which needs no training."""
    from dlm.plan.hardware import device_of, survey
    from dlm.store.layout import home
    from dlm.store.versions import open_store
    from dlm.verbs.prepare import learned, opened

    if bare and name:
        raise UsageError("--base and --version exclude each other", mend="give one of them")
    chosen = device_of(device, survey(home()))
    document, base = opened(path)
    if not bare and (name or open_store(document.settings.dlm_id).current()):
        document, base, kept = learned(path, name)
        return Opened(document, base, kept.path, chosen)
    return Opened(document, base, None, chosen)


def _dictation(
    checked: "Prepared", listener: Opened, most: int, progress: Progress | None
) -> "Dictation":
    """What a model hears in clips that say what is said, `most` of them."""
    clips = _to_hear(checked)
    if not clips:
        mend = "mend what is wrong with them, or add clips with a transcript"
        where = str(checked.document.path)
        raise ClipError("no clip to listen to", where=where, mend=mend)

    from dlm.use.dictation import dictate
    from dlm.use.ready import ready

    drawn = sorted(random.Random(0).sample(range(len(clips)), min(most, len(clips))))
    base, version = listener.base, listener.version
    model = f"{version.name} of {base.key}" if version else f"{base.key} as it was released"
    asked = checked.document.settings.training
    using = ready(base, version, device=listener.device, asked=asked)
    chosen = [clips[at] for at in drawn]
    return dictate(using, chosen, model=model, of=len(clips), progress=progress)


def _to_hear(checked: "Prepared") -> "Sequence[Clip]":
    """Clips with a transcript whose sounds can be heard."""
    bad = {problem.where for problem in checked.fatal}
    both = (*checked.learn, *checked.held_out)
    return [
        clip
        for clip in both
        if clip.task == "transcribe"
        and clip.place not in bad
        and not checked.audit.unusable.intersection(clip.sounds)
    ]


def _with_page(checked: "Prepared", page: Path) -> "Prepared":
    from dlm.store.versions import now
    from dlm.use.audit_page import About, write_page

    about = About(checked.document.path.name, checked.base.key, now()[:16].replace("T", " "))
    told, heard = checked.problems, checked.dictation
    write_page(page, about, checked.audit, problems=told, dictation=heard)
    return replace(checked, page=page)

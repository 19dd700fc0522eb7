"""gc: letting go of what the store keeps and nobody needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dlm.errors import ClipError
from dlm.verbs.say import DocumentPath, Progress, Say

if TYPE_CHECKING:
    from dlm.clips.clip import Sound
    from dlm.document.document import Document
    from dlm.store.garbage import Unneeded


@dataclass(frozen=True)
class Tidied:
    """What nobody needs, and whether it is gone."""

    document: Path
    unneeded: "tuple[Unneeded, ...]"
    removed: bool


def gc(
    path: DocumentPath,
    *,
    dry_run: Annotated[bool, Say("Only tell what would be removed.")] = False,
    progress: Progress | None = None,
) -> Tidied:
    """Remove what is kept of clips that were taken out.

    What a version learned from stays.
    """
    from dlm.document.override import overridden
    from dlm.document.parse import read
    from dlm.store.garbage import find_unneeded, remove
    from dlm.store.versions import open_store

    document = overridden(read(path), {"training.allow_test_split": True})  # nothing is learned
    store = open_store(document.settings.dlm_id)
    used = store.current()
    sounds = _named(document)
    if used and used.overrides:
        sounds += _named(overridden(document, used.overrides))
    named = _hashed(sounds, progress)
    if dry_run:
        return Tidied(path, find_unneeded(store, named), removed=False)
    with store.lock():
        found = find_unneeded(store, named)
        remove(store, found)
    return Tidied(path, found, removed=True)


def _named(document: "Document") -> "list[Sound]":
    """A sound of every recording that the document names. Raises ClipError if some are away."""
    from dlm.clips.sources import gather
    from dlm.clips.unusable import sift

    gathered, name = gather(document), document.path.name
    sifted = sift(document.settings.training, gathered, gathered.problems, where=name)
    first = next((problem for problem in sifted.problems if problem.fatal), None)
    if first:
        raise ClipError(first.what, where=first.where, mend=first.mend)
    sounds = (sound for clip in gathered.clips for sound in clip.sounds)
    return list({sound.recording: sound for sound in sounds}.values())


def _hashed(sounds: "Sequence[Sound]", progress: Progress | None) -> set[str]:
    """The sha256 of the recordings: of one that is away, its copy could not be told from others."""
    from dlm.clips.audio import digest

    hashes = set()
    for done, sound in enumerate(sounds, start=1):
        try:
            hashes.add(digest(sound))
        except ClipError as error:
            mend = "put it back, or take it out of the document: what is kept of it cannot be told"
            raise ClipError(error.what, where=sound.name, mend=mend) from error
        if progress is not None:
            progress(done, len(sounds))
    return hashes

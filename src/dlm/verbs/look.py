"""insight: a page that shows whether a version listens."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dlm.verbs.ask import Opened, require_sound
from dlm.verbs.say import Device, DocumentPath, Progress, Say, VersionName, within

if TYPE_CHECKING:
    from dlm.clips.clip import Clip
    from dlm.document.document import Document
    from dlm.plan.bases import Base
    from dlm.store.facts import Version
    from dlm.use.insight_run import Curves

UNHELD_CLIPS = 32  # that it learned from, where none are held out


@dataclass(frozen=True)
class Looked:
    """The page and its pictures, and what was measured for them."""

    page: Path
    pictures: tuple[Path, ...]
    version: str
    clips: int
    held_out: bool
    scores: dict[str, float]


def insight(
    path: DocumentPath,
    *,
    into: Annotated[
        Path | None, Say("A folder for it; one beside the document when not said.")
    ] = None,
    clips: Annotated[int, Say("Look closely at so many clips.")] = 8,
    version: VersionName = None,
    device: Device = None,
    progress: Progress | None = None,
) -> Looked:
    """Show on one page whether it listens: curves, scores, alignment, attention, worst clips."""
    from dlm.plan.hardware import device_of, survey
    from dlm.store.layout import home
    from dlm.use.insight_page import About, make_room, require_extra, write_page
    from dlm.verbs.prepare import learned

    within("--clips", clips, least=1)
    require_extra()
    chosen = device_of(device, survey(home()))
    document, base, kept = learned(path, version)
    opened = Opened(document, base, kept.path, chosen)
    tried, held_out = _tried(document, base)
    require_sound([sound for clip in tried for sound in clip.sounds], opened)
    folder = (into or path.with_name(f"{path.stem}-insight-{kept.name}")).absolute()
    make_room(folder)

    from dlm.store.versions import now
    from dlm.use.insight import measure
    from dlm.use.ready import ready

    using = ready(base, kept.path, device=chosen, asked=opened.asked, once=True)
    found = measure(using, tried, count=clips, progress=progress)
    about = About(
        document=path.name,
        base=base.key,
        version=kept.name,
        made_at=now()[:16].replace("T", " "),
        steps=kept.steps,
        whose="held out" if held_out else "it learned from",
    )
    page, *drawn = write_page(about, _told(document, kept), found, folder)
    return Looked(page, tuple(drawn), kept.name, len(tried), held_out, found.report.scores)


def _tried(document: "Document", base: "Base") -> "tuple[list[Clip], bool]":
    """The clips to try it on, and whether they were held out."""
    from dlm.clips.sources import gather
    from dlm.clips.split import sides
    from dlm.verbs.prepare import usable

    gathered, asked = gather(document), document.settings.training
    learn, held_out = sides(gathered, asked)
    tried = held_out or learn[: asked.train_count][:UNHELD_CLIPS]
    return list(usable(document, base, gathered, tried)), bool(held_out)


def _told(document: "Document", version: "Version") -> "Curves":
    """What the run of a version said; nothing where its log is gone."""
    from dlm.store.record import read_log, runs
    from dlm.store.versions import open_store
    from dlm.use.insight_run import curves

    left = runs(open_store(document.settings.dlm_id))
    run = next((each for each in left if each.id == version.run), None)
    return curves(read_log(run) if run else ())

"""tones, shards: recordings that dlm makes itself, and features handed on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dlm.errors import StoreError, TrainingError
from dlm.verbs.overrides import Overrides
from dlm.verbs.say import Device, DocumentPath, Progress, Say, within

if TYPE_CHECKING:
    from dlm.use.shards import Shards

NewFolder = Annotated[Path, Say("An empty folder, or one to make.", value="FOLDER")]


def tones(
    folder: NewFolder,
    *,
    count: Annotated[int, Say("How many recordings.")] = 100,
    seed: Annotated[int, Say("Where every random choice starts.")] = 0,
) -> Path:
    """Make recordings of five tones, each with its words beside it."""
    from dlm.clips.tones import write_tones
    from dlm.store.folders import replace_folder

    within("--count", count, least=1)
    within("--seed", seed, least=0)
    insist_on_room(folder)
    replace_folder(folder, lambda new: write_tones(new, count=count, seed=seed))
    return folder


def shards(
    path: DocumentPath,
    folder: NewFolder,
    *,
    samples: Annotated[int, Say("Clips in a shard of webdataset, at the most.")] = 10_000,
    megabytes: Annotated[int, Say("Megabytes in a shard, at the most.")] = 1_000,
    device: Device = None,
    overrides: Overrides = None,
    progress: Progress | None = None,
) -> "Shards":
    """Write what the frozen encoder hears of every clip, as shards."""
    from dlm.features.ear import Ear
    from dlm.plan.plan import Wishes
    from dlm.store.folders import replace_folder
    from dlm.store.versions import open_store
    from dlm.use.shards import Limits, hearing, write_shards
    from dlm.verbs.prepare import prepare

    within("--samples", samples, least=1)
    within("--megabytes", megabytes, least=1)
    insist_on_room(folder)
    checked = prepare(path, wishes=Wishes(device=device), overrides=overrides)
    plan, base = checked.insist(), checked.base
    if plan.batches.changes:
        mend = "write what is heard of them as they are: --set training.audio.augment.share=0"
        what = "training.audio.augment changes its clips in every pass: no features stay"
        raise TrainingError(what, where=str(path), mend=mend)
    if not plan.batches.heard:
        mend = "set training.freeze_encoder: true, or another training.adapter"
        raise TrainingError("its encoder learns: no features stay", where=str(path), mend=mend)

    ear = Ear(
        base,
        auto_resample=plan.batches.auto_resample,
        most_windows=plan.batches.most_windows,
        hear=hearing(plan.model),
        folder=open_store(checked.document.settings.dlm_id).layout.features,
    )
    written: list[Shards] = []
    parts = {"learn": checked.learn, "held-out": checked.held_out}
    limits = Limits(samples, megabytes * 1_000_000)
    replace_folder(
        folder,
        lambda new: written.append(
            write_shards(new, parts, base, ear=ear, limits=limits, progress=progress)
        ),
    )
    return written[0]


def insist_on_room(folder: Path) -> None:
    """Refuse a folder that holds something."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise StoreError("not empty", where=str(folder), mend="name an empty folder")

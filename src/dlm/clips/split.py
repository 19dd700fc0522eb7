"""Which clips are learned from and which are kept to be tested on.

A recording draws its lot from what its clips say, their file's name and the seed, so adding,
moving or re-encoding other clips leaves it on its side. All clips of one recording stay together,
and so do recordings that meet in one clip: nothing tested on has been heard in training.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from dlm.clips.clip import Clip

ENOUGH_CLIPS = 10  # from here on a share above zero keeps at least one recording
LOTS = 1 << 64

Clips = tuple[Clip, ...]


def split(clips: Sequence[Clip], held_out: float | int, *, seed: int) -> tuple[Clips, Clips]:
    """Part `clips` into (learn, held), each in the order given. Text clips always learn.

    A whole number keeps as many clips, as near as whole recordings come to it; a share keeps about
    as much. At least one recording is left to learn from.
    """
    groups = sorted(_recordings(clips), key=lambda group: _lot(group, seed))
    kept = _count(groups, int(held_out)) if held_out >= 1 else _share(groups, held_out, seed)
    held = {id(clip) for group in kept for clip in group}
    learn = tuple(clip for clip in clips if id(clip) not in held)
    return learn, tuple(clip for clip in clips if id(clip) in held)


def _count(groups: list[list[Clip]], wanted: int) -> list[list[Clip]]:
    """The first groups that make up `wanted` clips; one too large for the rest is passed over."""
    kept: list[list[Clip]] = []
    for group in groups:
        if len(group) <= wanted and len(kept) < len(groups) - 1:
            kept.append(group)
            wanted -= len(group)
    return kept or sorted(groups[: len(groups) - 1], key=len)[:1]


def _share(groups: list[list[Clip]], share: float, seed: int) -> list[list[Clip]]:
    """The groups whose lot falls below `share`: each on its own, whatever the others are."""
    kept = [group for group in groups if _lot(group, seed)[0] < share * LOTS]
    if not kept and share > 0 and sum(map(len, groups)) >= ENOUGH_CLIPS:
        kept = groups[:1]
    return kept[: len(groups) - 1]


def _recordings(clips: Sequence[Clip]) -> list[list[Clip]]:
    """Clips with sound, those that share a recording together."""
    leader: dict[Path, Path] = {}

    def lead(path: Path) -> Path:
        while leader.setdefault(path, path) != path:
            path = leader[path]
        return path

    heard = [clip for clip in clips if clip.sounds]
    for clip in heard:
        first, *rest = (sound.path for sound in clip.sounds)
        for path in rest:
            leader[lead(path)] = lead(first)
    groups: dict[Path, list[Clip]] = {}
    for clip in heard:
        groups.setdefault(lead(clip.sounds[0].path), []).append(clip)
    return list(groups.values())


def _lot(group: list[Clip], seed: int) -> tuple[int, str]:
    """Where a group stands in the draw: by its transcripts, so that a new question moves nothing.

    The second part orders equal lots, those of files with one name and one transcript.
    """
    spoken = [clip for clip in group if clip.task == "transcribe"] or group
    return min((_draw(clip, seed), str(clip.sounds[0].path)) for clip in spoken)


def _draw(clip: Clip, seed: int) -> int:
    sounds = [(sound.path.name, sound.start, sound.end) for sound in clip.sounds]
    content = json.dumps(
        [seed, sounds, [turn.text for turn in clip.turns if turn.role != "system"]]
    )
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big")

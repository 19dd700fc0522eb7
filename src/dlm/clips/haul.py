"""What one source has given so far, what was left out of it, and what its author should know."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dlm.clips.captions import MEND
from dlm.clips.clip import Clip, Problem
from dlm.clips.rows import FORM, LISTS, TABLE

NAMES_SHOWN = 5


@dataclass(frozen=True)
class SourceReport:
    """What a source gave and what was left out, with the first few names of each."""

    path: str
    audio_count: int = 0
    audio_bytes: int = 0
    skipped_audio_no_transcript: int = 0
    skipped_rows_no_audio: int = 0
    skipped_not_audio: int = 0
    skipped_excluded: int = 0
    skipped_over_max_files: int = 0
    audio_names: tuple[str, ...] = ()
    skipped_names: tuple[str, ...] = ()  # of audio without a transcript, or rows without audio


@dataclass
class Haul:
    """What one source has given so far; names are as the author would write them."""

    clips: list[Clip] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    sizes: dict[Path, int] = field(default_factory=dict)  # of recordings, in bytes
    untold: list[str] = field(default_factory=list)  # audio without a transcript
    absent: list[str] = field(default_factory=list)  # rows of a table without audio
    foreign: list[str] = field(default_factory=list)  # audio in a format that is not read
    not_audio: int = 0
    excluded: int = 0
    over: int = 0

    def report(self, path: str) -> SourceReport:
        """The counts of the source `path`."""
        return SourceReport(
            path,
            audio_count=len(self.clips),
            audio_bytes=sum(self.sizes.values()),
            skipped_audio_no_transcript=len(self.untold),
            skipped_rows_no_audio=len(self.absent),
            skipped_not_audio=self.not_audio,
            skipped_excluded=self.excluded,
            skipped_over_max_files=self.over,
            audio_names=tuple(clip.sounds[0].name for clip in self.clips[:NAMES_SHOWN]),
            skipped_names=tuple((self.untold + self.absent)[:NAMES_SHOWN]),
        )

    def weigh(self, file: Path) -> None:
        """Count a recording's bytes, once; one that is not there is told when it is heard."""
        if file not in self.sizes:
            try:
                self.sizes[file] = file.stat().st_size
            except OSError:
                self.sizes[file] = 0

    def remarks(self, path: str, place: str) -> Iterator[Problem]:
        """What the author of the source `path` should know, though training goes on."""
        if self.untold:
            what = f"{len(self.untold)} without a transcript, skipped: {_some(self.untold)}"
            mend = f"write {Path(self.untold[0]).with_suffix('.txt').as_posix()}"
            yield Problem(place, what, mend, fatal=False)
        if self.absent:
            what = f"{len(self.absent)} without a recording, skipped: {_some(self.absent)}"
            yield Problem(place, what, MEND, fatal=False)
        if self.foreign:
            first = self.foreign[0]
            what = f"{len(self.foreign)} in a format that is not read: {_some(self.foreign)}"
            mend = f"convert: `ffmpeg -i {first} {Path(first).with_suffix('.wav').as_posix()}`"
            yield Problem(place, what, mend, fatal=False)
        if not self.clips and not self.problems:
            mend = "put recordings there, each with its transcript in a .txt of the same name"
            suffix = Path(path).suffix.lower()
            if suffix in LISTS:
                mend = TABLE if suffix == ".csv" else FORM
            yield Problem(place, f"no clips in {path}", mend, fatal=False)


def _some(names: list[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")

"""What one source has given so far, what was left out of it, and what its author should know."""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dlm.clips.clip import Clip, Problem
from dlm.clips.ffmpeg import INSTALL, installed
from dlm.clips.formats.rows import FORM, LISTS, TABLES, suffix_of
from dlm.clips.origin import Skipped, Why
from dlm.clips.walk import FOREIGN_SUFFIXES

NAMES_SHOWN = 5
HEAD = "name its columns in the first line, or say which they are with columns: {text: ...}"
BESIDE = "put it beside the list, or say where the recordings are with audio:"


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
    skipped_other_split: int = 0
    audio_names: tuple[str, ...] = ()
    skipped_names: tuple[str, ...] = ()  # of audio without a transcript, or rows without audio
    test_of: tuple[str, ...] = ()  # the benchmarks whose test splits its clips are
    held_out: bool = False  # all of it is kept for testing


@dataclass
class Haul:
    """What one source has given so far; names are as the author would write them."""

    clips: list[Clip] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    broken: list[Problem] = field(default_factory=list)  # those of single rows, among the problems
    tests: list[str] = field(default_factory=list)  # benchmarks whose test splits its clips are
    audio_bytes: int = 0
    weighed: set[int] = field(default_factory=set)  # hashes of the recordings' paths
    skipped: Counter[Why] = field(default_factory=Counter)
    names: dict[Why, list[str]] = field(default_factory=dict)  # the first few of each
    over: int = 0

    def report(self, path: str) -> SourceReport:
        """The counts of the source `path`."""
        untold = [*self.names.get("no transcript", ()), *self.names.get("no recording", ())]
        return SourceReport(
            path,
            audio_count=len(self.clips),
            audio_bytes=self.audio_bytes,
            skipped_audio_no_transcript=self.skipped["no transcript"],
            skipped_rows_no_audio=self.skipped["no recording"],
            skipped_not_audio=self.skipped["not audio"] + self.skipped["not read"],
            skipped_excluded=self.skipped["excluded"],
            skipped_over_max_files=self.over,
            skipped_other_split=self.skipped["other split"],
            audio_names=tuple(clip.sounds[0].name for clip in self.clips[:NAMES_SHOWN]),
            skipped_names=tuple(untold[:NAMES_SHOWN]),
            test_of=tuple(dict.fromkeys(self.tests)),
        )

    def complain(self, problem: Problem) -> None:
        """Note what is wrong with one row."""
        self.problems.append(problem)
        if problem.fatal:
            self.broken.append(problem)

    def skip(self, passed: Skipped) -> None:
        """Count what is passed over, and remember the first few of its kind."""
        self.skipped[passed.why] += 1
        names = self.names.setdefault(passed.why, [])
        if len(names) < NAMES_SHOWN:
            names.append(passed.name)

    def weigh(self, file: Path) -> None:
        """Count a recording's bytes, once; one that is not there is told when it is heard."""
        name = hash(str(file))
        if name not in self.weighed:
            self.weighed.add(name)
            with suppress(OSError):
                self.audio_bytes += file.stat().st_size

    def remarks(self, path: str, place: str) -> Iterator[Problem]:
        """What the author of the source `path` should know, though training goes on."""
        untold, foreign = (self.names.get(why, ["x"])[0] for why in ("no transcript", "not read"))
        lacks = Path(foreign).suffix.lower() in FOREIGN_SUFFIXES and not installed()
        txt = Path(untold).with_suffix(".txt")
        mends: dict[Why, tuple[str, str]] = {
            "no transcript": (
                "without a transcript, skipped",
                f"write {txt.as_posix()}",
            ),
            "no recording": ("without a recording, skipped", BESIDE),
            "not read": (
                "in a format that is not read",
                f"install ffmpeg, which reads it: {INSTALL}" if lacks else "save it as wav or flac",
            ),
        }
        for why, (told, mend) in mends.items():
            if count := self.skipped[why]:
                what = f"{count} {told}: {_some(self.names[why], count)}"
                yield Problem(place, what, mend, fatal=False)
        if not self.clips and not self.problems:
            mend = "put recordings there, each with its transcript in a .txt of the same name"
            suffix = suffix_of(Path(path))
            if suffix in (*LISTS, *TABLES):
                mend = HEAD if suffix in TABLES else FORM
            yield Problem(place, f"no clips in {path}", mend, fatal=False)


def _some(names: list[str], count: int) -> str:
    more = count - len(names)
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")

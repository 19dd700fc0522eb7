"""What is odd about clips beside each other: copies, one text for many, a pace unlike the rest.

Clips are told apart by hashes and numbers in columns, so a comparison takes a few bytes a clip.
"""

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from unicodedata import category, normalize

import numpy as np
from numpy.typing import NDArray

from dlm.data.audio_file import Waveform
from dlm.data.audio_scan import ENVELOPE_STEPS_PER_DB, NUM_ENVELOPE_BINS, AudioScan
from dlm.data.quality_checks import (
    MAX_WORDS_PER_SECOND,
    MIN_RATE_CHECK_SECONDS,
    MIN_WORDS_PER_SECOND,
    UNSPACED_SCRIPT_RE,
)
from dlm.data.types import Example, Issue

MIN_SENTENCE_WORDS = 5  # shorter ones are said again and again by right
MIN_SAME_TEXT_RECORDINGS = 3  # recordings; two may be two takes of a sentence
MAX_REPORTED_TRANSCRIPTS = 20  # of transcripts that many recordings share; the rest is counted
MIN_RATE_EXAMPLES = 30  # fewer do not tell what is usual
MAX_RATE_DEVIATIONS = 4.0  # deviations from the median: one clip in 16,000, were all of them alike
MAD_TO_STD = 1.4826  # of a normal curve, where the median distance is 1
MIN_LOG_RATE_SPREAD = 0.1  # of the logarithm of a pace: no reader is steadier than a tenth
MIN_NEAR_COPY_SECONDS, MAX_LENGTH_DIFF_SECONDS = (
    1.0,
    0.1,
)  # of a near copy: how long at least, how much codecs add
MAX_NEAR_COPY_DB = (1.0, 3.0)  # on average, of level and of brightness: what mp3 and rates change
MIN_LEVEL_STD_DB = 3.0  # decibels by which a sound must vary for its shape to tell anything
NEAR_COPY_NOISE_FLOOR_DB = 30.0  # below the loudest stretch: what lies lower is noise
MAX_NEAR_COPY_CANDIDATES = 2000  # sounds of one length that each is held against

IndexArray = NDArray[np.int64]


def find_duplicates(examples: Sequence[Example], scan: AudioScan) -> Iterator[Issue]:
    """Clips that ask the same of the same sound, wherever it lies and in whatever format."""
    contents: dict[int, str | int] = {at: facts.content_sha256 for at, facts in scan.stats.items()}
    keys = array("q")
    for at, clip in enumerate(examples):
        numbers = scan.get_segment_numbers(clip)
        asked = tuple(turn.text for turn in clip.messages[:-1])
        same = tuple(contents.get(number, number) for number in numbers or ())
        keys.append(hash((same, asked)) if same else hash((clip.location, at)))
    first_of = _find_first_indices(keys)
    for at in np.flatnonzero(first_of != np.arange(len(keys))).tolist():
        clip, first = examples[at], examples[first_of[at]]
        what, mend = f"it repeats {first.location}", "take one of them out"
        if first.target != clip.target:
            what = f"it is the same sound as {first.location} with another transcript"
            mend = "keep the one that is right"
        yield Issue(clip.location, what, mend, fatal=False)


def find_near_duplicates(examples: Sequence[Example], scan: AudioScan) -> Iterator[Issue]:
    """Sounds that rise and fall alike, such as a recording and its mp3, though no sample is equal.

    Only what was decoded has a shape.
    """
    varied = [
        number
        for number, facts in scan.stats.items()
        if facts.seconds >= MIN_NEAR_COPY_SECONDS
        and _decode_levels(facts.envelope)[0].std() >= MIN_LEVEL_STD_DB
    ]
    varied.sort(key=scan.get_seconds)
    seconds = np.array([scan.get_seconds(number) for number in varied])
    shapes = [_decode_levels(scan.stats[number].envelope) for number in varied]
    whole = np.array(shapes).reshape(len(varied), 2, NUM_ENVELOPE_BINS)
    place = _find_first_locations(examples, scan, set(varied))
    for at, number in enumerate(varied):
        end = min(
            int(np.searchsorted(seconds, seconds[at] + MAX_LENGTH_DIFF_SECONDS, "right")),
            at + MAX_NEAR_COPY_CANDIDATES,
        )
        for other in _find_similar_shapes(whole[at], whole[at + 1 : end]):
            later, first = sorted((number, varied[at + 1 + other]), reverse=True)
            if scan.stats[later].content_sha256 != scan.stats[first].content_sha256:
                what = f"it sounds all but the same as {place[first]}"
                yield Issue(place[later], what, "take one of them out if it is a copy", False)


def find_repeated_transcripts(examples: Sequence[Example]) -> Iterator[Issue]:
    """Transcripts that several recordings share: seldom what is said in each of them."""
    keys, at_clip = array("q"), array("q")
    for at, clip in enumerate(examples):
        text = (
            normalize_sentence(clip.target)
            if clip.task == "transcribe" and clip.audio_segments
            else ""
        )
        if len(text.split()) >= MIN_SENTENCE_WORDS:
            keys.append(hash(text))
            at_clip.append(at)
    many = []
    for group in _group_equal_keys(keys):
        sharing = [examples[at_clip[at]] for at in group]
        recordings = {sound.recording_key for clip in sharing for sound in clip.audio_segments}
        if len(recordings) >= MIN_SAME_TEXT_RECORDINGS:
            many.append((sharing[0], len(recordings)))
    mend = "check the transcripts against their sounds"
    for clip, count in many[:MAX_REPORTED_TRANSCRIPTS]:
        what = f"its transcript is that of {count:,} recordings"
        yield Issue(clip.location, what, mend, fatal=False)
    if rest := many[MAX_REPORTED_TRANSCRIPTS:]:
        what = f"and {len(rest):,} transcripts more, of {sum(count for _, count in rest):,}"
        yield Issue(rest[0][0].location, f"{what} recordings", mend, fatal=False)


def find_rate_outliers(examples: Sequence[Example], scan: AudioScan) -> Iterator[Issue]:
    """Clips much faster or slower than the others of their language, though neither is absurd."""
    paces: dict[tuple[str, bool], tuple[array[int], array[float]]] = {}
    for at, clip in enumerate(examples):
        seconds = scan.get_total_seconds(clip)
        if clip.task == "transcribe" and seconds > MIN_RATE_CHECK_SECONDS and clip.target.strip():
            unspaced = UNSPACED_SCRIPT_RE.search(clip.target) is not None
            said = len(clip.target) if unspaced else len(clip.target.split())
            if (
                unspaced or MIN_WORDS_PER_SECOND <= said / seconds <= MAX_WORDS_PER_SECOND
            ):  # the rest is told already
                key = ((clip.language or "").lower(), unspaced)
                ats, known = paces.setdefault(key, (array("q"), array("d")))
                ats.append(at)
                known.append(said / seconds)
    for (_, unspaced), (ats, known) in paces.items():
        yield from _report_rate_outliers(
            examples, ats, np.array(known), "letters" if unspaced else "words"
        )


def _report_rate_outliers(
    examples: Sequence[Example],
    indices: Sequence[int],
    words_per_second: NDArray[np.float64],
    unit: str,
) -> Iterator[Issue]:
    if len(words_per_second) < MIN_RATE_EXAMPLES:
        return
    usual = float(np.median(words_per_second))
    apart = abs(np.log(words_per_second / usual))  # twice as fast is as far as half as fast
    spread = max(MAD_TO_STD * float(np.median(apart)), MIN_LOG_RATE_SPREAD)
    for at in np.flatnonzero(apart > MAX_RATE_DEVIATIONS * spread).tolist():
        what = (
            f"{words_per_second[at]:.1f} {unit} per second, and the others have about {usual:.1f}"
        )
        mend = "check that transcript and sound belong together"
        yield Issue(examples[indices[at]].location, what, mend, fatal=False)


def normalize_sentence(text: str) -> str:
    """A sentence as it is compared: no case, no punctuation, single spaces."""
    folded = re.sub("['\u2019]", "", normalize("NFKC", text).casefold())
    if folded.isascii():
        return " ".join(re.findall("[a-z0-9]+", folded))
    kept = (each if category(each)[0] in "LMN" else " " for each in folded)
    return " ".join("".join(kept).split())


def _find_first_indices(keys: Sequence[int]) -> IndexArray:
    """For each key the place of the first that equals it."""
    _, first, inverse = np.unique(np.array(keys, np.int64), return_index=True, return_inverse=True)
    found: IndexArray = first[inverse].astype(np.int64)
    return found


def _group_equal_keys(keys: Sequence[int]) -> Iterator[list[int]]:
    """Places of equal keys, where there are enough of them, in the order of the first."""
    first_of = _find_first_indices(keys)
    order = np.argsort(first_of, kind="stable")
    ranked, counts = first_of[order], np.bincount(first_of, minlength=1)
    for first in np.flatnonzero(counts >= MIN_SAME_TEXT_RECORDINGS).tolist():
        start = int(np.searchsorted(ranked, first))
        yield order[start : start + counts[first]].tolist()


def _decode_levels(shape: bytes) -> Waveform:
    """Decibels below the loudest: (2, stretches), how it rises and falls and how bright it is."""
    steps = np.frombuffer(shape, np.uint8).reshape(2, NUM_ENVELOPE_BINS)
    levels: Waveform = np.divide(steps, ENVELOPE_STEPS_PER_DB, dtype=np.float32)
    return levels


def _find_similar_shapes(shape: Waveform, others: Waveform) -> list[int]:
    """Which of `others` (sounds, 2, stretches) are like `shape`, where there is something."""
    loud = shape[0] < NEAR_COPY_NOISE_FLOOR_DB
    apart = np.sqrt(np.square(others[:, :, loud] - shape[:, loud]).mean(axis=2))
    found: list[int] = np.flatnonzero((apart <= np.array(MAX_NEAR_COPY_DB)).all(axis=1)).tolist()
    return found


def _find_first_locations(
    examples: Iterable[Example], scan: AudioScan, segment_numbers: set[int]
) -> dict[int, str]:
    """Where each of these sounds is first named."""
    places: dict[int, str] = {}
    for clip in examples:
        for sound in clip.audio_segments:
            if (number := scan.segment_numbers[sound]) in segment_numbers:
                places.setdefault(number, clip.location)
    return places

"""Comparing examples: copies, near copies, transcripts of many recordings, unusual speaking rates.

Examples are compared by hashes and numbers in columns, a few bytes for each.
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

MIN_SENTENCE_WORDS = 5  # shorter ones are said often
MIN_SAME_TEXT_RECORDINGS = 3  # two may be two takes of a sentence
MAX_REPORTED_TRANSCRIPTS = 20  # shared transcripts that are named; the rest is counted
MIN_RATE_EXAMPLES = 30  # fewer do not show what is usual
MAX_RATE_DEVIATIONS = 4.0  # from the median: one example in 16,000 of a normal distribution
MAD_TO_STD = 1.4826  # of a normal distribution: its standard deviation over the median deviation
MIN_LOG_RATE_SPREAD = 0.1  # of log words per second: no speaker varies by less than a tenth
MIN_NEAR_COPY_SECONDS = 1.0
MAX_LENGTH_DIFF_SECONDS = 0.1  # between near copies: what codecs add
MAX_NEAR_COPY_DB = (1.0, 3.0)  # RMS difference of level and brightness: what mp3 and rates change
MIN_LEVEL_STD_DB = 3.0  # audio that varies less has no envelope to compare
NEAR_COPY_NOISE_FLOOR_DB = 30.0  # below the loudest bin; what lies lower is noise
MAX_NEAR_COPY_CANDIDATES = 2000  # segments of similar length that each is compared with


def find_duplicates(examples: Sequence[Example], scan: AudioScan) -> Iterator[Issue]:
    """Find examples with the same samples and the same question, in any file and format."""
    contents: dict[int, str | int] = {
        number: stats.content_sha256 for number, stats in scan.stats.items()
    }
    keys = array("q")
    for index, example in enumerate(examples):
        numbers = scan.get_segment_numbers(example)
        prompt = tuple(message.text for message in example.messages[:-1])
        content = tuple(contents.get(number, number) for number in numbers or ())
        keys.append(hash((content, prompt)) if content else hash((example.location, index)))
    first_indices = _find_first_indices(keys)
    for index in np.flatnonzero(first_indices != np.arange(len(keys))).tolist():
        example, first = examples[index], examples[first_indices[index]]
        what, hint = f"it repeats {first.location}", "take one of them out"
        is_same = first.target == example.target
        if not is_same:
            what = f"it is the same audio as {first.location} with another transcript"
            hint = "keep the one that is right"
        yield Issue(
            example.location,
            what,
            hint,
            fatal=False,
            code="data.duplicate" if is_same else "data.conflicting_transcripts",
        )


def find_near_duplicates(examples: Sequence[Example], scan: AudioScan) -> Iterator[Issue]:
    """Find decoded segments with nearly the same envelope, such as a recording and its mp3."""
    envelopes = {
        number: _decode_envelope(stats.envelope)
        for number, stats in scan.stats.items()
        if stats.seconds >= MIN_NEAR_COPY_SECONDS
    }
    numbers = [
        number for number, (levels, _) in envelopes.items() if levels.std() >= MIN_LEVEL_STD_DB
    ]
    numbers.sort(key=scan.get_seconds)
    seconds = np.array([scan.get_seconds(number) for number in numbers])
    stacked = np.array([envelopes[number] for number in numbers])
    stacked = stacked.reshape(len(numbers), 2, NUM_ENVELOPE_BINS)
    locations = _find_first_locations(examples, scan, set(numbers))
    for index, number in enumerate(numbers):
        max_seconds = seconds[index] + MAX_LENGTH_DIFF_SECONDS
        end = int(np.searchsorted(seconds, max_seconds, "right"))
        end = min(end, index + MAX_NEAR_COPY_CANDIDATES)
        for offset in _find_similar_envelopes(stacked[index], stacked[index + 1 : end]):
            later, first = sorted((number, numbers[index + 1 + offset]), reverse=True)
            if scan.stats[later].content_sha256 != scan.stats[first].content_sha256:
                what = f"it is almost the same audio as {locations[first]}"
                hint = "take one of them out if it is a copy"
                yield Issue(locations[later], what, hint, fatal=False, code="data.near_duplicate")


def find_repeated_transcripts(examples: Sequence[Example]) -> Iterator[Issue]:
    """Find transcripts that several recordings share: seldom what is said in each of them."""
    keys, indices = array("q"), array("q")
    for index, example in enumerate(examples):
        if example.task == "transcribe" and example.audio_segments:
            text = normalize_sentence(example.target)
            if len(text.split()) >= MIN_SENTENCE_WORDS:
                keys.append(hash(text))
                indices.append(index)
    shared: list[tuple[Example, int]] = []  # first example, number of recordings
    for group in _group_equal_keys(keys):
        sharing = [examples[indices[position]] for position in group]
        recordings = {
            segment.recording_key for example in sharing for segment in example.audio_segments
        }
        if len(recordings) >= MIN_SAME_TEXT_RECORDINGS:
            shared.append((sharing[0], len(recordings)))
    hint = "check the transcripts against their audio"
    for example, count in shared[:MAX_REPORTED_TRANSCRIPTS]:
        what = f"its transcript is that of {count:,} recordings"
        yield Issue(example.location, what, hint, fatal=False, code="data.repeated_transcript")
    if rest := shared[MAX_REPORTED_TRANSCRIPTS:]:
        num_recordings = sum(count for _, count in rest)
        what = f"and {len(rest):,} transcripts more, of {num_recordings:,} recordings"
        location = rest[0][0].location
        yield Issue(location, what, hint, fatal=False, code="data.repeated_transcript")


def find_rate_outliers(examples: Sequence[Example], scan: AudioScan) -> Iterator[Issue]:
    """Find examples spoken much faster or slower than the others of their language.

    Rates that are implausible by themselves are left to `check_speaking_rate`.
    """
    rates_by_group: dict[tuple[str, bool], tuple[array[int], array[float]]] = {}
    for index, example in enumerate(examples):
        seconds = scan.get_total_seconds(example)
        if example.task != "transcribe" or seconds <= MIN_RATE_CHECK_SECONDS:
            continue
        is_unspaced = UNSPACED_SCRIPT_RE.search(example.target) is not None
        rate = len(example.target if is_unspaced else example.target.split()) / seconds
        if is_unspaced or MIN_WORDS_PER_SECOND <= rate <= MAX_WORDS_PER_SECOND:
            group = ((example.language or "").lower(), is_unspaced)
            indices, rates = rates_by_group.setdefault(group, (array("q"), array("d")))
            indices.append(index)
            rates.append(rate)
    for (_, is_unspaced), (indices, rates) in rates_by_group.items():
        if len(rates) >= MIN_RATE_EXAMPLES:
            unit = "letters" if is_unspaced else "words"
            yield from _report_rate_outliers(examples, indices, np.array(rates), unit)


def _report_rate_outliers(
    examples: Sequence[Example], indices: Sequence[int], rates: NDArray[np.float64], unit: str
) -> Iterator[Issue]:
    median = float(np.median(rates))
    deviations = abs(np.log(rates / median))  # twice as fast is as far as half as fast
    spread = max(MAD_TO_STD * float(np.median(deviations)), MIN_LOG_RATE_SPREAD)
    for position in np.flatnonzero(deviations > MAX_RATE_DEVIATIONS * spread).tolist():
        what = f"{rates[position]:.1f} {unit} per second, and the others have about {median:.1f}"
        hint = "check that the transcript belongs to the audio"
        location = examples[indices[position]].location
        yield Issue(location, what, hint, fatal=False, code="data.rate_outlier")


def normalize_sentence(text: str) -> str:
    """Normalise a sentence for comparison: no case, no punctuation, single spaces."""
    folded = re.sub("['\u2019]", "", normalize("NFKC", text).casefold())
    if folded.isascii():
        return " ".join(re.findall("[a-z0-9]+", folded))
    letters = (char if category(char)[0] in "LMN" else " " for char in folded)
    return " ".join("".join(letters).split())


def _find_first_indices(keys: Sequence[int]) -> NDArray[np.int64]:
    """For each key, the index of the first that equals it."""
    _, first, inverse = np.unique(np.array(keys, np.int64), return_index=True, return_inverse=True)
    return np.asarray(first[inverse], np.int64)


def _group_equal_keys(keys: Sequence[int]) -> Iterator[list[int]]:
    """Indices of equal keys, where they are enough, in the order of the first."""
    first_indices = _find_first_indices(keys)
    order = np.argsort(first_indices, kind="stable")
    ordered, counts = first_indices[order], np.bincount(first_indices, minlength=1)
    for first in np.flatnonzero(counts >= MIN_SAME_TEXT_RECORDINGS).tolist():
        start = int(np.searchsorted(ordered, first))
        yield order[start : start + counts[first]].tolist()


def _decode_envelope(envelope: bytes) -> Waveform:
    """Decibels below the loudest bin: (2, bins), level and brightness."""
    steps = np.frombuffer(envelope, np.uint8).reshape(2, NUM_ENVELOPE_BINS)
    levels: Waveform = np.divide(steps, ENVELOPE_STEPS_PER_DB, dtype=np.float32)
    return levels


def _find_similar_envelopes(envelope: Waveform, others: Waveform) -> list[int]:
    """Which of `others` (segments, 2, bins) are like `envelope`, in its bins above the noise."""
    is_loud = envelope[0] < NEAR_COPY_NOISE_FLOOR_DB
    distances = np.sqrt(np.square(others[:, :, is_loud] - envelope[:, is_loud]).mean(axis=2))
    is_similar = (distances <= np.array(MAX_NEAR_COPY_DB)).all(axis=1)
    indices: list[int] = np.flatnonzero(is_similar).tolist()
    return indices


def _find_first_locations(
    examples: Iterable[Example], scan: AudioScan, segment_numbers: set[int]
) -> dict[int, str]:
    """The location of the first example with each of these segments."""
    locations: dict[int, str] = {}
    for example in examples:
        for segment in example.audio_segments:
            if (number := scan.segment_numbers[segment]) in segment_numbers:
                locations.setdefault(number, example.location)
    return locations

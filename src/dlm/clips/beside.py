"""What is odd about clips beside each other: copies, one text for many, a pace unlike the rest.

Clips are told apart by hashes and numbers in columns, so a comparison takes a few bytes a clip.
"""

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from unicodedata import category, normalize

import numpy as np
from numpy.typing import NDArray

from dlm.clips.clip import Clip, Problem
from dlm.clips.heard import Heard
from dlm.clips.measure import SHAPE_STEPS, STRETCHES
from dlm.clips.reader import Wave
from dlm.clips.remarks import FASTEST, SLOWEST, SPEECH_SECONDS, UNSPACED

SENTENCE_WORDS = 5  # shorter ones are said again and again by right
SAME_TEXT = 3  # recordings; two may be two takes of a sentence
TOLD_TEXTS = 20  # of transcripts that many recordings share; the rest is counted
PACED_CLIPS = 30  # fewer do not tell what is usual
FAR = 4.0  # deviations from the median: one clip in 16,000, were all of them alike
DEVIATION = 1.4826  # of a normal curve, where the median distance is 1
LEAST_SPREAD = 0.1  # of the logarithm of a pace: no reader is steadier than a tenth
NEAR_SECONDS, LATE_SECONDS = 1.0, 0.1  # of a near copy: how long at least, how much codecs add
NEAR_DECIBELS = (1.0, 3.0)  # on average, of level and of brightness: what mp3 and rates change
LEAST_FALL = 3.0  # decibels by which a sound must vary for its shape to tell anything
HEARD_DECIBELS = 30.0  # below the loudest stretch: what lies lower is noise
ABREAST = 2000  # sounds of one length that each is held against

Places = NDArray[np.int64]


def of_copies(clips: Sequence[Clip], heard: Heard) -> Iterator[Problem]:
    """Clips that ask the same of the same sound, wherever it lies and in whatever format."""
    contents: dict[int, str | int] = {at: facts.content for at, facts in heard.facts.items()}
    keys = array("q")
    for at, clip in enumerate(clips):
        numbers = heard.within(clip)
        asked = tuple(turn.text for turn in clip.turns[:-1])
        same = tuple(contents.get(number, number) for number in numbers or ())
        keys.append(hash((same, asked)) if same else hash((clip.place, at)))
    first_of = _firsts(keys)
    for at in np.flatnonzero(first_of != np.arange(len(keys))).tolist():
        clip, first = clips[at], clips[first_of[at]]
        what, mend = f"it repeats {first.place}", "take one of them out"
        if first.target != clip.target:
            what = f"it is the same sound as {first.place} with another transcript"
            mend = "keep the one that is right"
        yield Problem(clip.place, what, mend, fatal=False)


def of_near_copies(clips: Sequence[Clip], heard: Heard) -> Iterator[Problem]:
    """Sounds that rise and fall alike, such as a recording and its mp3, though no sample is equal.

    Only what was decoded has a shape.
    """
    varied = [
        number
        for number, facts in heard.facts.items()
        if facts.seconds >= NEAR_SECONDS and _levels(facts.shape)[0].std() >= LEAST_FALL
    ]
    varied.sort(key=heard.seconds)
    seconds = np.array([heard.seconds(number) for number in varied])
    shapes = [_levels(heard.facts[number].shape) for number in varied]
    whole = np.array(shapes).reshape(len(varied), 2, STRETCHES)
    place = _place_of(clips, heard, set(varied))
    for at, number in enumerate(varied):
        end = min(int(np.searchsorted(seconds, seconds[at] + LATE_SECONDS, "right")), at + ABREAST)
        for other in _alike(whole[at], whole[at + 1 : end]):
            later, first = sorted((number, varied[at + 1 + other]), reverse=True)
            if heard.facts[later].content != heard.facts[first].content:
                what = f"it sounds all but the same as {place[first]}"
                yield Problem(place[later], what, "take one of them out if it is a copy", False)


def of_texts(clips: Sequence[Clip]) -> Iterator[Problem]:
    """Transcripts that several recordings share: seldom what is said in each of them."""
    keys, at_clip = array("q"), array("q")
    for at, clip in enumerate(clips):
        text = plain(clip.target) if clip.task == "transcribe" and clip.sounds else ""
        if len(text.split()) >= SENTENCE_WORDS:
            keys.append(hash(text))
            at_clip.append(at)
    many = []
    for group in _groups(keys):
        sharing = [clips[at_clip[at]] for at in group]
        recordings = {sound.recording for clip in sharing for sound in clip.sounds}
        if len(recordings) >= SAME_TEXT:
            many.append((sharing[0], len(recordings)))
    mend = "check the transcripts against their sounds"
    for clip, count in many[:TOLD_TEXTS]:
        what = f"its transcript is that of {count:,} recordings"
        yield Problem(clip.place, what, mend, fatal=False)
    if rest := many[TOLD_TEXTS:]:
        what = f"and {len(rest):,} transcripts more, of {sum(count for _, count in rest):,}"
        yield Problem(rest[0][0].place, f"{what} recordings", mend, fatal=False)


def of_pace(clips: Sequence[Clip], heard: Heard) -> Iterator[Problem]:
    """Clips much faster or slower than the others of their language, though neither is absurd."""
    paces: dict[tuple[str, bool], tuple[array[int], array[float]]] = {}
    for at, clip in enumerate(clips):
        seconds = heard.lasting(clip)
        if clip.task == "transcribe" and seconds > SPEECH_SECONDS and clip.target.strip():
            unspaced = UNSPACED.search(clip.target) is not None
            said = len(clip.target) if unspaced else len(clip.target.split())
            if unspaced or SLOWEST <= said / seconds <= FASTEST:  # the rest is told already
                key = ((clip.language or "").lower(), unspaced)
                ats, known = paces.setdefault(key, (array("q"), array("d")))
                ats.append(at)
                known.append(said / seconds)
    for (_, unspaced), (ats, known) in paces.items():
        yield from _of_outliers(clips, ats, np.array(known), "letters" if unspaced else "words")


def _of_outliers(
    clips: Sequence[Clip], ats: Sequence[int], paces: NDArray[np.float64], unit: str
) -> Iterator[Problem]:
    if len(paces) < PACED_CLIPS:
        return
    usual = float(np.median(paces))
    apart = abs(np.log(paces / usual))  # twice as fast is as far as half as fast
    spread = max(DEVIATION * float(np.median(apart)), LEAST_SPREAD)
    for at in np.flatnonzero(apart > FAR * spread).tolist():
        what = f"{paces[at]:.1f} {unit} per second, and the others have about {usual:.1f}"
        mend = "check that transcript and sound belong together"
        yield Problem(clips[ats[at]].place, what, mend, fatal=False)


def plain(text: str) -> str:
    """A sentence as it is compared: no case, no punctuation, single spaces."""
    folded = re.sub("['\u2019]", "", normalize("NFKC", text).casefold())
    if folded.isascii():
        return " ".join(re.findall("[a-z0-9]+", folded))
    kept = (each if category(each)[0] in "LMN" else " " for each in folded)
    return " ".join("".join(kept).split())


def _firsts(keys: Sequence[int]) -> Places:
    """For each key the place of the first that equals it."""
    _, first, inverse = np.unique(np.array(keys, np.int64), return_index=True, return_inverse=True)
    found: Places = first[inverse].astype(np.int64)
    return found


def _groups(keys: Sequence[int]) -> Iterator[list[int]]:
    """Places of equal keys, where there are enough of them, in the order of the first."""
    first_of = _firsts(keys)
    order = np.argsort(first_of, kind="stable")
    ranked, counts = first_of[order], np.bincount(first_of, minlength=1)
    for first in np.flatnonzero(counts >= SAME_TEXT).tolist():
        start = int(np.searchsorted(ranked, first))
        yield order[start : start + counts[first]].tolist()


def _levels(shape: bytes) -> Wave:
    """Decibels below the loudest: (2, stretches), how it rises and falls and how bright it is."""
    steps = np.frombuffer(shape, np.uint8).reshape(2, STRETCHES)
    levels: Wave = np.divide(steps, SHAPE_STEPS, dtype=np.float32)
    return levels


def _alike(shape: Wave, others: Wave) -> list[int]:
    """Which of `others` (sounds, 2, stretches) are like `shape`, where there is something."""
    loud = shape[0] < HEARD_DECIBELS
    apart = np.sqrt(np.square(others[:, :, loud] - shape[:, loud]).mean(axis=2))
    found: list[int] = np.flatnonzero((apart <= np.array(NEAR_DECIBELS)).all(axis=1)).tolist()
    return found


def _place_of(clips: Iterable[Clip], heard: Heard, numbers: set[int]) -> dict[int, str]:
    """Where each of these sounds is first named."""
    places: dict[int, str] = {}
    for clip in clips:
        for sound in clip.sounds:
            if (number := heard.numbers[sound]) in numbers:
                places.setdefault(number, clip.place)
    return places

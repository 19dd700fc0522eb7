"""The test splits that models are compared on, and why none of them is learned from.

A source is refused when one of its shards says whose test split it is, or when the document asks
for a split of that name: a score on what was learned says nothing. It may be kept for testing
(`training.held_out: <its path>`), and `--allow-test-split` lets it be learned all the same.
"""

import re
from collections.abc import Iterator, Sequence

from dlm.clips.clip import Problem
from dlm.document.sources import Source

KNOWN = {  # how its name begins, as datasets and their copies write it: its name for people
    "librispeech": "LibriSpeech",
    "multilingual_librispeech": "Multilingual LibriSpeech",
    "mls": "Multilingual LibriSpeech",
    "common_voice": "Common Voice",
    "cv-corpus": "Common Voice",
    "fleurs": "FLEURS",
    "voxpopuli": "VoxPopuli",
    "gigaspeech": "GigaSpeech",
    "tedlium": "TED-LIUM",
    "earnings21": "Earnings-21",
    "earnings22": "Earnings-22",
    "ami": "AMI",
    "spgispeech": "SPGISpeech",
    "peoples_speech": "People's Speech",
    "musiccaps": "MusicCaps",
    "audiocaps": "AudioCaps",
    "clotho": "Clotho",
}
TEST = re.compile(r"test([._-].*)?", re.IGNORECASE)
FLAG = "--allow-test-split"


def is_test(split: str) -> bool:
    """Whether a split is for tests, by its name: test, test.clean, test-other."""
    return TEST.fullmatch(split) is not None


def test_of(name: str, split: str) -> str | None:
    """The benchmark whose test split that part of a dataset is, if it is one that is known.

    `name` is a folder's or a dataset's, such as openslr/librispeech_asr.
    """
    if not is_test(split):
        return None
    plain = name.rstrip("/").rpartition("/")[2].lower()
    begins = (known for known in KNOWN if re.match(rf"{re.escape(known)}(?![a-z0-9])", plain))
    return next((KNOWN[known] for known in begins), None)


def refusal(source: Source, tests: Sequence[str], place: str) -> Iterator[Problem]:
    """Why a source is not learned from; `tests` are the benchmarks whose test splits it gave."""
    mend = f"keep it for testing with `held_out: {source.path}`, or say {FLAG}"
    for name in tests:
        what = f"{source.path} is the test split of {name}, on which models are compared"
        yield Problem(place, what, mend, fatal=True)
    if not tests and source.split is not None and is_test(source.split):
        what = f"{source.path} would be learned from its split {source.split}, which is for tests"
        yield Problem(place, what, mend, fatal=True)

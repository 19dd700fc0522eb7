"""The test splits that models are compared on, and why none of them is learned from.

A source is refused when one of its shards says whose test split it is, or when the document asks
for a split of that name: a score on what was learned says nothing. It may be kept for testing
(`training.held_out: <its path>`), and `--allow-test-split` lets it be learned all the same.

What is in both the clips that are learned from and those held out: it makes scores too good.

A sentence that is read again, a voice, or a recording that lies there twice.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from dlm.config.data_schema import SourceConfig
from dlm.data.duplicates import MIN_SENTENCE_WORDS, normalize_sentence
from dlm.data.stats import ExampleStatsView
from dlm.data.types import Example, Issue

BENCHMARKS = {  # how its name begins, as datasets and their copies write it: its name for people
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
TEST_SPLIT_RE = re.compile(r"test([._-].*)?", re.IGNORECASE)
ALLOW_TEST_SPLIT_FLAG = "--allow-test-split"


def is_test_split(split: str) -> bool:
    """Whether a split is for tests, by its name: test, test.clean, test-other."""
    return TEST_SPLIT_RE.fullmatch(split) is not None


def find_test_benchmark(dataset_name: str, split: str) -> str | None:
    """The benchmark whose test split that part of a dataset is, if it is one that is known.

    `name` is a folder's or a dataset's, such as openslr/librispeech_asr.
    """
    if not is_test_split(split):
        return None
    plain = dataset_name.rstrip("/").rpartition("/")[2].lower()
    begins = (known for known in BENCHMARKS if re.match(rf"{re.escape(known)}(?![a-z0-9])", plain))
    return next((BENCHMARKS[known] for known in begins), None)


def check_test_split(
    source: SourceConfig, benchmarks: Sequence[str], location: str
) -> Iterator[Issue]:
    """Why a source is not learned from; `tests` are the benchmarks whose test splits it gave."""
    mend = f"keep it for testing with `held_out: {source.path}`, or say {ALLOW_TEST_SPLIT_FLAG}"
    for name in benchmarks:
        what = f"{source.path} is the test split of {name}, on which models are compared"
        yield Issue(location, what, mend, fatal=True)
    if not benchmarks and source.split is not None and is_test_split(source.split):
        what = f"{source.path} would be learned from its split {source.split}, which is for tests"
        yield Issue(location, what, mend, fatal=True)


SPLIT_BY_HINT = "keep them on one side with training.split_by: "


def check_leakage(
    train_examples: Sequence[Example],
    held_out_examples: Sequence[Example],
    example_stats: ExampleStatsView,
) -> Iterator[Issue]:
    """Each clip held out that was as good as learned, and each voice on both sides."""
    if not held_out_examples:
        return
    content = example_stats.get_content_by_location()
    sounds = {
        content[clip.location]: clip.location
        for clip in reversed(train_examples)
        if clip.location in content
    }
    wanted = {_get_sentence(clip) for clip in held_out_examples} - {""}
    said: dict[str, str] = {}
    for clip in train_examples:
        if (text := _get_sentence(clip)) in wanted:
            said.setdefault(text, clip.location)
    for clip in held_out_examples:
        same, text = sounds.get(content.get(clip.location, "")), _get_sentence(clip)
        if same is not None:
            what = f"it is held out, and {same}, which is learned from, is the same sound"
            yield Issue(clip.location, what, f"{SPLIT_BY_HINT}content", fatal=False)
        elif text in said:
            what = f"it is held out, and {said[text]}, which is learned from, says the same"
            mend = "take one of them out, or hold out a source with sentences of its own"
            yield Issue(clip.location, what, mend, fatal=False)
    yield from _check_shared_speakers(train_examples, held_out_examples)


def _check_shared_speakers(
    train_examples: Sequence[Example], held_out_examples: Sequence[Example]
) -> Iterator[Issue]:
    """Who is heard on both sides, as far as speakers are known."""
    known = Counter(clip.speaker for clip in train_examples)
    held: dict[str, list[Example]] = {}
    for clip in held_out_examples:
        if clip.speaker and clip.speaker in known:
            held.setdefault(clip.speaker, []).append(clip)
    for speaker, clips in held.items():
        what = f"speaker {speaker} is heard in {len(clips):,} held out and {known[speaker]:,} clips"
        yield Issue(
            clips[0].location, f"{what} learned from", f"{SPLIT_BY_HINT}speaker", fatal=False
        )


def _get_sentence(example: Example) -> str:
    """What a clip transcribes, if that is long enough to be said only once."""
    text = normalize_sentence(example.target) if example.task == "transcribe" else ""
    return text if len(text.split()) >= MIN_SENTENCE_WORDS else ""

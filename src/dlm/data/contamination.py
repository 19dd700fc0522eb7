"""Train/test contamination: test splits of known benchmarks, and leakage into held-out examples.

check_test_split   a source that is the test split of a benchmark is refused: scores of a model
                   trained on it mean nothing. It may be held out, or be allowed with
                   --allow-test-split
check_leakage      a recording, a sentence or a speaker that is in both the training examples
                   and the held-out ones makes scores too good: a warning
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from dlm.config.data_schema import SourceConfig
from dlm.data.duplicates import MIN_SENTENCE_WORDS, normalize_sentence
from dlm.data.stats import ExampleStatsView
from dlm.data.types import Example, Issue

BENCHMARKS = {  # beginning of the name of a dataset or of a copy of it: name to print
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
SPLIT_BY_HINT = "keep them on one side with training.split_by: "


def is_test_split(split: str) -> bool:
    """Whether the name of a split says that it is for tests: test, test.clean, test-other."""
    return TEST_SPLIT_RE.fullmatch(split) is not None


def find_test_benchmark(dataset_name: str, split: str) -> str | None:
    """Name the benchmark whose test split this is; None for any other data.

    Args:
        dataset_name: a folder or a dataset, such as openslr/librispeech_asr.
        split: a split of it.
    """
    if not is_test_split(split):
        return None
    name = dataset_name.rstrip("/").rpartition("/")[2].lower()
    for prefix, benchmark in BENCHMARKS.items():
        if re.match(rf"{re.escape(prefix)}(?![a-z0-9])", name):
            return benchmark
    return None


def check_test_split(
    source: SourceConfig, benchmarks: Sequence[str], location: str
) -> Iterator[Issue]:
    """Yield why a source must not be trained on; `benchmarks` have their test splits in it."""
    hint = f"use it for evaluation with `held_out: {source.path}`, or pass {ALLOW_TEST_SPLIT_FLAG}"
    whats = [
        f"{source.path} is the test split of {benchmark}, on which models are compared"
        for benchmark in benchmarks
    ]
    if not whats and source.split is not None and is_test_split(source.split):
        whats.append(f"split {source.split} of {source.path} is for tests, not for training")
    for what in whats:
        yield Issue(location, what, hint, fatal=True, code="data.test_split")


def check_leakage(
    train_examples: Sequence[Example],
    held_out_examples: Sequence[Example],
    example_stats: ExampleStatsView,
) -> Iterator[Issue]:
    """Yield a warning for each held-out example, and each speaker, that is trained on too."""
    content_hashes = example_stats.get_content_by_location()
    train_recordings = {
        content_hashes[example.location]: example.location
        for example in reversed(train_examples)
        if example.location in content_hashes
    }
    held_out_sentences = {_get_sentence(example) for example in held_out_examples} - {""}
    train_sentences: dict[str, str] = {}
    for example in train_examples:
        if (sentence := _get_sentence(example)) in held_out_sentences:
            train_sentences.setdefault(sentence, example.location)
    for example in held_out_examples:
        copy = train_recordings.get(content_hashes.get(example.location, ""))
        reading = train_sentences.get(_get_sentence(example))
        if copy is not None:
            what = f"it is held out, and {copy}, which is trained on, is the same audio"
            hint = f"{SPLIT_BY_HINT}content"
            yield Issue(example.location, what, hint, fatal=False, code="data.leaked_audio")
        elif reading is not None:
            what = f"it is held out, and {reading}, which is trained on, has the same transcript"
            hint = "take one of them out, or hold out a source with sentences of its own"
            yield Issue(example.location, what, hint, fatal=False, code="data.leaked_sentence")
    yield from _check_shared_speakers(train_examples, held_out_examples)


def _check_shared_speakers(
    train_examples: Sequence[Example], held_out_examples: Sequence[Example]
) -> Iterator[Issue]:
    num_by_speaker = Counter(example.speaker for example in train_examples)
    held_out_by_speaker: dict[str, list[Example]] = {}
    for example in held_out_examples:
        if example.speaker and example.speaker in num_by_speaker:
            held_out_by_speaker.setdefault(example.speaker, []).append(example)
    for speaker, examples in held_out_by_speaker.items():
        what = (
            f"speaker {speaker} is in {len(examples):,} held-out clips and in "
            f"{num_by_speaker[speaker]:,} that are trained on"
        )
        hint = f"{SPLIT_BY_HINT}speaker"
        yield Issue(examples[0].location, what, hint, fatal=False, code="data.leaked_speaker")


def _get_sentence(example: Example) -> str:
    """The normalized transcript, if it is too long to be said twice by chance; else nothing."""
    sentence = normalize_sentence(example.target) if example.task == "transcribe" else ""
    return sentence if len(sentence.split()) >= MIN_SENTENCE_WORDS else ""

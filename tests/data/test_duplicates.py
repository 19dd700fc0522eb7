"""Examples compared: copies, near copies, repeated transcripts, unusual speaking rates."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dlm.data.duplicates import MAX_REPORTED_TRANSCRIPTS, MIN_RATE_EXAMPLES, normalize_sentence
from dlm.data.types import Example, Message
from tests.data.recordings import RATE, make_audio_example, make_noise, save_audio
from tests.data.validation import list_codes, list_issues

SENTENCE = "we will meet again at nine"


def speech_like(seed: int, seconds: float = 2.0) -> np.ndarray:
    """Noise with the envelope of speech, another for each seed: (samples, 1)."""
    wave = make_noise(seconds, seed=seed)
    steps = np.random.default_rng(seed).uniform(-40, 0, 16)
    levels = np.interp(np.arange(len(wave)), np.linspace(0, len(wave), 16), 10 ** (steps / 20))
    return (wave * levels[:, None]).astype(np.float32)


def make_answer(path: Path, question: str, answer: str) -> Example:
    user = Message("user", (*make_audio_example(path).audio_segments, question))
    return Example((user, Message("assistant", (answer,))), question, "answer")


def test_copies_are_found_in_any_format(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "a.wav")
    shutil.copy(path, tmp_path / "b.wav")
    save_audio(tmp_path / "c.flac", soundfile.read(path, dtype="float32")[0][:, None])
    examples = [
        make_audio_example(tmp_path / name, "one two") for name in ("a.wav", "b.wav", "c.flac")
    ]
    assert list_codes(*examples) == [("b.wav", "data.duplicate"), ("c.flac", "data.duplicate")]
    assert str(list_issues(*examples)[0]) == "b.wav: it repeats a.wav; take one of them out"


def test_the_same_audio_with_another_transcript_is_reported(tmp_path: Path) -> None:
    shutil.copy(save_audio(tmp_path / "a.wav"), tmp_path / "b.wav")
    examples = (
        make_audio_example(tmp_path / "a.wav", "one two"),
        make_audio_example(tmp_path / "b.wav", "one too"),
    )
    (issue,) = list_issues(*examples)
    assert (issue.where, issue.code) == ("b.wav", "data.conflicting_transcripts")
    assert issue.what == "it is the same audio as a.wav with another transcript"


def test_other_questions_and_spans_of_a_recording_are_no_copies(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "a.wav", make_noise(2.0))
    answers = [make_answer(path, question, "Ann.") for question in ("Who?", "Which name?")]
    spans = [
        make_audio_example(path, start=0.0, end=1.0),
        make_audio_example(path, start=1.0, end=2.0),
    ]
    assert list_issues(make_audio_example(path), *answers, *spans) == []


@pytest.mark.parametrize("copy", ["b.mp3", "b.ogg", "quieter.wav", "b.opus"])
def test_a_near_copy_is_reported(tmp_path: Path, copy: str) -> None:
    first = save_audio(tmp_path / "a.wav", speech_like(1))
    second = save_audio(tmp_path / copy, speech_like(1) * (0.4 if "quieter" in copy else 1))
    others = [
        make_audio_example(save_audio(tmp_path / f"{n}.wav", speech_like(n)), f"other {n}")
        for n in (2, 3, 4)
    ]
    copies = make_audio_example(first, "one"), make_audio_example(second, "two")
    (issue,) = list_issues(*copies, *others, auto_resample=True)
    assert (issue.where, issue.code) == (copy, "data.near_duplicate")
    assert issue.what == "it is almost the same audio as a.wav"


def test_a_copy_at_another_sample_rate_is_a_near_copy(tmp_path: Path) -> None:
    smooth = np.hanning(25) / 12
    waves = [np.convolve(speech_like(n, 3.0)[:, 0], smooth, "same")[:, None] for n in (3, 4)]
    wave, other = 5 * waves[0], 5 * waves[1]
    soundfile.write(tmp_path / "b.flac", wave.reshape(-1, 2, 1).mean(axis=1), RATE // 2)
    files = [
        save_audio(tmp_path / "a.wav", wave),
        tmp_path / "b.flac",
        save_audio(tmp_path / "c.wav", other),
    ]
    examples = [make_audio_example(file, "one") for file in files]
    assert list_codes(*examples, auto_resample=True) == [("b.flac", "data.near_duplicate")]


def test_different_audio_of_one_length_is_no_near_copy(tmp_path: Path) -> None:
    varied = [
        make_audio_example(save_audio(tmp_path / f"{n}.wav", speech_like(n)), f"text {n}")
        for n in range(12)
    ]
    flat = [
        make_audio_example(save_audio(tmp_path / f"flat{n}.wav", make_noise(2.0, seed=n)), f"f {n}")
        for n in range(4)
    ]
    assert list_issues(*varied, *flat) == []


def test_an_exact_copy_is_no_near_copy_too(tmp_path: Path) -> None:
    wave = speech_like(1)
    examples = [
        make_audio_example(save_audio(tmp_path / f"{name}.wav", wave), "one two") for name in "ab"
    ]
    assert list_codes(*examples) == [("b.wav", "data.duplicate")]


def test_a_transcript_of_three_recordings_is_reported(tmp_path: Path) -> None:
    texts = [SENTENCE, SENTENCE.upper() + "!", f"  {SENTENCE}.", "something else is said here now"]
    examples = [
        make_audio_example(save_audio(tmp_path / f"{n}.wav", make_noise(seed=n)), text)
        for n, text in enumerate(texts)
    ]
    (issue,) = list_issues(*examples)
    assert (issue.where, issue.code) == ("0.wav", "data.repeated_transcript")
    assert issue.what == "its transcript is that of 3 recordings"
    assert list_issues(*examples[:2]) == []  # two may be two takes


def test_short_phrases_and_answers_may_be_repeated(tmp_path: Path) -> None:
    paths = [save_audio(tmp_path / f"{n}.wav", make_noise(seed=n)) for n in range(4)]
    assert list_issues(*(make_audio_example(path, "turn on the light") for path in paths)) == []
    assert list_issues(*(make_answer(path, "Who?", SENTENCE) for path in paths)) == []


def test_spans_of_one_recording_may_share_a_transcript(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "a.wav", make_noise(3.0))
    assert (
        list_issues(*(make_audio_example(path, SENTENCE, start=n, end=n + 1.0) for n in range(3)))
        == []
    )


def test_the_first_shared_transcripts_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    count = MAX_REPORTED_TRANSCRIPTS + 3
    issues = list_issues(
        *(
            make_audio_example(
                save_audio(tmp_path / f"{n}.wav", make_noise(0.2, seed=n)),
                f"{SENTENCE} or {n % count}",
            )
            for n in range(3 * count)
        )
    )
    assert len(issues) == MAX_REPORTED_TRANSCRIPTS + 1
    assert {issue.code for issue in issues} == {"data.repeated_transcript"}
    assert issues[-1].what == "and 3 transcripts more, of 9 recordings"


def make_spans(folder: Path, word_counts: list[int]) -> list[Example]:
    """A span of three seconds for each number of words, none of which is used twice."""
    path = save_audio(folder / "long.wav", make_noise(3.0 * len(word_counts)))
    texts = [" ".join(f"word{n}a{m}" for m in range(count)) for n, count in enumerate(word_counts)]
    return [
        make_audio_example(path, text, start=3.0 * n, end=3.0 * n + 3)
        for n, text in enumerate(texts)
    ]


def test_a_speaking_rate_unlike_the_others_is_reported(tmp_path: Path) -> None:
    usual = [7, 8, 9, 8] * 10
    issues = list_issues(*make_spans(tmp_path, [*usual, 17, 2]))
    assert {issue.code for issue in issues} == {"data.rate_outlier"}
    assert [issue.what for issue in issues] == [
        "5.7 words per second, and the others have about 2.7",
        "0.7 words per second, and the others have about 2.7",
    ]
    assert list_issues(*make_spans(tmp_path, [*usual, 11, 6])) == []
    too_few = [8] * (MIN_RATE_EXAMPLES - 2)
    assert list_issues(*make_spans(tmp_path, [*too_few, 16])) == []


def test_the_rate_of_text_without_spaces_is_in_letters(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "long.wav", make_noise(3.0 * 41))
    texts = ["今" * (count - 3) + f"{n:03d}" for n, count in enumerate([15] * 40 + [60])]
    (issue,) = list_issues(
        *(
            make_audio_example(path, text, start=3.0 * n, end=3.0 * n + 3)
            for n, text in enumerate(texts)
        )
    )
    assert issue.code == "data.rate_outlier"
    assert issue.what == "20.0 letters per second, and the others have about 5.0"


def test_an_implausible_rate_is_reported_once(tmp_path: Path) -> None:
    codes = list_codes(*make_spans(tmp_path, [*[8] * 40, 30]))
    assert codes == [("long.wav", "data.speaking_rate")]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Half past NINE.", "half past nine"),
        ("  don\u2019t -- stop!\n", "dont stop"),
        ("don't stop", "dont stop"),
        ("\uff21\uff22 cafe\u0301", "ab caf\u00e9"),
        (
            "\u0928\u092e\u0938\u094d\u0924\u0947, \u0926\u0941\u0928\u093f\u092f\u093e",
            "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
        ),
        ("?!", ""),
    ],
)
def test_sentences_are_compared_without_case_and_punctuation(text: str, same: str) -> None:
    assert normalize_sentence(text) == same

"""Checks of one example: level, channels, clipping, offset, speaking rate, loops, script."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dlm.data.quality_checks import (
    SCRIPTS_BY_LANGUAGE,
    QualityWarning,
    check_script,
    find_repeated_phrase,
)
from dlm.data.types import LANGUAGE_CODE_RE, Example, Message
from tests.data.recordings import RATE, make_audio_example, make_noise, save_audio
from tests.data.validation import list_codes, list_issues


def test_silence_is_reported(tmp_path: Path) -> None:
    (issue,) = list_issues(make_audio_example(save_audio(tmp_path / "a.wav", make_noise() * 0.001)))
    assert issue.code == "audio.silent"
    assert str(issue) == (
        "a.wav: it is silent (below -60 dBFS); record it again or take the clip out"
    )


def test_channels_that_cancel_each_other_are_reported(tmp_path: Path) -> None:
    wave = make_noise()
    path = save_audio(tmp_path / "a.wav", np.concatenate([wave, -wave], axis=1), subtype="FLOAT")
    assert list_codes(make_audio_example(path)) == [
        ("a.wav", "audio.channels_cancel"),
        ("a.wav", "audio.multichannel"),
    ]


@pytest.mark.parametrize(
    ("num_clipped", "is_reported"), [(RATE // 500, True), (RATE // 2000, False)]
)
def test_clipped_samples_are_reported(tmp_path: Path, num_clipped: int, is_reported: bool) -> None:
    wave = make_noise()
    wave[:num_clipped:2], wave[1:num_clipped:2] = 1.0, -1.0
    issues = list_issues(make_audio_example(save_audio(tmp_path / "a.wav", wave)))
    assert [issue.code for issue in issues] == ["audio.clipped"] * is_reported
    if is_reported:
        assert issues[0].what == "0.2% of its samples are clipped at full scale"


def test_an_offset_is_reported(tmp_path: Path) -> None:
    (issue,) = list_issues(make_audio_example(save_audio(tmp_path / "a.wav", make_noise() - 0.1)))
    assert issue.code == "audio.dc_offset"
    assert issue.what == "it is off centre by 10.0% of full scale (DC offset)"


def test_several_channels_are_reported(tmp_path: Path) -> None:
    (issue,) = list_issues(
        make_audio_example(save_audio(tmp_path / "a.wav", make_noise(channels=8)))
    )
    assert issue.code == "audio.multichannel"
    assert issue.what == "its 8 channels are mixed to mono"


@pytest.mark.parametrize(
    ("text", "seconds", "what"),
    [
        ("word " * 21, 3.0, "7.0 words per second: too much text for 3.0 s of speech"),
        ("word", 4.0, "0.2 words per second: too little text for 4.0 s of speech"),
        ("one two three", 3.0, None),
        ("just one two words and many more in no time at all", 1.5, None),
        ("今天天气很好我们去公园散步吧", 3.0, None),
    ],
)
def test_an_implausible_number_of_words_per_second_is_reported(
    tmp_path: Path, text: str, seconds: float, what: str | None
) -> None:
    path = save_audio(tmp_path / "a.wav", make_noise(seconds))
    different_words = " ".join(f"{word}{n}" for n, word in enumerate(text.split()))
    issues = list_issues(make_audio_example(path, different_words))
    assert [issue.what for issue in issues] == ([what] if what else [])
    assert all(issue.code == "data.speaking_rate" for issue in issues)


def test_answers_have_no_speaking_rate(tmp_path: Path) -> None:
    question = Message(
        "user",
        (
            *make_audio_example(save_audio(tmp_path / "a.wav", make_noise(9.0))).audio_segments,
            "Who?",
        ),
    )
    assert list_issues(Example((question, Message("assistant", ("Ann.",))), "q", "answer")) == []


@pytest.mark.parametrize("char", ["\0", "\x07", "\x1b", "\x85"])
def test_control_characters_are_reported(tmp_path: Path, char: str) -> None:
    path = save_audio(tmp_path / "a.wav")
    (issue,) = list_issues(make_audio_example(path, f"one{char} two"))
    assert issue.code == "data.control_character"
    assert issue.what == f"its text holds a control character ({char!r})"
    assert list_issues(make_audio_example(path, "one\n\ttwo\r\n")) == []


def test_repeated_text_is_reported(tmp_path: Path) -> None:
    text = "So thank you. " + "Thank you. " * 4
    (issue,) = list_issues(
        make_audio_example(save_audio(tmp_path / "a.wav", make_noise(1.9)), text)
    )
    assert issue.code == "data.repeated_text"
    assert issue.what == 'its text repeats itself ("thank you.")'


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("no " * 8, "no"),
        ("no " * 7, None),
        ("he said " * 4, "he said"),
        ("see you next week " * 3, "see you next week"),
        ("see you next week " * 2, None),
        ("one two three four five six seven eight nine", None),
        ("", None),
    ],
)
def test_a_phrase_counts_as_repeated_from_eight_words_on(text: str, phrase: str | None) -> None:
    assert find_repeated_phrase(text) == phrase


def list_script_warnings(
    text: str, language: str | None = None, **options: str
) -> list[QualityWarning]:
    example = replace(make_audio_example(Path("a.wav"), text), language=language, **options)
    return list(check_script(example))


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "Half past nine, naïve café."),
        ("de", "Schöne Grüße aus Köln"),
        ("pl", "Zażółć gęślą jaźń"),
        ("vi", "Tiếng Việt rất hay"),
        ("ru", "Привет, мой iPhone сломан"),
        ("UK", "Їжак"),
        ("sr", "Dobar dan"),
        ("sr", "Добар дан"),
        ("el", "Καλημέρα κόσμε"),
        ("ar", "صباح الخير"),
        ("fa", "سلام دنیا"),
        ("ur", "صبح بخیر"),
        ("he", "שלום עולם"),
        ("hi", "नमस्ते दुनिया"),
        ("th", "สวัสดีชาวโลก"),
        ("ja", "こんにちは世界カタカナ"),
        ("ja", "ﾊﾛｰ ワールド"),
        ("zh", "今天天气很好"),
        ("ko", "안녕하세요 세계"),
        ("ka", "გამარჯობა"),
        ("am", "ሰላም"),
        ("zh", "2024, 50 %!"),
        (None, "今天 hello привет"),
        ("en", "π is 3.14 and µm"),
    ],
)
def test_text_in_the_script_of_its_language_is_accepted(language: str | None, text: str) -> None:
    assert list_script_warnings(text, language) == []


@pytest.mark.parametrize(
    ("language", "text", "what"),
    [
        ("ru", "Privet mir", "its text is Latin, and 'ru' is written in Cyrillic (P r i v e ...)"),
        ("en", "Привет", "its text is Cyrillic, and 'en' is written in Latin (П р и в е ...)"),
        ("zh", "nihao", "its text is Latin, and 'zh' is written in Chinese characters or Bopomofo"),
        (
            "ja",
            "안녕",
            "its text is Hangul, and 'ja' is written in Hiragana or Katakana or Chinese",
        ),
        ("hi", "سلام", "its text is Arabic, and 'hi' is written in Devanagari (س ل ا م)"),
        ("th", "hello", "its text is Latin, and 'th' is written in Thai (h e l o)"),
        ("el", "kalimera", "its text is Latin, and 'el' is written in Greek"),
        ("fr", "Ã©Ñ\x80д ша", "its text is Cyrillic, and 'fr' is written in Latin (д ш а)"),
    ],
)
def test_text_in_another_script_is_reported(language: str, text: str, what: str) -> None:
    (warning,) = list_script_warnings(text, language)
    assert warning.code == "data.wrong_script" and warning.what.startswith(what), warning


def test_a_word_of_letters_that_only_look_alike_is_reported() -> None:
    what = "the word 'p\u0430ypal' mixes alphabets: '\u0430' is Cyrillic"
    expected = QualityWarning(what, "write the word in one alphabet", "data.mixed_scripts")
    assert list_script_warnings("my p\u0430ypal account") == [expected]
    assert list_script_warnings("my p\u0430ypal account", "en") == [expected]
    assert len(list_script_warnings("my p\u0430y\u0440al, p\u0430y\u0440al")) == 1
    assert list_script_warnings("β-carotene, IPhone-ом, Ω 5kΩ") == []


def test_answers_may_be_in_any_script() -> None:
    assert list_script_warnings("Привет", "en", task="answer") == []


def test_every_language_of_the_table_is_a_code_and_is_listed_once() -> None:
    assert all(LANGUAGE_CODE_RE.fullmatch(code) and code.islower() for code in SCRIPTS_BY_LANGUAGE)
    source = Path(__file__).parents[2] / "src/dlm/data/quality_checks.py"
    table = re.search(r"LANGUAGES_BY_SCRIPT = \{(.*?)\n\}", source.read_text("utf-8"), re.DOTALL)
    codes = [code for line in re.findall(r': "(.*)"', table[1]) for code in line.split()]
    assert sorted(codes) == sorted(SCRIPTS_BY_LANGUAGE)

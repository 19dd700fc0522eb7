"""Whether a transcript is written in the letters of its language."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from dlm.data.quality_checks import SCRIPTS_BY_LANGUAGE, check_script
from dlm.data.types import LANGUAGE_CODE_RE
from tests.data.sounds import spoken


def told(text: str, language: str | None = None, **other: str) -> list[str]:
    clip = replace(spoken(Path("a.wav"), text), language=language, **other)
    lines = [f"{what}; {mend}" for what, mend in check_script(clip)]
    assert not any("\n" in line for line in lines)
    return lines


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
def test_what_fits(language: str | None, text: str) -> None:
    assert told(text, language) == []


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
def test_what_does_not(language: str, text: str, what: str) -> None:
    (line,) = told(text, language)
    assert line.startswith(what), line
    assert line.endswith("; mend the language or the transcript")


def test_letters_that_only_look_alike() -> None:
    line = "the word 'p\u0430ypal' mixes alphabets: '\u0430' is Cyrillic"
    assert told("my p\u0430ypal account") == [f"{line}; write the word in one alphabet"]
    assert told("my p\u0430ypal account", "en") == [f"{line}; write the word in one alphabet"]
    assert told("my p\u0430y\u0440al, p\u0430y\u0440al")[0].count("mixes") == 1
    assert told("β-carotene, IPhone-ом, Ω 5kΩ") == []


def test_answers_are_free_to_name_foreign_letters() -> None:
    assert told("Привет", "en", task="answer") == []


def test_every_language_of_the_table_is_a_code_and_stands_once() -> None:
    assert all(LANGUAGE_CODE_RE.fullmatch(code) and code.islower() for code in SCRIPTS_BY_LANGUAGE)
    source = Path("src/dlm/data/quality_checks.py")
    source = Path(__file__).parents[2] / source
    table = re.search(r"LANGUAGES_BY_SCRIPT = \{(.*?)\n\}", source.read_text("utf-8"), re.DOTALL)
    codes = [code for line in re.findall(r': "(.*)"', table[1]) for code in line.split()]
    assert sorted(codes) == sorted(SCRIPTS_BY_LANGUAGE)

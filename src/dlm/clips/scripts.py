"""Whether a transcript is written in the letters of its language.

    language   what a clip says it is, by its code of ISO 639-1
    script     what a letter's Unicode name begins with: LATIN, CYRILLIC, CJK

A few foreign letters are names and loan words; many are the wrong language, a wrong encoding or a
transliteration. Letters that only look alike make words that no tokenizer knows.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby
from unicodedata import category, name

from dlm.clips.clip import Clip

FOREIGN_SHARE = 0.3  # of the letters: more than a name or two
SHOWN = 5  # letters that a remark names
ALIKE = {"LATIN", "CYRILLIC"}  # many letters look the same; Greek ones are signs, as in 5 kΩ
LATIN = ("LATIN",)
WRITTEN_IN = {
    "CYRILLIC": "ab av ba be bg ce cv kv mk os ru tt uk",
    "CYRILLIC LATIN": "az bs kk ky mn sr tg tk uz",
    "GREEK": "el",
    "ARABIC": "ar fa ps sd ug ur",
    "ARABIC LATIN": "ku ha",
    "HEBREW": "he yi",
    "DEVANAGARI": "hi mr ne sa",
    "BENGALI": "as bn",
    "GURMUKHI ARABIC": "pa",
    "DEVANAGARI ARABIC": "ks",
    "GUJARATI": "gu",
    "ORIYA": "or",
    "TAMIL": "ta",
    "TELUGU": "te",
    "KANNADA": "kn",
    "MALAYALAM": "ml",
    "SINHALA": "si",
    "THAANA": "dv",
    "THAI": "th",
    "LAO": "lo",
    "MYANMAR": "my",
    "KHMER": "km",
    "TIBETAN": "bo dz",
    "GEORGIAN": "ka",
    "ARMENIAN": "hy",
    "ETHIOPIC": "am ti",
    "CANADIAN LATIN": "iu",
    "YI CJK": "ii",
    "CJK BOPOMOFO": "zh",
    "HIRAGANA KATAKANA CJK": "ja",
    "HANGUL CJK": "ko",
}
SCRIPTS_OF = {
    code: tuple(scripts.split()) for scripts, codes in WRITTEN_IN.items() for code in codes.split()
}
KNOWN = {*LATIN, *(script for scripts in SCRIPTS_OF.values() for script in scripts)}


def script_remarks(clip: Clip) -> Iterator[tuple[str, str]]:
    """What is odd about the letters of a transcript, and the mend."""
    right = SCRIPTS_OF.get((clip.language or "").lower(), LATIN)
    if clip.task != "transcribe" or (clip.target.isascii() and "LATIN" in right):
        return
    counts = Counter(letter for letter in clip.target if script_of(letter))
    foreign = {letter: count for letter, count in counts.items() if script_of(letter) not in right}
    if clip.language and sum(foreign.values()) > FOREIGN_SHARE * counts.total():
        found = " and ".join(dict.fromkeys(_told(script_of(letter)) for letter in foreign))
        what = f"its text is {found}, and '{clip.language}' is written in {_any(right)}"
        yield f"{what} ({_some(foreign)})", "mend the language or the transcript"
    for word in re.findall(r"[^\W\d_]+", clip.target):
        mixed = [key for key, _ in groupby(filter(None, map(script_of, word)))]
        if len(set(mixed) & ALIKE) > 1:
            few = min(set(mixed) & ALIKE, key=lambda each: _count(word, each))
            odd = "".join(letter for letter in word if script_of(letter) == few)
            what = f"the word '{word}' mixes alphabets: '{odd}' is {_told(few)}"
            yield what, "write the word in one alphabet"
            return


@lru_cache(maxsize=10_000)
def script_of(letter: str) -> str:
    """The script of a letter; nothing for a sign, a digit, or a script of no language here."""
    if category(letter)[0] != "L":
        return ""
    words = name(letter, "").replace("FULLWIDTH ", "").replace("HALFWIDTH ", "").split()
    return words[0] if words and words[0] in KNOWN else ""


def _count(word: str, script: str) -> int:
    return sum(script_of(letter) == script for letter in word)


def _told(script: str) -> str:
    return {"CJK": "Chinese characters"}.get(script, script.capitalize())


def _any(scripts: tuple[str, ...]) -> str:
    return " or ".join(map(_told, scripts))


def _some(letters: dict[str, int]) -> str:
    return " ".join(list(letters)[:SHOWN]) + (" ..." if len(letters) > SHOWN else "")

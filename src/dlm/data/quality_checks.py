"""Checks of one example: level, clipping, DC offset, length, words per second, loops, script.

Nothing here stops training, but all of it spoils what is trained. A check yields a QualityWarning;
validate.py adds the location. The script of a transcript is checked against its language, by the
ISO 639-1 code: a few foreign letters are names and loan words, many are the wrong language, a wrong
encoding or a transliteration, and letters that only look alike make words no tokenizer knows.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple
from unicodedata import category, name

from dlm.config.data_schema import LongAudioPolicy
from dlm.data.audio_scan import SILENCE_AMPLITUDE, AudioStats
from dlm.data.types import Example

MIN_EXAMPLE_AUDIO_SECONDS = 0.1  # shorter than a vowel
MAX_CLIPPED_FRACTION = 0.001
MAX_DC_OFFSET = 0.02  # of full scale: beyond what a sound card adds
MAX_WORDS_PER_SECOND, MIN_WORDS_PER_SECOND = 6.0, 0.3  # fast speech has 4
MIN_RATE_CHECK_SECONDS = 2.0  # shorter audio may hold any number of words
# "thank you thank you thank you thank you" is a loop: so many words in all, so many times a phrase
MIN_LOOP_WORDS, MIN_LOOP_REPEATS, MAX_LOOP_PHRASE_WORDS = 8, 3, 12
MIN_REPEATED_WORDS = 6  # in the shortest loop: "he said he said he said he said"
UNSPACED_SCRIPT_RE = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]"
)
SPLIT_SEGMENTS_HINT = "nothing to do, or give spans with start and end"
LONG_AUDIO_HINT = "give spans with start and end, or set training.audio.long_clips: split"

MAX_FOREIGN_FRACTION = 0.3  # of the letters: more than a name or two
MAX_LETTERS_SHOWN = 5
# many letters of these look the same; Greek ones are signs, as in 5 kΩ
CONFUSABLE_SCRIPTS = {"LATIN", "CYRILLIC"}
DEFAULT_SCRIPTS = ("LATIN",)
# a script is what the Unicode names of its letters begin with
LANGUAGES_BY_SCRIPT = {
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
SCRIPTS_BY_LANGUAGE = {
    code: tuple(scripts.split())
    for scripts, codes in LANGUAGES_BY_SCRIPT.items()
    for code in codes.split()
}
KNOWN_SCRIPTS = {*DEFAULT_SCRIPTS, *" ".join(LANGUAGES_BY_SCRIPT).split()}


class QualityWarning(NamedTuple):
    """What is odd about an example, what to do about it, and the code of the kind of mistake."""

    what: str
    hint: str
    code: str


def check_audio_quality(stats: AudioStats) -> Iterator[QualityWarning]:
    """Check a decoded segment for silence, clipping, DC offset and several channels."""
    if stats.channel_peak < SILENCE_AMPLITUDE:
        hint = "record it again or take the clip out"
        yield QualityWarning("it is silent (below -60 dBFS)", hint, code="audio.silent")
    elif stats.peak < SILENCE_AMPLITUDE:
        hint = "keep one of them: `ffmpeg -i in.wav -af 'pan=mono|c0=c0' out.wav`"
        what = "its channels cancel out when mixed to mono"
        yield QualityWarning(what, hint, code="audio.channels_cancel")
    if stats.clipped_fraction > MAX_CLIPPED_FRACTION:
        what = f"{stats.clipped_fraction:.1%} of its samples are clipped at full scale"
        yield QualityWarning(what, "record it again at a lower level", code="audio.clipped")
    if abs(stats.dc_offset) > MAX_DC_OFFSET:
        what = f"it is off centre by {abs(stats.dc_offset):.1%} of full scale (DC offset)"
        hint = "filter it: `ffmpeg -i in.wav -af highpass=f=20 out.wav`"
        yield QualityWarning(what, hint, code="audio.dc_offset")
    if stats.num_channels > 1:
        what = f"its {stats.num_channels} channels are mixed to mono"
        yield QualityWarning(what, "nothing to do if that is meant", code="audio.multichannel")


def describe_long_audio(
    seconds: float, window_seconds: float, policy: LongAudioPolicy
) -> QualityWarning:
    """Say what becomes of a segment that is longer than the window of the model."""
    what, hint = f"it lasts {seconds:.1f} s", LONG_AUDIO_HINT
    if policy == "split":
        what = f"{what} and is encoded in windows of {window_seconds:g} s"
        hint = SPLIT_SEGMENTS_HINT
    elif policy == "truncate":
        what = f"{what}; what comes after {window_seconds:g} s is left out"
    else:
        what = f"{what}, and the model takes {window_seconds:g} s at once"
    return QualityWarning(what, hint, code="audio.too_long")


def summarize_long_audio(
    durations: Sequence[float], window_seconds: float, policy: LongAudioPolicy
) -> QualityWarning | None:
    """Say the same of all segments, by their lengths in seconds; None where there is none."""
    excess = [seconds - window_seconds for seconds in durations if seconds > window_seconds]
    if not excess or policy == "error":
        return None
    is_plural, hint = len(excess) > 1, LONG_AUDIO_HINT
    what = f"{len(excess):,} clip{'s are' if is_plural else ' is'} longer than {window_seconds:g} s"
    if policy == "split":
        what += f" and {'are' if is_plural else 'is'} encoded in windows"
        hint = SPLIT_SEGMENTS_HINT
    else:
        what += f" and {'lose' if is_plural else 'loses'} {sum(excess):.1f} s of audio"
    return QualityWarning(what, hint, code="audio.too_long")


def check_text_quality(example: Example) -> Iterator[QualityWarning]:
    """Check the text that is trained on for control characters and loops."""
    text = "" if example.target.isprintable() else example.target
    control_chars = [char for char in text if category(char) == "Cc" and char not in "\t\n\r"]
    if control_chars:
        what = f"its text holds a control character ({control_chars[0]!r})"
        yield QualityWarning(what, "take the character out", code="data.control_character")
    phrase = find_repeated_phrase(example.target)
    if phrase is not None:
        what = f'its text repeats itself ("{phrase}")'
        yield QualityWarning(what, "check it against the audio", code="data.repeated_text")


def check_speaking_rate(example: Example, seconds: float) -> Iterator[QualityWarning]:
    """Check whether a transcript can be what is said in so many seconds."""
    if (
        example.task != "transcribe"
        or seconds <= MIN_RATE_CHECK_SECONDS
        or UNSPACED_SCRIPT_RE.search(example.target)
    ):
        return
    words_per_second = len(example.target.split()) / seconds
    if not MIN_WORDS_PER_SECOND <= words_per_second <= MAX_WORDS_PER_SECOND:
        amount = "much" if words_per_second > MAX_WORDS_PER_SECOND else "little"
        what = f"{words_per_second:.1f} words per second: too {amount} text for {seconds:.1f} s"
        hint = "check that the transcript belongs to the audio"
        yield QualityWarning(f"{what} of speech", hint, code="data.speaking_rate")


def find_repeated_phrase(text: str) -> str | None:
    """Return the phrase that a text repeats without a pause, or None."""
    words = text.lower().split()
    if len(words) - len(set(words)) < MIN_REPEATED_WORDS:
        return None
    for length in range(1, MAX_LOOP_PHRASE_WORDS + 1):
        num_repeats = max(MIN_LOOP_REPEATS, -(-MIN_LOOP_WORDS // length))
        needed, run = length * (num_repeats - 1), 0  # words that equal the one a phrase earlier
        for index in range(length, len(words)):
            run = run + 1 if words[index] == words[index - length] else 0
            if run == needed:
                return " ".join(words[index - length + 1 : index + 1])
    return None


def check_script(example: Example) -> Iterator[QualityWarning]:
    """Check the letters of a transcript against its language, and for mixed alphabets."""
    expected = SCRIPTS_BY_LANGUAGE.get((example.language or "").lower(), DEFAULT_SCRIPTS)
    if example.task != "transcribe" or (example.target.isascii() and "LATIN" in expected):
        return
    counts = Counter(letter for letter in example.target if _get_script(letter))
    foreign = {
        letter: count for letter, count in counts.items() if _get_script(letter) not in expected
    }
    if example.language and sum(foreign.values()) > MAX_FOREIGN_FRACTION * counts.total():
        scripts = " and ".join(dict.fromkeys(_format_script(_get_script(char)) for char in foreign))
        language_scripts = " or ".join(map(_format_script, expected))
        what = f"its text is {scripts}, and '{example.language}' is written in {language_scripts}"
        letters = " ".join(list(foreign)[:MAX_LETTERS_SHOWN])
        letters += " ..." if len(foreign) > MAX_LETTERS_SHOWN else ""
        hint = "correct the language or the transcript"
        yield QualityWarning(f"{what} ({letters})", hint, code="data.wrong_script")
    for word in re.findall(r"[^\W\d_]+", example.target):
        letters_by_script = _group_by_script(word)
        mixed = [script for script in letters_by_script if script in CONFUSABLE_SCRIPTS]
        if len(mixed) > 1:
            rarest = min(mixed, key=lambda script: len(letters_by_script[script]))
            letters = "".join(letters_by_script[rarest])
            what = f"the word '{word}' mixes alphabets: '{letters}' is {_format_script(rarest)}"
            yield QualityWarning(what, "write the word in one alphabet", code="data.mixed_scripts")
            return


@lru_cache(maxsize=10_000)
def _get_script(letter: str) -> str:
    """The script of a letter; "" for a sign, a digit, or a script of no language here."""
    if category(letter)[0] != "L":
        return ""
    words = name(letter, "").replace("FULLWIDTH ", "").replace("HALFWIDTH ", "").split()
    return words[0] if words and words[0] in KNOWN_SCRIPTS else ""


def _group_by_script(word: str) -> dict[str, list[str]]:
    letters_by_script: dict[str, list[str]] = {}
    for letter in word:
        letters_by_script.setdefault(_get_script(letter), []).append(letter)
    return letters_by_script


def _format_script(script: str) -> str:
    return {"CJK": "Chinese characters"}.get(script, script.capitalize())

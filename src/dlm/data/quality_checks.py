"""Whether a transcript is written in the letters of its language.

    language   what a clip says it is, by its code of ISO 639-1
    script     what a letter's Unicode name begins with: LATIN, CYRILLIC, CJK

A few foreign letters are names and loan words; many are the wrong language, a wrong encoding or a
transliteration. Letters that only look alike make words that no tokenizer knows.

What is odd about a clip: nothing here stops training, all of it spoils what is learned.

Each remark is (what, mend); audit.py adds the place. Limits stand at the top, with their reasons.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from unicodedata import category, name

from dlm.config.data_schema import LongAudioPolicy
from dlm.data.audio_scan import SILENCE_AMPLITUDE, AudioStats
from dlm.data.types import Example

MAX_FOREIGN_FRACTION = 0.3  # of the letters: more than a name or two
MAX_LETTERS_SHOWN = 5  # letters that a remark names
CONFUSABLE_SCRIPTS = {
    "LATIN",
    "CYRILLIC",
}  # many letters look the same; Greek ones are signs, as in 5 kΩ
DEFAULT_SCRIPTS = ("LATIN",)
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
KNOWN_SCRIPTS = {
    *DEFAULT_SCRIPTS,
    *(script for scripts in SCRIPTS_BY_LANGUAGE.values() for script in scripts),
}


def check_script(example: Example) -> Iterator[tuple[str, str]]:
    """What is odd about the letters of a transcript, and the mend."""
    right = SCRIPTS_BY_LANGUAGE.get((example.language or "").lower(), DEFAULT_SCRIPTS)
    if example.task != "transcribe" or (example.target.isascii() and "LATIN" in right):
        return
    counts = Counter(letter for letter in example.target if get_script(letter))
    foreign = {letter: count for letter, count in counts.items() if get_script(letter) not in right}
    if example.language and sum(foreign.values()) > MAX_FOREIGN_FRACTION * counts.total():
        found = " and ".join(
            dict.fromkeys(_format_script(get_script(letter)) for letter in foreign)
        )
        what = (
            f"its text is {found}, and '{example.language}' is written in {_format_scripts(right)}"
        )
        yield f"{what} ({_format_letters(foreign)})", "mend the language or the transcript"
    for word in re.findall(r"[^\W\d_]+", example.target):
        mixed = [key for key, _ in groupby(filter(None, map(get_script, word)))]
        if len(set(mixed) & CONFUSABLE_SCRIPTS) > 1:
            few = min(
                set(mixed) & CONFUSABLE_SCRIPTS, key=lambda each: _count_script_letters(word, each)
            )
            odd = "".join(letter for letter in word if get_script(letter) == few)
            what = f"the word '{word}' mixes alphabets: '{odd}' is {_format_script(few)}"
            yield what, "write the word in one alphabet"
            return


@lru_cache(maxsize=10_000)
def get_script(letter: str) -> str:
    """The script of a letter; nothing for a sign, a digit, or a script of no language here."""
    if category(letter)[0] != "L":
        return ""
    words = name(letter, "").replace("FULLWIDTH ", "").replace("HALFWIDTH ", "").split()
    return words[0] if words and words[0] in KNOWN_SCRIPTS else ""


def _count_script_letters(word: str, script: str) -> int:
    return sum(get_script(letter) == script for letter in word)


def _format_script(script: str) -> str:
    return {"CJK": "Chinese characters"}.get(script, script.capitalize())


def _format_scripts(scripts: tuple[str, ...]) -> str:
    return " or ".join(map(_format_script, scripts))


def _format_letters(letters: dict[str, int]) -> str:
    return " ".join(list(letters)[:MAX_LETTERS_SHOWN]) + (
        " ..." if len(letters) > MAX_LETTERS_SHOWN else ""
    )


MIN_EXAMPLE_AUDIO_SECONDS = 0.1  # shorter than a vowel
MAX_CLIPPED_FRACTION = 0.001
MAX_DC_OFFSET = 0.02  # of full scale: beyond what a sound card adds
MAX_WORDS_PER_SECOND, MIN_WORDS_PER_SECOND = 6.0, 0.3  # words per second; fast speech has 4
MIN_RATE_CHECK_SECONDS = 2.0  # shorter clips may hold any number of words
MIN_LOOP_WORDS, MIN_LOOP_REPEATS, MAX_LOOP_PHRASE_WORDS = (
    8,
    3,
    12,
)  # "thank you thank you thank you thank you"
MIN_REPEATED_WORDS = 6  # words said before, in the shortest loop: "he said he said he said he said"
UNSPACED_SCRIPT_RE = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]"
)

SPLIT_SEGMENTS_HINT = "nothing to do, or give spans with start and end"
LONG_AUDIO_HINT = "give spans with start and end, or set training.audio.long_clips: split"

QualityWarning = tuple[str, str]


def check_audio_quality(stats: AudioStats) -> Iterator[QualityWarning]:
    """What is odd about a sound."""
    if stats.channel_peak < SILENCE_AMPLITUDE:
        yield "it is silent (below -60 dBFS)", "record it again or take the clip out"
    elif stats.peak < SILENCE_AMPLITUDE:
        mend = "keep one of them: `ffmpeg -i in.wav -af 'pan=mono|c0=c0' out.wav`"
        yield "its channels cancel out when mixed to mono", mend
    if stats.clipped_fraction > MAX_CLIPPED_FRACTION:
        what = f"{stats.clipped_fraction:.1%} of its samples are clipped at full scale"
        yield what, "record it again at a lower level"
    if abs(stats.dc_offset) > MAX_DC_OFFSET:
        what = f"it is off centre by {abs(stats.dc_offset):.1%} of full scale (DC offset)"
        yield what, "filter it: `ffmpeg -i in.wav -af highpass=f=20 out.wav`"
    if stats.num_channels > 1:
        yield (
            f"its {stats.num_channels} channels are mixed to mono",
            "nothing to do if that is meant",
        )


def describe_long_audio(
    seconds: float, window_seconds: float, policy: LongAudioPolicy
) -> QualityWarning:
    """What becomes of a sound that is longer than the base hears at once."""
    told = f"it lasts {seconds:.1f} s"
    if policy == "split":
        return f"{told} and is heard in windows of {window_seconds:g} s", SPLIT_SEGMENTS_HINT
    if policy == "truncate":
        return f"{told}; what comes after {window_seconds:g} s is left out", LONG_AUDIO_HINT
    return f"{told}, and the base hears {window_seconds:g} s at once", LONG_AUDIO_HINT


def summarize_long_audio(
    durations: Sequence[float], window_seconds: float, policy: LongAudioPolicy
) -> QualityWarning | None:
    """The same of all sounds together, by their seconds; None where there is nothing to say."""
    over = [seconds - window_seconds for seconds in durations if seconds > window_seconds]
    if not over or policy == "error":
        return None
    many = len(over) > 1
    what = f"{len(over):,} clip{'s are' if many else ' is'} longer than {window_seconds:g} s and "
    if policy == "split":
        return f"{what}{'are' if many else 'is'} heard in windows", SPLIT_SEGMENTS_HINT
    return f"{what}{'lose' if many else 'loses'} {sum(over):.1f} s of sound", LONG_AUDIO_HINT


def check_text_quality(example: Example) -> Iterator[QualityWarning]:
    """What is odd about the words to be learned."""
    text = "" if example.target.isprintable() else example.target
    odd = [letter for letter in text if category(letter) == "Cc" and letter not in "\t\n\r"]
    if odd:
        yield f"its text holds a control character ({odd[0]!r})", "take the character out"
    loop = find_repeated_phrase(example.target)
    if loop is not None:
        yield f'its text repeats itself ("{loop}")', "check it against the sound"


def check_speaking_rate(example: Example, seconds: float) -> Iterator[QualityWarning]:
    """Whether a transcript can be what is said in so many seconds."""
    if (
        example.task != "transcribe"
        or seconds <= MIN_RATE_CHECK_SECONDS
        or UNSPACED_SCRIPT_RE.search(example.target)
    ):
        return
    pace = len(example.target.split()) / seconds
    if not MIN_WORDS_PER_SECOND <= pace <= MAX_WORDS_PER_SECOND:
        few = "much" if pace > MAX_WORDS_PER_SECOND else "little"
        what = f"{pace:.1f} words per second: too {few} text for {seconds:.1f} s of speech"
        yield what, "check that transcript and sound belong together"


def find_repeated_phrase(text: str) -> str | None:
    """The phrase that follows itself again and again, if there is one."""
    words = text.lower().split()
    if len(words) - len(set(words)) < MIN_REPEATED_WORDS:
        return None
    for length in range(1, MAX_LOOP_PHRASE_WORDS + 1):
        turns = max(MIN_LOOP_REPEATS, -(-MIN_LOOP_WORDS // length))
        needed, run = length * (turns - 1), 0  # words that equal the one a phrase earlier
        for place in range(length, len(words)):
            run = run + 1 if words[place] == words[place - length] else 0
            if run == needed:
                return " ".join(words[place - length + 1 : place + 1])
    return None

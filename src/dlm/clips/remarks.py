"""What is odd about a clip: nothing here stops training, all of it spoils what is learned.

Each remark is (what, mend); audit.py adds the place. Limits stand at the top, with their reasons.
"""

import re
from collections.abc import Iterator, Sequence
from unicodedata import category

from dlm.clips.clip import Clip
from dlm.clips.measure import SILENT_LEVEL, SoundFacts
from dlm.document.intake import LongClips

SHORTEST_SECONDS = 0.1  # shorter than a vowel
CLIPPED_SHARE = 0.001
OFFSET = 0.02  # of full scale: beyond what a sound card adds
FASTEST, SLOWEST = 6.0, 0.3  # words per second; fast speech has 4
SPEECH_SECONDS = 2.0  # shorter clips may hold any number of words
LOOP_WORDS, LOOP_TURNS, LOOP_LONGEST = 8, 3, 12  # "thank you thank you thank you thank you"
LOOP_LEAST = 6  # words said before, in the shortest loop: "he said he said he said he said"
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")

SPANS = "nothing to do, or give spans with start and end"
UNCUT = "give spans with start and end, or set training.audio.long_clips: split"

Remark = tuple[str, str]


def sound_remarks(facts: SoundFacts) -> Iterator[Remark]:
    """What is odd about a sound."""
    if facts.loudest_channel < SILENT_LEVEL:
        yield "it is silent (below -60 dBFS)", "record it again or take the clip out"
    elif facts.peak < SILENT_LEVEL:
        mend = "keep one of them: `ffmpeg -i in.wav -af 'pan=mono|c0=c0' out.wav`"
        yield "its channels cancel out when mixed to mono", mend
    if facts.clipped_share > CLIPPED_SHARE:
        what = f"{facts.clipped_share:.1%} of its samples are clipped at full scale"
        yield what, "record it again at a lower level"
    if abs(facts.offset) > OFFSET:
        what = f"it is off centre by {abs(facts.offset):.1%} of full scale (DC offset)"
        yield what, "filter it: `ffmpeg -i in.wav -af highpass=f=20 out.wav`"
    if facts.channels > 1:
        yield f"its {facts.channels} channels are mixed to mono", "nothing to do if that is meant"


def long_remark(seconds: float, window_seconds: float, policy: LongClips) -> Remark:
    """What becomes of a sound that is longer than the base hears at once."""
    told = f"it lasts {seconds:.1f} s"
    if policy == "split":
        return f"{told} and is heard in windows of {window_seconds:g} s", SPANS
    if policy == "truncate":
        return f"{told}; what comes after {window_seconds:g} s is left out", UNCUT
    return f"{told}, and the base hears {window_seconds:g} s at once", UNCUT


def long_sum(lasting: Sequence[float], window_seconds: float, policy: LongClips) -> Remark | None:
    """The same of all sounds together, by their seconds; None where there is nothing to say."""
    over = [seconds - window_seconds for seconds in lasting if seconds > window_seconds]
    if not over or policy == "error":
        return None
    many = len(over) > 1
    what = f"{len(over):,} clip{'s are' if many else ' is'} longer than {window_seconds:g} s and "
    if policy == "split":
        return f"{what}{'are' if many else 'is'} heard in windows", SPANS
    return f"{what}{'lose' if many else 'loses'} {sum(over):.1f} s of sound", UNCUT


def text_remarks(clip: Clip) -> Iterator[Remark]:
    """What is odd about the words to be learned."""
    text = "" if clip.target.isprintable() else clip.target
    odd = [letter for letter in text if category(letter) == "Cc" and letter not in "\t\n\r"]
    if odd:
        yield f"its text holds a control character ({odd[0]!r})", "take the character out"
    loop = repeated(clip.target)
    if loop is not None:
        yield f'its text repeats itself ("{loop}")', "check it against the sound"


def pace_remarks(clip: Clip, seconds: float) -> Iterator[Remark]:
    """Whether a transcript can be what is said in so many seconds."""
    if clip.task != "transcribe" or seconds <= SPEECH_SECONDS or UNSPACED.search(clip.target):
        return
    pace = len(clip.target.split()) / seconds
    if not SLOWEST <= pace <= FASTEST:
        few = "much" if pace > FASTEST else "little"
        what = f"{pace:.1f} words per second: too {few} text for {seconds:.1f} s of speech"
        yield what, "check that transcript and sound belong together"


def repeated(text: str) -> str | None:
    """The phrase that follows itself again and again, if there is one."""
    words = text.lower().split()
    if len(words) - len(set(words)) < LOOP_LEAST:
        return None
    for length in range(1, LOOP_LONGEST + 1):
        turns = max(LOOP_TURNS, -(-LOOP_WORDS // length))
        needed, run = length * (turns - 1), 0  # words that equal the one a phrase earlier
        for place in range(length, len(words)):
            run = run + 1 if words[place] == words[place - length] else 0
            if run == needed:
                return " ".join(words[place - length + 1 : place + 1])
    return None

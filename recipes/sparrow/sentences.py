"""Everyday English sentences from a grammar, and lists of random words.

`grammar.txt` has the rules: a name at the margin, its templates indented below. A `{slot}` is
another rule, a word list of word_lists.py, or a verb group in one of its forms (`{food_past}` is
the past tense of a verb that takes food). Which sentence comes next cannot be predicted, so a model
cannot do without the audio.
"""

import random
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import word_lists

WORD_LIST_PROBABILITY = 0.12
MIN_WORDS, MAX_WORDS = 3, 12  # of a sentence
VOWELS = "aeiou"
CONSONANT_SOUND = ("university", "uniform", "useful", "useless", "european", "one")  # "a", not "an"
VOWEL_SOUND = ("honest", "hour")  # "an", not "a"
DOUBLED_CONSONANT = (
    "run swim stop plan rob hug drop shop wrap beg get sit cut put hit win forget begin prefer"
)
QUESTION_WORDS = (
    "what where when why who whose which how do does did is are was were can could will would "
    "should have has may shall isn't don't doesn't didn't can't won't"
)
SLOT_RE = re.compile(r"\{(\w+)\}")


def _read_grammar(path: Path) -> dict[str, list[str]]:
    rules: dict[str, list[str]] = {}
    templates: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):
            templates.append(line.strip())
        else:
            templates = rules.setdefault(line.strip(), [])
    return rules


RULES = _read_grammar(Path(__file__).with_name("grammar.txt"))


def iter_sentences(seed: int) -> Iterator[str]:
    """Yield sentences and word lists without end and without repetition, the same for a seed."""
    rng = random.Random(seed)
    seen: set[str] = set()
    while True:
        is_word_list = rng.random() < WORD_LIST_PROBABILITY
        text = make_word_list(rng) if is_word_list else make_sentence(rng)
        if text not in seen:
            seen.add(text)
            yield text


def make_sentence(rng: random.Random) -> str:
    """Make a sentence of the grammar."""
    while True:
        sentence = _clean_sentence(_expand_template(rng.choice(RULES["sentence"]), rng))
        if MIN_WORDS <= len(sentence.split()) <= MAX_WORDS:
            return sentence


def make_word_list(rng: random.Random) -> str:
    """Make a list of three to six unrelated words."""
    return " ".join(rng.sample(list_vocabulary(), rng.randint(3, 6)))


def add_punctuation(transcript: str) -> str:
    """Add the final mark, which speech engines need for the intonation."""
    is_question = transcript.split()[0] in QUESTION_WORDS.split()
    return transcript + ("?" if is_question else ".")


@cache
def list_vocabulary() -> list[str]:
    """Return every single word that the grammar can write, sorted."""
    texts = [
        value
        for name, value in vars(word_lists).items()
        if name[0].isupper() and isinstance(value, str)
    ]
    templates = [SLOT_RE.sub(" ", template) for rule in RULES.values() for template in rule]
    words = {word for text in texts + templates for word in text.replace("_", " ").split()}
    for group in word_lists.VERBS:
        for form in ("base", "s", "past", "ing", "done"):
            words.update(_list_verbs(group, form))
    return sorted(word for word in words if re.fullmatch(r"[a-z][a-z']*", word))


def inflect_verb(verb: str, form: str) -> str:
    """Return a form of a verb: "base", "s", "past", "ing" or "done" (the past participle)."""
    if form == "base":
        return verb
    if form == "s":
        return _make_third_person(verb)
    if form == "ing":
        return _make_stem(verb, "ing") + "ing"
    past, participle = word_lists.IRREGULAR_VERBS.get(verb, (_make_stem(verb, "ed") + "ed",) * 2)
    return past if form == "past" else participle


def _make_third_person(verb: str) -> str:
    if verb == "have":
        return "has"
    if verb.endswith("y") and verb[-2] not in VOWELS:
        return verb[:-1] + "ies"
    return verb + ("es" if verb.endswith(("s", "sh", "ch", "x", "o")) else "s")


def _make_stem(verb: str, ending: str) -> str:
    """Return the verb as it is written before `ing` or `ed`."""
    if verb == "lie":
        return "ly"
    if verb in DOUBLED_CONSONANT.split():
        return verb + verb[-1]
    if verb.endswith("e") and not verb.endswith("ee"):
        return verb[:-1]
    if ending == "ed" and verb.endswith("y") and verb[-2] not in VOWELS:
        return verb[:-1] + "i"
    return verb + ("l" if verb == "travel" else "")


@cache
def _list_verbs(group: str, form: str) -> list[str]:
    return [inflect_verb(verb, form) for verb in word_lists.VERBS[group].split()]


def _expand_template(template: str, rng: random.Random) -> str:
    """Fill every slot, and the slots in what fills it."""
    return SLOT_RE.sub(lambda match: _expand_template(_fill_slot(match[1], rng), rng), template)


def _fill_slot(slot: str, rng: random.Random) -> str:
    """Draw a template of a rule, a verb in its form, or a word of a list."""
    if slot in RULES:
        return rng.choice(RULES[slot])
    group, _, form = slot.rpartition("_")
    if group in word_lists.VERBS:
        return rng.choice(_list_verbs(group, form))
    return rng.choice(_sort_word_list(slot))


@cache
def _sort_word_list(slot: str) -> list[str]:
    return sorted(set(vars(word_lists)[slot.upper()].split()))


def _clean_sentence(text: str) -> str:
    """Replace underscores, join spaces and choose "a" or "an"."""
    words: list[str] = []
    for word in text.replace("_", " ").split():
        has_vowel_sound = word[0] in VOWELS and word not in CONSONANT_SOUND or word in VOWEL_SOUND
        if words and words[-1] == "a" and has_vowel_sound:
            words[-1] = "an"
        words.append(word)
    return " ".join(words)

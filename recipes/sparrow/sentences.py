"""English sentences for training: WordNet's examples, a grammar, random words, spelled text.

    wordnet    the examples of WordNet 3.0 (Miller 1995), which show how each word is used
    grammar    everyday sentences: `grammar.txt` has the rules, a name at the margin, its templates
               indented below; a `{slot}` is another rule, a word list of word_lists.py, or a verb
               group in one of its forms (`{food_past}` is the past tense of a verb that takes food)
    words      unrelated words, most of them WordNet's
    spelled    digits and letters one by one, and numbers

Which sentence comes next cannot be predicted, so a model cannot do without the audio. WordNet is
Debian's package wordnet-base; text is lower case, without punctuation but apostrophes.
"""

import random
import re
import string
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import word_lists

SOURCE_WEIGHTS = {"wordnet": 0.58, "grammar": 0.26, "words": 0.08, "spelled": 0.08}
WORDNET_DIR = Path("/usr/share/wordnet")
WORDNET_WORD_PROBABILITY = 0.75  # that a random word is WordNet's
MAX_WORDNET_WORD_LETTERS = 11
MIN_WORDS, MAX_WORDS = 1, 12  # of a sentence
MAX_GLOSS_WORDS = 16
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
EXAMPLE_RE = re.compile(r'"([^"]+)"')  # in a gloss of WordNet
PUNCTUATION_RE = re.compile(r"[,;:.!?()`\"]+|-|(?<![a-z])'|'(?![a-z])|'(?=s\b)(?<=s')")


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
    """Yield texts of every source without end and without repetition, the same for a seed.

    An example of WordNet comes once; when they are used up, the grammar takes their part.
    """
    rng = random.Random(seed)
    examples = list(list_wordnet_texts()[0])
    rng.shuffle(examples)
    seen: set[str] = set()
    while True:
        (source,) = rng.choices(list(SOURCE_WEIGHTS), SOURCE_WEIGHTS.values())
        if source == "wordnet" and examples:
            text = examples.pop()
        elif source == "words":
            text = make_word_list(rng)
        elif source == "spelled":
            text = make_spelled_text(rng)
        else:
            text = make_sentence(rng)
        if text not in seen:
            seen.add(text)
            yield text


@cache
def list_wordnet_texts() -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return WordNet's examples, its definitions and its single words, each sorted.

    Raises:
        FileNotFoundError: WordNet is not installed.
    """
    examples, definitions, words = set[str](), set[str](), set[str]()
    for part in ("noun", "verb", "adj", "adv"):
        for line in (WORDNET_DIR / f"data.{part}").read_text(encoding="latin-1").splitlines():
            if line.startswith(" "):  # the license
                continue
            fields, _, gloss = line.partition(" | ")
            examples.update(normalize_text(text) for text in EXAMPLE_RE.findall(gloss))
            definitions.update(map(normalize_text, EXAMPLE_RE.sub("", gloss).split(";")))
            name = fields.split()[4].lower()
            if name.isascii() and name.isalpha() and len(name) <= MAX_WORDNET_WORD_LETTERS:
                words.add(name)
    return (
        tuple(sorted(text for text in examples if 1 < len(text.split()) <= MAX_WORDS)),
        tuple(sorted(text for text in definitions if 1 < len(text.split()) <= MAX_GLOSS_WORDS)),
        tuple(sorted(words)),
    )


def normalize_text(text: str) -> str:
    """Return a text in lower case without punctuation; empty if it has more than letters."""
    text = " ".join(PUNCTUATION_RE.sub(" ", text.lower()).split())
    return text if re.fullmatch(r"[a-z' ]*", text) else ""


def make_sentence(rng: random.Random) -> str:
    """Make a sentence of the grammar."""
    while True:
        sentence = _clean_sentence(_expand_template(rng.choice(RULES["sentence"]), rng))
        if MIN_WORDS <= len(sentence.split()) <= MAX_WORDS:
            return sentence


def make_word_list(rng: random.Random) -> str:
    """Make a list of one to five unrelated words."""
    words = []
    for _ in range(rng.randint(1, 5)):
        is_rare = rng.random() < WORDNET_WORD_PROBABILITY
        words.append(rng.choice(list_wordnet_texts()[2] if is_rare else list_vocabulary()))
    return " ".join(words)


def make_spelled_text(rng: random.Random) -> str:
    """Make digits or letters one by one, or a number."""
    kind = rng.random()
    if kind < 0.4:
        digits = ["oh", *word_lists.NUMBERS.split()[:9], "zero"]
        return " ".join(rng.choice(digits) for _ in range(rng.randint(2, 7)))
    if kind < 0.7:
        return " ".join(rng.sample(string.ascii_lowercase, rng.randint(2, 5)))
    number = rng.randrange(10 ** rng.randint(2, 6))
    return _spell_number(number) + rng.choice(("", "", " point five", " percent", " dollars"))


def _spell_number(number: int) -> str:
    """The English words of a number below a million."""
    names = ("zero", *word_lists.NUMBERS.split())
    if number < 20:
        return names[number]
    if number < 100:
        unit = f" {names[number % 10]}" if number % 10 else ""
        return word_lists.TENS.split()[number // 10 - 2] + unit
    size, name = (1_000, "thousand") if number >= 1_000 else (100, "hundred")
    rest = f" {_spell_number(number % size)}" if number % size else ""
    return f"{_spell_number(number // size)} {name}{rest}"


def add_punctuation(transcript: str) -> str:
    """Return what a speech engine is given: with the final mark, which gives the intonation.

    Letters that are spelled are capitals, which engines read by their names.
    """
    words = transcript.split()
    if len(words) > 1 and all(len(word) == 1 for word in words):
        return ", ".join(words).upper() + "."
    mark = "?" if words[0] in QUESTION_WORDS.split() else "."
    return transcript[:1].upper() + re.sub(r"\bi\b", "I", transcript[1:]) + mark


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

"""Whole everyday sentences from a small grammar, and short lists of random words.

`grammar.txt` holds the rules: a name at the margin, its templates indented below. A `{slot}` is
another rule, a word list of `words.py`, or a verb group in one of its forms (`{food_past}` is any
past tense of the verbs that take food). What a sentence says is plain, but which one comes next
cannot be guessed, so a model has to listen.
"""

import random
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import words

WORD_LIST_SHARE = 0.12
SHORTEST, LONGEST = 3, 12  # words in a sentence
VOWELS = "aeiou"
HARD_A = ("university", "uniform", "useful", "useless", "european")  # "a", in spite of the vowel
SOFT_AN = ("honest", "hour")
DOUBLING = (
    "run swim stop plan rob hug drop shop wrap beg get sit cut put hit win forget begin prefer"
)
QUESTION_WORDS = (
    "what where when why who whose which how do does did is are was were can could will would "
    "should have has may shall isn't don't doesn't didn't can't won't"
)
SLOT = re.compile(r"\{(\w+)\}")


def sentences(seed: int) -> Iterator[str]:
    """An endless stream of sentences without a repetition, the same for the same seed."""
    chance = random.Random(seed)
    seen: set[str] = set()
    while True:
        listed = chance.random() < WORD_LIST_SHARE
        made = word_list(chance) if listed else sentence(chance)
        if made not in seen:
            seen.add(made)
            yield made


def sentence(chance: random.Random) -> str:
    """One sentence of the grammar."""
    while True:
        made = _polish(_expand(chance.choice(RULES["sentence"]), chance))
        if SHORTEST <= len(made.split()) <= LONGEST:
            return made


def word_list(chance: random.Random) -> str:
    """Three to six words that have nothing to do with one another."""
    return " ".join(chance.sample(vocabulary(), chance.randint(3, 6)))


def spoken(transcript: str) -> str:
    """The transcript as a speech engine should read it, with its closing mark."""
    asks = transcript.split()[0] in QUESTION_WORDS.split()
    return transcript + ("?" if asks else ".")


@cache
def vocabulary() -> list[str]:
    """Every single word that the grammar can say, sorted."""
    lists = [
        value for name, value in vars(words).items() if name[0].isupper() and type(value) is str
    ]
    found = {word for text in lists for word in text.replace("_", " ").split()}
    for rule in (template for templates in RULES.values() for template in templates):
        found.update(SLOT.sub(" ", rule).replace("_", " ").split())
    for name in words.VERBS:
        for form in ("base", "s", "past", "ing", "done"):
            found.update(_verbs(name, form))
    return sorted(word for word in found if re.fullmatch(r"[a-z][a-z']*", word))


def inflect(base: str, form: str) -> str:
    """`base` as "base", "s", "past", "ing" or "done" (the past participle)."""
    if form == "base":
        return base
    if form == "s":
        return _third_person(base)
    if form == "ing":
        return _stem(base, "ing") + "ing"
    past, done = words.IRREGULAR.get(base, (_stem(base, "ed") + "ed",) * 2)
    return past if form == "past" else done


def _third_person(base: str) -> str:
    if base == "have":
        return "has"
    if base.endswith("y") and base[-2] not in VOWELS:
        return base[:-1] + "ies"
    return base + ("es" if base.endswith(("s", "sh", "ch", "x", "o")) else "s")


def _stem(base: str, ending: str) -> str:
    """`base` as it stands before `ing` or `ed`."""
    if base == "lie":
        return "ly"
    if base in DOUBLING.split():
        return base + base[-1]
    if base.endswith("e") and not base.endswith("ee"):
        return base[:-1]
    if ending == "ed" and base.endswith("y") and base[-2] not in VOWELS:
        return base[:-1] + "i"
    return base + ("l" if base == "travel" else "")


@cache
def _verbs(name: str, form: str) -> list[str]:
    return [inflect(base, form) for base in words.VERBS[name].split()]


def _expand(rule: str, chance: random.Random) -> str:
    """`rule` with every slot filled, inside out."""
    return SLOT.sub(lambda match: _expand(_pick(match[1], chance), chance), rule)


def _pick(slot: str, chance: random.Random) -> str:
    """One filling: a rule, `verb_form`, or a word of the list of that name."""
    if slot in RULES:
        return chance.choice(RULES[slot])
    group, _, form = slot.rpartition("_")
    if group in words.VERBS:
        return chance.choice(_verbs(group, form))
    return chance.choice(_list(slot))


@cache
def _list(slot: str) -> list[str]:
    return sorted(set(vars(words)[slot.upper()].split()))


def _polish(text: str) -> str:
    """Underscores opened, blanks joined and "a" or "an" chosen."""
    out: list[str] = []
    for word in text.replace("_", " ").split():
        if out and out[-1] == "a" and _takes_an(word):
            out[-1] = "an"
        out.append(word)
    return " ".join(out)


def _takes_an(word: str) -> bool:
    return (word[0] in VOWELS and word not in HARD_A and word != "one") or word in SOFT_AN


def _rules(source: str) -> dict[str, list[str]]:
    rules: dict[str, list[str]] = {}
    templates: list[str] = []
    for line in source.splitlines():
        if line.startswith(" "):
            templates.append(line.strip())
        else:
            templates = rules.setdefault(line.strip(), [])
    return rules


RULES = _rules((Path(__file__).parent / "grammar.txt").read_text(encoding="utf-8"))

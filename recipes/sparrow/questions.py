"""Questions about a clip whose answers its manifest line knows, in several phrasings."""

import random
from collections.abc import Callable

PROMPT = "Transcribe the audio."
COUNTS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty"
)
PHRASINGS = {
    "count": (
        "How many words are said?",
        "How many words do you hear?",
        "Count the words.",
        "What is the number of words in the audio?",
    ),
    "first": (
        "What is the first word?",
        "Which word comes first?",
        "Which word does the speaker begin with?",
    ),
    "last": (
        "What is the last word?",
        "Which word comes last?",
        "Which word does the speaker end with?",
    ),
    "gender": (
        "Is the voice male or female?",
        "Is the speaker a man or a woman?",
        "Who is speaking, a man or a woman?",
    ),
    "pace": (
        "Is the speech slow, normal or fast?",
        "How fast does the speaker talk?",
        "What is the pace of the voice?",
    ),
    "accent": (
        "Which accent does the speaker have?",
        "What accent do you hear?",
        "Where is the accent from?",
    ),
}
ANSWERS: dict[str, Callable[[dict[str, str]], str]] = {
    "count": lambda line: _number(len(line["text"].split())),
    "first": lambda line: line["text"].split()[0],
    "last": lambda line: line["text"].split()[-1],
    "gender": lambda line: line["gender"],
    "pace": lambda line: line["pace"],
    "accent": lambda line: line["accent"],
}


def questions(line: dict[str, str], *, seed: int) -> list[tuple[str, str]]:
    """One (question, answer) of every kind for a manifest line, each phrased at random."""
    chance = random.Random(f"{seed}:{line['path']}")
    return [(chance.choice(PHRASINGS[kind]), answer(line)) for kind, answer in ANSWERS.items()]


def ask(line: dict[str, str], *, seed: int) -> tuple[str, str]:
    """One (question, answer) of a random kind for a manifest line."""
    return random.Random(f"{seed}:ask:{line['path']}").choice(questions(line, seed=seed))


def _number(count: int) -> str:
    numbers = COUNTS.split()
    return numbers[count] if count < len(numbers) else str(count)

"""Examples of synthesized clips: transcriptions, and questions that the manifest answers."""

import random
from collections.abc import Callable
from pathlib import Path

from dlm.data.types import AudioSegment, Example, Message, Recording
from synthesize_speech import ManifestRow

TRANSCRIBE_PROMPT = "Transcribe the audio."
NUMBER_WORDS = (
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
ANSWERS: dict[str, Callable[[ManifestRow], str]] = {
    "count": lambda row: _spell_number(len(row["text"].split())),
    "first": lambda row: row["text"].split()[0],
    "last": lambda row: row["text"].split()[-1],
    "gender": lambda row: row["gender"],
    "pace": lambda row: row["pace"],
    "accent": lambda row: row["accent"],
}


def make_questions(row: ManifestRow, *, seed: int) -> list[tuple[str, str]]:
    """Return a question of every kind with its answer, each in a random phrasing."""
    rng = random.Random(f"{seed}:{row['path']}")
    return [(rng.choice(PHRASINGS[kind]), answer_fn(row)) for kind, answer_fn in ANSWERS.items()]


def can_be_asked(row: ManifestRow) -> bool:
    """Whether every question has an answer: one clip, with words and a voice."""
    return bool(row["text"]) and len(row.get("clips", ())) == 1


def draw_question(row: ManifestRow, *, seed: int) -> tuple[str, str]:
    """Return a question of a random kind with its answer."""
    rng = random.Random(f"{seed}:ask:{row['path']}")
    return rng.choice(make_questions(row, seed=seed))


def make_example(
    work_dir: Path,
    row: ManifestRow,
    answer: str,
    question: str = "",
    *,
    recording: Recording | None = None,
) -> Example:
    """Make an example of the clip, the question if there is one, and the answer."""
    segment = AudioSegment(work_dir / row["path"], recording=recording)
    user = Message("user", (segment, question) if question else (segment,))
    return Example((user, Message("assistant", (answer,))), row["path"], "transcribe")


def _spell_number(number: int) -> str:
    words = NUMBER_WORDS.split()
    return words[number] if number < len(words) else str(number)

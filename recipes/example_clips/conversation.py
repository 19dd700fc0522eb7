"""Make the clips of examples/conversation.dlm: spoken questions, and their answers in text.

    python recipes/example_clips/conversation.py examples/conversation

needs espeak-ng, and writes `wavs/question_1.ogg` and so on, `talk.json` with conversations about
the first six, and `flat.json` with the transcripts of the others.
"""

import json
import sys
from pathlib import Path

from espeak import write_speech

QUESTIONS = (  # spoken question, answer
    ("Where is the nearest bakery?", "Around the corner, beside the post office."),
    ("How long does the soup have to cook?", "Twenty minutes, with the lid on."),
    ("Which bus goes to the harbour?", "The number twelve, every quarter of an hour."),
    ("Can you turn the lamp off?", "Yes, the lamp is off now."),
    ("What should I wear today?", "A coat: it will rain after noon."),
    ("Who wrote the letter on the table?", "Your aunt did; it came this morning."),
    ("When does the library close?", "At eight in the evening, and at two on Saturdays."),
    ("Is there any milk left?", "Half a litre, enough for breakfast."),
)
NUM_IN_CONVERSATIONS = 6


def make_clips(out_dir: Path) -> None:
    """Synthesize every question, and write both lists."""
    (out_dir / "wavs").mkdir(parents=True, exist_ok=True)
    paths = [f"wavs/question_{number}.ogg" for number in range(1, len(QUESTIONS) + 1)]
    tags = [f"<audio>{path}</audio>" for path in paths]
    for path, (question, _) in zip(paths, QUESTIONS, strict=True):
        write_speech(out_dir / path, question, "en")
    conversations = [
        make_conversation((tag, answer))
        for tag, (_, answer) in zip(tags[:NUM_IN_CONVERSATIONS], QUESTIONS, strict=False)
    ]
    for index in range(0, NUM_IN_CONVERSATIONS, 2):
        (question, answer), (next_question, _) = QUESTIONS[index : index + 2]
        tag, next_tag = tags[index : index + 2]
        conversations += [
            make_conversation((f"{tag}{next_tag} What does the second voice ask?", next_question)),
            make_conversation(
                (tag, answer), (f"{next_tag} Is that what I asked before?", f"No: {question}")
            ),
        ]
    transcripts = [
        {"audio": path, "text": question, "prompt": "Write down what is said."}
        for path, (question, _) in list(zip(paths, QUESTIONS, strict=True))[NUM_IN_CONVERSATIONS:]
    ]
    for name, rows in (("talk.json", conversations), ("flat.json", transcripts)):
        text = json.dumps(rows, ensure_ascii=False, indent=1)
        (out_dir / name).write_text(text + "\n", encoding="utf-8")


def make_conversation(*exchanges: tuple[str, str]) -> dict[str, list[dict[str, str]]]:
    """Make a conversation of pairs of a question and an answer."""
    messages = []
    for question, answer in exchanges:
        messages += [{"from": "user", "value": question}, {"from": "assistant", "value": answer}]
    return {"conversations": messages}


if __name__ == "__main__":
    make_clips(Path(sys.argv[1]))

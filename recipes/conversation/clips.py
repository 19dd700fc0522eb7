"""The clips of examples/conversation.dlm: questions, spoken, and what is answered to them.

    python recipes/conversation/clips.py examples/conversation

needs espeak-ng, and writes `wavs/question_1.ogg` onwards beside `talk.json`, where they are talked
about, and `flat.json`, where they are only written down.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import soxr

RATE = 16_000
PEAK = 0.9
WORDS_PER_MINUTE = 160
TALKS = (  # what is heard, and what is answered
    ("Where is the nearest bakery?", "Around the corner, beside the post office."),
    ("How long does the soup have to cook?", "Twenty minutes, with the lid on."),
    ("Which bus goes to the harbour?", "The number twelve, every quarter of an hour."),
    ("Can you turn the lamp off?", "Yes, the lamp is off now."),
    ("What should I wear today?", "A coat: it will rain after noon."),
    ("Who wrote the letter on the table?", "Your aunt did; it came this morning."),
    ("When does the library close?", "At eight in the evening, and at two on Saturdays."),
    ("Is there any milk left?", "Half a litre, enough for breakfast."),
)
TALKED = 6  # the recordings before this one are talked about, the others written down


def make_clips(out: Path) -> None:
    """Speak every question and write both lists."""
    (out / "wavs").mkdir(parents=True, exist_ok=True)
    clips = []
    for number, (question, answer) in enumerate(TALKS, start=1):
        name = f"wavs/question_{number}.ogg"
        soundfile.write(out / name, spoken(question), RATE)
        clips.append((f"<audio>{name}</audio>", name, question, answer))
    talks = [talk((tag, answer)) for tag, _, _, answer in clips[:TALKED]]
    for (one, _, first, answer), (two, _, second, _) in zip(
        clips[0:TALKED:2], clips[1:TALKED:2], strict=True
    ):
        talks.append(talk((f"{one}{two} What does the second voice ask?", second)))
        talks.append(talk((one, answer), (f"{two} Is that what I asked before?", f"No: {first}")))
    flat = [
        {"audio": name, "text": question, "prompt": "Write down what is said."}
        for _, name, question, _ in clips[TALKED:]
    ]
    for file, rows in (("talk.json", talks), ("flat.json", flat)):
        text = json.dumps(rows, ensure_ascii=False, indent=1)
        (out / file).write_text(text + "\n", encoding="utf-8")


def talk(*pairs: tuple[str, str]) -> dict[str, list[dict[str, str]]]:
    """Turns, in turn."""
    turns = []
    for asked, said in pairs:
        turns += [{"from": "user", "value": asked}, {"from": "assistant", "value": said}]
    return {"conversations": turns}


def spoken(text: str) -> np.ndarray:
    """`text` as float32 at 16 kHz."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        pace = ["-s", str(WORDS_PER_MINUTE)]
        subprocess.run(["espeak-ng", "-v", "en", *pace, "-w", file.name, text], check=True)
        samples, rate = soundfile.read(file.name, dtype="float32")
    resampled: np.ndarray = soxr.resample(samples, rate, RATE)
    return resampled * (PEAK / np.abs(resampled).max())


if __name__ == "__main__":
    make_clips(Path(sys.argv[1]))

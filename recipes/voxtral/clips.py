"""The clips of examples/voxtral.dlm: two sentences in each language that Voxtral was made for.

    python recipes/voxtral/clips.py examples/voxtral

needs espeak-ng, and writes `wavs/en_1.ogg` onwards beside `data.jsonl`, a line for each; and
`parcel.ogg`, which the document writes out itself.
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
SENTENCES = {
    "en": ("The kettle is on the blue shelf.", "Please read my last message aloud."),
    "fr": ("Le train part à sept heures.", "Ouvre la fenêtre de la cuisine."),
    "de": ("Der Schlüssel liegt unter der Matte.", "Morgen fahren wir an den See."),
    "es": ("La farmacia cierra a las nueve.", "Mi hermana toca el violín."),
    "it": ("Il gatto dorme sul divano.", "Compra due litri di latte."),
    "pt": ("A reunião começa ao meio-dia.", "O cão espera na porta."),
    "nl": ("De fiets staat achter het huis.", "Bel mij na het eten."),
    "hi": ("आज बाज़ार बंद है।", "मुझे ठंडा पानी चाहिए।"),
}
PARCEL = "Le colis arrive vendredi matin."


def make_clips(out: Path) -> None:
    """Speak every sentence and list the recordings."""
    (out / "wavs").mkdir(parents=True, exist_ok=True)
    soundfile.write(out / "parcel.ogg", spoken(PARCEL, "fr"), RATE)
    with (out / "data.jsonl").open("w", encoding="utf-8") as lines:
        for language, sentences in SENTENCES.items():
            for number, text in enumerate(sentences, start=1):
                name = f"wavs/{language}_{number}.ogg"
                soundfile.write(out / name, spoken(text, language), RATE)
                row = {"audio_path": name, "text": text, "language": language}
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def spoken(text: str, language: str) -> np.ndarray:
    """`text` as float32 at 16 kHz."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        pace = ["-s", str(WORDS_PER_MINUTE)]
        subprocess.run(["espeak-ng", "-v", language, *pace, "-w", file.name, text], check=True)
        samples, rate = soundfile.read(file.name, dtype="float32")
    resampled: np.ndarray = soxr.resample(samples, rate, RATE)
    return resampled * (PEAK / np.abs(resampled).max())


if __name__ == "__main__":
    make_clips(Path(sys.argv[1]))

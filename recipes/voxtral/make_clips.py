"""Make the clips of examples/voxtral.dlm: two sentences in each language of Voxtral.

    python recipes/voxtral/make_clips.py examples/voxtral

needs espeak-ng, and writes `wavs/en_1.ogg` and so on, `data.jsonl` with a row for each, and
`parcel.ogg`, which has a section in the document.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import soxr

SAMPLE_RATE = 16_000
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
PARCEL_TEXT = "Le colis arrive vendredi matin."


def make_clips(out_dir: Path) -> None:
    """Synthesize every sentence, and list the recordings."""
    (out_dir / "wavs").mkdir(parents=True, exist_ok=True)
    soundfile.write(out_dir / "parcel.ogg", synthesize_speech(PARCEL_TEXT, "fr"), SAMPLE_RATE)
    with (out_dir / "data.jsonl").open("w", encoding="utf-8") as file:
        for language, sentences in SENTENCES.items():
            for number, text in enumerate(sentences, start=1):
                name = f"wavs/{language}_{number}.ogg"
                soundfile.write(out_dir / name, synthesize_speech(text, language), SAMPLE_RATE)
                row = {"audio_path": name, "text": text, "language": language}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def synthesize_speech(text: str, language: str) -> np.ndarray:
    """Return `text` in espeak-ng's voice, float32 (samples,) at 16 kHz."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        options = ["-v", language, "-s", str(WORDS_PER_MINUTE), "-w", file.name]
        subprocess.run(["espeak-ng", *options, text], check=True)
        samples, sample_rate = soundfile.read(file.name, dtype="float32")
    waveform: np.ndarray = soxr.resample(samples, sample_rate, SAMPLE_RATE)
    return waveform * (PEAK / np.abs(waveform).max())


if __name__ == "__main__":
    make_clips(Path(sys.argv[1]))

"""Make the clips of examples/voxtral.dlm: two sentences in each language of Voxtral.

    python recipes/example_clips/voxtral.py examples/voxtral

needs espeak-ng, and writes `wavs/en_1.ogg` and so on, `data.jsonl` with a row for each, and
`parcel.ogg`, which has a section in the document.
"""

import json
import sys
from pathlib import Path

from espeak import write_speech

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
    write_speech(out_dir / "parcel.ogg", PARCEL_TEXT, "fr")
    with (out_dir / "data.jsonl").open("w", encoding="utf-8") as file:
        for language, sentences in SENTENCES.items():
            for number, text in enumerate(sentences, start=1):
                name = f"wavs/{language}_{number}.ogg"
                write_speech(out_dir / name, text, language)
                row = {"audio_path": name, "text": text, "language": language}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    make_clips(Path(sys.argv[1]))

"""Render the clips of natural voices, Kokoro-82M and Piper, in an environment that has both.

    VENV/bin/python recipes/sparrow/synthesize_natural.py --work DIR --voices VOICES --engine kokoro

reads `DIR/natural.jsonl` of synthesize_speech.py and writes `DIR/natural/<split>/<number>.flac`,
at the voice's own rate and not augmented. VOICES holds `kokoro.onnx` and `voices.npz` (Kokoro-82M,
Apache-2.0), and `joe.onnx` with `joe.onnx.json` (Piper's voice joe). A clip that exists is not
rendered again, so it may be stopped at any time and run again; one core renders Kokoro about as
fast as it plays.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile

LOG_CLIPS = 50

RenderFn = Callable[[dict], tuple[np.ndarray, int]]  # manifest row -> samples, sample rate


def render_clips(work_dir: Path, voices_dir: Path, engine: str, minutes: float) -> None:
    """Render clips of an engine that do not exist, in the manifest's order, for `minutes`."""
    lines = (work_dir / "natural.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["engine"] == engine]
    render_fn = (_load_kokoro if engine == "kokoro" else _load_piper)(voices_dir)
    start, rendered, seconds = time.monotonic(), 0, 0.0
    for row in rows:
        path = work_dir / row["natural"]
        if path.exists():
            continue
        samples, sample_rate = render_fn(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        temp_path = path.with_suffix(".part")
        soundfile.write(temp_path, samples, sample_rate, subtype="PCM_16", format="FLAC")
        temp_path.replace(path)
        rendered, seconds = rendered + 1, seconds + len(samples) / sample_rate
        elapsed = time.monotonic() - start
        if rendered % LOG_CLIPS == 0:
            print(
                f"{engine}: {rendered} clips, {seconds / elapsed:.2f} times real time", flush=True
            )
        if elapsed > 60 * minutes:
            break


def _load_kokoro(voices_dir: Path) -> RenderFn:
    from kokoro_onnx import Kokoro

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(voices_dir / "kokoro.onnx"), options, providers=["CPUExecutionProvider"]
    )
    kokoro = Kokoro.from_session(session, str(voices_dir / "voices.npz"))

    def render(row: dict) -> tuple[np.ndarray, int]:
        language = "en-gb" if row["voice"].startswith("b") else "en-us"
        return kokoro.create(row["spoken"], voice=row["voice"], speed=row["speed"], lang=language)

    return render


def _load_piper(voices_dir: Path) -> RenderFn:
    from piper import PiperVoice, SynthesisConfig

    voice = PiperVoice.load(voices_dir / "joe.onnx")

    def render(row: dict) -> tuple[np.ndarray, int]:
        config = SynthesisConfig(length_scale=1 / row["speed"], noise_scale=0.8, noise_w_scale=0.9)
        chunks = list(voice.synthesize(row["spoken"], config))
        return np.concatenate([c.audio_float_array for c in chunks]), chunks[0].sample_rate

    return render


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--voices", type=Path, required=True)
    parser.add_argument("--engine", choices=("kokoro", "piper"), required=True)
    parser.add_argument("--minutes", type=float, default=600.0, help="then stop, to be continued")
    args = parser.parse_args()
    render_clips(args.work, args.voices, args.engine, args.minutes)

r"""Make sparrow, the model in the package, with one command that can be stopped and started again.

    python recipes/sparrow/make.py --work DIR --whisper FOLDER \
        --voices VOICES --voices-python PYTHON

    sentences.py, word_lists.py, grammar.txt   sentences, made when they are needed
    synthesize_natural.py                   -> natural/   by PYTHON, whose environment has
                                               kokoro-onnx, piper-tts, onnx and openvino, with the
                                               voices of the folder VOICES
    synthesize_speech.py, augment.py        -> clips/, train.jsonl, test.jsonl, unheard.jsonl
    train_tokenizer.py                      -> tokenizer/
    train_encoder.py                        -> encoder.safetensors, projector.safetensors, by CTC on
                                               the LM's tokens, from Whisper tiny.en in FOLDER
    encoder_features.py                     -> features/  of the trained encoder
    pretrain_lm.py                          -> lm/        trained to read what the projector writes
    train_all.py                            -> sparrow/   projector and language model trained

A stage whose result exists is not run again. Interrupted synthesis, features and the last training
are resumed where they were. It needs espeak-ng, flite and WordNet (Debian: espeak-ng flite
wordnet-base), and hours on two cores; --natural-minutes bounds the slow natural voices. With
--start-from the projector and the language model begin with those of another sparrow, and
pretrain_lm.py is not needed.
"""

import argparse
import os
import subprocess
from pathlib import Path

from encoder_features import compute_features
from pretrain_lm import pretrain_lm
from synthesize_speech import list_natural_clips, synthesize_splits
from train_all import train_sparrow
from train_encoder import START, start_from_sparrow, train_encoder
from train_tokenizer import train_tokenizer

ENCODER_MINUTES, LM_MINUTES, NATURAL_MINUTES = 60.0, 15.0, 60.0
DONE = "natural.done"


def make_sparrow(args: argparse.Namespace) -> None:
    """Run every stage whose result does not exist."""
    work_dir: Path = args.work
    work_dir.mkdir(parents=True, exist_ok=True)
    if args.start_from is not None and not (work_dir / START).exists():
        start_from_sparrow(work_dir, args.start_from)
    num_cores = os.cpu_count() or 1
    if not (work_dir / DONE).exists():
        list_natural_clips(work_dir)
        for engine in ("piper", "kokoro"):
            script = str(Path(__file__).with_name("synthesize_natural.py"))
            command = [str(args.voices_python), script, "--engine", engine, "--work", str(work_dir)]
            command += ["--voices", str(args.voices), "--minutes", str(args.natural_minutes)]
            subprocess.run(command, check=True)
        (work_dir / DONE).touch()
    synthesize_splits(work_dir, num_processes=num_cores)
    if not (work_dir / "tokenizer").exists():
        train_tokenizer(work_dir)
    if not (work_dir / "projector.safetensors").exists():
        train_encoder(work_dir, args.whisper, minutes=args.encoder_minutes, num_threads=num_cores)
    compute_features(work_dir, args.whisper, num_processes=num_cores)
    if not (work_dir / "lm").exists():
        pretrain_lm(work_dir, args.whisper, minutes=args.lm_minutes, num_threads=num_cores)
    train_sparrow(work_dir, args.whisper, num_threads=num_cores)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--whisper", type=Path, required=True, help="Whisper tiny.en, a folder")
    parser.add_argument("--voices", type=Path, required=True)
    parser.add_argument("--voices-python", type=Path, required=True)
    parser.add_argument("--start-from", type=Path, help="a sparrow, whose LM is trained further")
    parser.add_argument("--natural-minutes", type=float, default=NATURAL_MINUTES)
    parser.add_argument("--encoder-minutes", type=float, default=ENCODER_MINUTES)
    parser.add_argument("--lm-minutes", type=float, default=LM_MINUTES)
    make_sparrow(parser.parse_args())

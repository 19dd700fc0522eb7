"""Make sparrow, the model in the package, with one command that can be stopped and started again.

    python recipes/sparrow/make.py --work DIR

    word_lists.py, grammar.txt, sentences.py    sentences, made when they are needed
    synthesize_speech.py, augment.py         -> clips/, train.jsonl, test.jsonl, unheard.jsonl
    train_tokenizer.py                       -> tokenizer/
    pretrain_encoder_ctc.py, mel_features.py -> encoder_ctc/    encoder with a CTC head
    decode_ctc.py                            -> ctc_letters.jsonl, encoder_output.npy
    pretrain_lm.py                           -> lm/             trained to read such letters
    fit_projector.py                         -> projector.safetensors
    train_all.py                             -> sparrow/        all three components trained

A stage whose result exists is not run again, and an interrupted training is resumed. It needs
espeak-ng and flite, and takes about two hours on two cores, most of it the encoder and the last
stage.
"""

import argparse
from pathlib import Path

from decode_ctc import decode_train_clips
from fit_projector import fit_projector
from pretrain_encoder_ctc import pretrain_encoder
from pretrain_lm import pretrain_lm
from synthesize_speech import synthesize_splits
from train_all import train_sparrow
from train_tokenizer import train_tokenizer

ENCODER_MINUTES, LM_MINUTES, NUM_STEPS = 55.0, 3.5, 2_300


def make_sparrow(
    work_dir: Path, *, encoder_minutes: float, lm_minutes: float, num_steps: int
) -> None:
    """Run every stage whose result does not exist."""
    work_dir.mkdir(parents=True, exist_ok=True)
    synthesize_splits(work_dir)
    if not (work_dir / "tokenizer").exists():
        train_tokenizer(work_dir)
    pretrain_encoder(work_dir, minutes=encoder_minutes)
    decode_train_clips(work_dir)
    pretrain_lm(work_dir, minutes=lm_minutes)
    if not (work_dir / "projector.safetensors").exists():
        fit_projector(work_dir)
    if not (work_dir / "sparrow").exists():
        train_sparrow(work_dir, num_steps=num_steps)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--encoder-minutes", type=float, default=ENCODER_MINUTES)
    parser.add_argument("--lm-minutes", type=float, default=LM_MINUTES)
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help="of the last stage")
    args = parser.parse_args()
    make_sparrow(
        args.work,
        encoder_minutes=args.encoder_minutes,
        lm_minutes=args.lm_minutes,
        num_steps=args.steps,
    )

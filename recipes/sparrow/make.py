"""Make sparrow from nothing, with one command that can be stopped and started again.

    python recipes/sparrow/make.py --work DIR

    words.py, grammar.txt  ->  text       sentences, made as they are needed
    speech.py              ->  clips/ and train.jsonl, test.jsonl, unheard.jsonl
    tokenizer.py           ->  tokenizer/
    warmup.py              ->  warmup/    the encoder, which spells what it hears
    letters.py             ->  letters.jsonl, features.npy: what it spells
    lm.py                  ->  lm/        the language model, which reads such letters
    bridge.py              ->  projector.safetensors
    stitch.py              ->  sparrow/   the base that ships, all three trained together

A step whose result is there is not done again; a training that was stopped goes on. It takes
espeak-ng and flite, two cores and about two hours, most of it the warm-up and the stitching.
"""

import argparse
from pathlib import Path

from bridge import build_bridge
from letters import spell_clips
from lm import make_lm
from speech import make_speech
from stitch import stitch
from tokenizer import make_tokenizer
from warmup import warm_up

WARMUP_MINUTES, LM_MINUTES, STITCH_STEPS = 55.0, 3.5, 2_300


def make(work: Path, *, warmup_minutes: float, lm_minutes: float, steps: int) -> None:
    """Every step in turn."""
    work.mkdir(parents=True, exist_ok=True)
    make_speech(work)
    if not (work / "tokenizer").exists():
        make_tokenizer(work)
    warm_up(work, minutes=warmup_minutes)
    spell_clips(work)
    make_lm(work, minutes=lm_minutes)
    if not (work / "projector.safetensors").exists():
        build_bridge(work)
    if not (work / "sparrow").exists():
        stitch(work, steps=steps)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--warmup-minutes", type=float, default=WARMUP_MINUTES)
    parser.add_argument("--lm-minutes", type=float, default=LM_MINUTES)
    parser.add_argument("--stitch-steps", type=int, default=STITCH_STEPS)
    wanted = parser.parse_args()
    make(
        wanted.work,
        warmup_minutes=wanted.warmup_minutes,
        lm_minutes=wanted.lm_minutes,
        steps=wanted.stitch_steps,
    )

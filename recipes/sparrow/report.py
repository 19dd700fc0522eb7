"""How well sparrow hears: word error rates by voice, and how often its other answers are right.

    python recipes/sparrow/report.py --work DIR [--base FOLDER]

scores the sentences that were kept out of training, in the voices it was trained on (`test`) and
in the one voice it never heard (`unheard`). Without --base it is the sparrow in the package.
"""

import argparse
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from dlm.batching.chat_template import ChatEncoder
from dlm.data.types import AudioSegment, Example, Message
from dlm.features.extractor import AudioFeatureExtractor
from dlm.inference.engine import InferenceEngine, batch_generate
from dlm.inference.evaluate import compute_losses
from dlm.inference.metrics import compute_character_errors, compute_word_errors
from dlm.models.load import load_base_model
from dlm.plan.model_ref import find_catalog_spec
from questions import ANSWERS, questions

Line = dict[str, str]
SPLITS = ("test", "unheard")


def report(work: Path, folder: Path | None) -> dict[str, object]:
    """Every score, by name."""
    base = find_catalog_spec("sparrow")
    base = base if folder is None else replace(base, source=str(folder))
    model = load_base_model(base)
    using = InferenceEngine(
        model,
        ChatEncoder(model.tokenizer, base),
        AudioFeatureExtractor(base, auto_resample=False),
        16,
    )
    found: dict[str, object] = {}
    for split in SPLITS:
        lines = _lines(work, split)
        clips = [_clip(work, line, line["text"]) for line in lines]
        heard = {clip.location: text for clip, text in batch_generate(using, clips)}
        found[split] = _rates(lines, heard) | compute_losses(using, clips)
        found[f"{split} answers"] = _answers(using, work, lines)
    return found


def _lines(work: Path, split: str) -> list[Line]:
    text = (work / f"{split}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _clip(work: Path, line: Line, answer: str, question: str = "") -> Example:
    asked = (
        (AudioSegment(work / line["path"]), question)
        if question
        else (AudioSegment(work / line["path"]),)
    )
    return Example(
        (Message("user", asked), Message("assistant", (answer,))), line["path"], "transcribe"
    )


def _rates(lines: list[Line], heard: dict[str, str]) -> dict[str, float]:
    """Error rates over all clips, and the word error rate of each engine and accent."""
    groups: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        groups["wer"].append(line)
        groups[f"wer {line['engine']}"].append(line)
        kind = line["accent"] if line["engine"] == "espeak" else line["voice"]
        groups[f"wer {line['engine']} {kind}"].append(line)
    rates = {name: _rate(members, heard) for name, members in sorted(groups.items())}
    said = [line["text"] for line in lines]
    rates["cer"] = compute_character_errors(said, [heard[line["path"]] for line in lines]).rate
    return rates


def _rate(lines: list[Line], heard: dict[str, str]) -> float:
    return compute_word_errors(
        [line["text"] for line in lines], [heard[line["path"]] for line in lines]
    ).rate


def _answers(using: InferenceEngine, work: Path, lines: list[Line]) -> dict[str, float]:
    """The share of right answers to each kind of question."""
    shares = {}
    for kind, asked in enumerate(ANSWERS):
        chosen = [questions(line, seed=2)[kind] for line in lines]
        clips = [
            _clip(work, line, answer, question)
            for line, (question, answer) in zip(lines, chosen, strict=True)
        ]
        right = [clip.target == text for clip, text in batch_generate(using, clips)]
        shares[asked] = sum(right) / len(right)
    return shares


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--base", type=Path)
    given = parser.parse_args()
    print(json.dumps(report(given.work, given.base), indent=2))

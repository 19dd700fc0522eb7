"""Evaluate sparrow: WER by voice, CER, the listening gap, and the accuracy of its other answers.

    python recipes/sparrow/evaluate.py --work DIR [--model FOLDER]

Prints JSON for the sentences that are not in training, in the training voices (`test`) and in the
voice that is not in training (`unheard`). Without --model, the sparrow in the package is evaluated.
"""

import argparse
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from dlm.batching.chat_template import ChatEncoder
from dlm.features.extractor import AudioFeatureExtractor
from dlm.inference.engine import InferenceEngine, batch_generate
from dlm.inference.evaluate import compute_losses
from dlm.inference.metrics import compute_character_errors, compute_word_errors
from dlm.models.load import load_base_model
from dlm.plan.model_ref import find_catalog_spec
from questions import ANSWERS, make_example, make_questions
from synthesize_speech import ManifestRow, read_manifest

SPLITS = ("test", "unheard")
EVAL_BATCH_SIZE = 16


def evaluate_sparrow(work_dir: Path, model_dir: Path | None) -> dict[str, object]:
    """Return every score, by split and name."""
    spec = find_catalog_spec("sparrow")
    if model_dir is not None:
        spec = replace(spec, source=str(model_dir))
    model = load_base_model(spec)
    chat_encoder = ChatEncoder(model.tokenizer, spec)
    extractor = AudioFeatureExtractor(spec, auto_resample=False)
    engine = InferenceEngine(model, chat_encoder, extractor, EVAL_BATCH_SIZE)
    scores: dict[str, object] = {}
    for split in SPLITS:
        manifest = read_manifest(work_dir / f"{split}.jsonl")
        examples = [make_example(work_dir, row, row["text"]) for row in manifest]
        hypotheses = {example.location: text for example, text in batch_generate(engine, examples)}
        scores[split] = _compute_error_rates(manifest, hypotheses) | compute_losses(
            engine, examples
        )
        scores[f"{split} answers"] = _compute_answer_accuracy(engine, work_dir, manifest)
    return scores


def _compute_error_rates(
    manifest: list[ManifestRow], hypotheses: dict[str, str]
) -> dict[str, float]:
    """Compute WER and CER of all clips, and the WER of each engine and accent or voice."""
    groups: dict[str, list[ManifestRow]] = defaultdict(list)
    for row in manifest:
        kind = row["accent"] if row["engine"] == "espeak" else row["voice"]
        for name in ("wer", f"wer {row['engine']}", f"wer {row['engine']} {kind}"):
            groups[name].append(row)
    rates = {}
    for name, rows in sorted(groups.items()):
        references = [row["text"] for row in rows]
        rates[name] = compute_word_errors(
            references, [hypotheses[row["path"]] for row in rows]
        ).rate
    references = [row["text"] for row in manifest]
    rates["cer"] = compute_character_errors(
        references, [hypotheses[row["path"]] for row in manifest]
    ).rate
    return rates


def _compute_answer_accuracy(
    engine: InferenceEngine, work_dir: Path, manifest: list[ManifestRow]
) -> dict[str, float]:
    """Compute the exact matches of each kind of question, from 0 to 1."""
    accuracy = {}
    for index, kind in enumerate(ANSWERS):
        examples = []
        for row in manifest:
            question, answer = make_questions(row, seed=2)[index]
            examples.append(make_example(work_dir, row, answer, question))
        matches = [example.target == text for example, text in batch_generate(engine, examples)]
        accuracy[kind] = sum(matches) / len(matches)
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    args = parser.parse_args()
    print(json.dumps(evaluate_sparrow(args.work, args.model), indent=2))

"""Evaluate sparrow: WER by voice, on recordings of people, silence, the listening gap, questions.

    python recipes/sparrow/evaluate.py --work DIR [--model FOLDER] [--people FOLDER ...]
                                       [--whisper FOLDER ...]

Prints JSON. The synthetic clips are those of DIR that are not in training: in voices of training
(`test`) and in voices that are not (`unheard`). A folder of --people has recordings beside their
texts (`.wav`, `.txt`); those of at least --min-words words count, and each Whisper model, in its
window of 30 s, transcribes the same clips. Without --model, the sparrow in the package is
evaluated. Intervals are 95 % bootstrap intervals over clips.
"""

import argparse
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import torch
from transformers import AutoProcessor, WhisperForConditionalGeneration
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

from augment import SAMPLE_RATE, make_background
from dlm.batching.chat_template import ChatEncoder
from dlm.data.audio_io import load_audio
from dlm.data.types import AudioSegment
from dlm.features.extractor import AudioFeatureExtractor
from dlm.inference.engine import InferenceEngine, batch_generate
from dlm.inference.evaluate import compute_losses
from dlm.inference.metrics import ErrorCounts, compute_character_errors, compute_word_errors
from dlm.models.load import load_base_model
from dlm.plan.model_ref import find_catalog_spec
from questions import ANSWERS, make_example, make_questions
from synthesize_speech import ManifestRow, read_manifest

SPLITS = ("test", "unheard")
EVAL_BATCH_SIZE = 16
NUM_BACKGROUNDS, BACKGROUND_SEED = 20, 10_000  # training takes other seeds
NUM_RESAMPLES = 1_000
ENGLISH_VOCAB_SIZE = 51_864  # of Whisper's English models
normalize = EnglishTextNormalizer({})  # of Whisper: digits for numbers, no hesitations


def evaluate_sparrow(args: argparse.Namespace) -> dict[str, object]:
    """Return every score, by split and name."""
    spec = find_catalog_spec("sparrow")
    if args.model is not None:
        spec = replace(spec, source=str(args.model))
    model = load_base_model(spec)
    chat_encoder = ChatEncoder(model.tokenizer, spec)
    extractor = AudioFeatureExtractor(spec, auto_resample=True)
    engine = InferenceEngine(model, chat_encoder, extractor, EVAL_BATCH_SIZE)
    scores: dict[str, object] = {"silence": _count_invented_texts(engine, args.work)}
    for folder in args.people:
        rows = list_people_clips(folder, args.min_words)
        scores[folder.name] = {"sparrow": _compute_people_scores(engine, folder, rows)} | {
            whisper.name: _score(rows, transcribe_with_whisper(whisper, folder, rows))
            for whisper in args.whisper
        }
    for split in () if args.people_only else SPLITS:
        manifest = read_manifest(args.work / f"{split}.jsonl")
        examples = [make_example(args.work, row, row["text"]) for row in manifest]
        hypotheses = {example.location: text for example, text in batch_generate(engine, examples)}
        scores[split] = _compute_error_rates(manifest, hypotheses) | compute_losses(
            engine, examples
        )
        scores[f"{split} answers"] = _compute_answer_accuracy(engine, args.work, manifest)
    return scores


def _count_invented_texts(engine: InferenceEngine, work_dir: Path) -> dict[str, object]:
    """Count the backgrounds without speech for which a text is written."""
    folder = work_dir / "silence"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(NUM_BACKGROUNDS):
        waveform = make_background(np.random.default_rng(BACKGROUND_SEED + number))
        soundfile.write(folder / f"{number:02d}.wav", waveform, SAMPLE_RATE)
        rows.append({"path": f"{number:02d}.wav", "text": ""})
    examples = [make_example(folder, row, "") for row in rows]
    texts = [text for _, text in batch_generate(engine, examples) if text.strip()]
    return {"clips": len(rows), "with_text": len(texts), "texts": texts}


def list_people_clips(folder: Path, min_words: int) -> list[ManifestRow]:
    """Return the recordings of a folder whose text has at least `min_words` words, by name."""
    rows = []
    for text_file in sorted(folder.glob("*.txt")):
        text = text_file.read_text(encoding="utf-8").strip()
        if len(text.split()) >= min_words:
            rows.append({"path": text_file.with_suffix(".wav").name, "text": text})
    return rows


def _compute_people_scores(
    engine: InferenceEngine, folder: Path, rows: list[ManifestRow]
) -> dict[str, object]:
    examples = [make_example(folder, row, row["text"]) for row in rows]
    hypotheses = {example.location: text for example, text in batch_generate(engine, examples)}
    return _score(rows, hypotheses)


def _score(rows: list[ManifestRow], hypotheses: dict[str, str]) -> dict[str, object]:
    """WER of Whisper's normalized texts, its interval and the five clips with most errors."""
    counts = [
        compute_word_errors([normalize(row["text"])], [normalize(hypotheses[row["path"]])])
        for row in rows
    ]
    errors = np.array([count_errors(count) for count in counts])
    words = np.array([count.reference_length for count in counts])
    draws = np.random.default_rng(0).integers(len(rows), size=(NUM_RESAMPLES, len(rows)))
    rates = errors[draws].sum(axis=1) / words[draws].sum(axis=1)
    worst = sorted(range(len(rows)), key=lambda index: -errors[index])[:5]
    return {
        "clips": len(rows),
        "words": int(words.sum()),
        "wer": errors.sum() / words.sum(),
        "interval": np.percentile(rates, [2.5, 97.5]).tolist(),
        "worst": {rows[i]["text"]: hypotheses[rows[i]["path"]] for i in worst},
    }


def count_errors(counts: ErrorCounts) -> int:
    return counts.substitutions + counts.deletions + counts.insertions


@torch.no_grad()
def transcribe_with_whisper(
    whisper_dir: Path, folder: Path, rows: list[ManifestRow]
) -> dict[str, str]:
    """Transcribe with transformers' Whisper, greedily, in its window of 30 s."""
    whisper = WhisperForConditionalGeneration.from_pretrained(whisper_dir, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(whisper_dir)
    control = ["<|en|>", "<|transcribe|>"] if whisper.config.vocab_size > ENGLISH_VOCAB_SIZE else []
    control = ["<|startoftranscript|>", *control, "<|notimestamps|>"]
    prompt = torch.tensor([processor.tokenizer.convert_tokens_to_ids(control)])
    hypotheses = {}
    for row in rows:
        segment = AudioSegment(folder / row["path"])
        samples = load_audio(segment, sample_rate=SAMPLE_RATE, resample=True)
        inputs = processor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        tokens = whisper.generate(inputs.input_features, decoder_input_ids=prompt)
        hypotheses[row["path"]] = processor.batch_decode(tokens, skip_special_tokens=True)[0]
    return hypotheses


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
    parser.add_argument("--people", type=Path, nargs="*", default=[])
    parser.add_argument("--people-only", action="store_true", help="no synthetic clips")
    parser.add_argument("--min-words", type=int, default=3)
    parser.add_argument("--whisper", type=Path, nargs="*", default=[])
    print(json.dumps(evaluate_sparrow(parser.parse_args()), indent=2))

"""What a model is taught by its own language model: how that goes on when it reads what is said.

    student    the sound            -> thinks -> speaks at the labels
    teacher    what is said in it   -> thinks -> speaks at the same labels, once a clip, and is kept

Both answers are flattened by a temperature T; then, for each label, with the teacher's shares p and
the student's q of the teacher's k likeliest words, and r and s of all other words together,

    sum over the k of p log(p / q)  +  r log(r / s)

That is KL(p || q), less r times the divergence among the others, which nobody kept; with all words
kept it is KL(p || q) itself. As Ultravox (Fixie 2024) has it, there is no factor of T squared, and
the mean over the tokens that end a turn is added to the mean over all labels.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dlm.batching.chat_template import IGNORE_INDEX, EncodedExample
from dlm.features.disk_cache import read_cached_tensors, write_cached_tensors
from dlm.models.adapters import disable_adapters, get_param_group
from dlm.models.audio_lm import AudioLanguageModel
from dlm.plan.types import DistillationPlan

FINGERPRINT_SAMPLE_SIZE = 16  # numbers of each tensor that tell one language model from another


@dataclass(frozen=True)
class TopKProbs:
    """The teacher's likeliest words (labels, k), and its shares (labels, k) of them.

    Where it left words out, one share more is that of all others together. `rows` (rows,) are those
    of the batch that it answers; labels are theirs, one row after the other.
    """

    token_ids: torch.Tensor
    probs: torch.Tensor
    row_mask: torch.Tensor


class DistillationTeacher:
    """The language model of `model` as it was released, reading; it is asked once for each clip."""

    def __init__(self, model: AudioLanguageModel, plan: DistillationPlan, cache_dir: Path) -> None:
        """Answers are kept in `folder`, by what is read, who reads and how much of it is kept."""
        self.plan = plan
        self._model, self._cache_dir, self._lm_fingerprint = (
            model,
            cache_dir,
            _fingerprint_lm(model),
        )

    def get_top_k_probs(
        self, teacher_examples: tuple[EncodedExample | None, ...]
    ) -> TopKProbs | None:
        """What it says to what it reads of a batch; None where that is nothing."""
        rows = [row for row in teacher_examples if row is not None]
        if not rows:
            return None
        paths = [self._get_cache_path(row) for row in rows]
        kept = [read_cached_tensors(path) for path in paths]
        if None in kept:
            with disable_adapters(self._model), torch.no_grad():
                kept = [
                    self._compute_top_k_probs(row, path) if found is None else found
                    for row, path, found in zip(rows, paths, kept, strict=True)
                ]
        told = [found for found in kept if found is not None]
        words, shares = (torch.cat([each[name] for each in told]) for name in ("words", "shares"))
        device, known = (
            self._model.device,
            torch.tensor([row is not None for row in teacher_examples]),
        )
        return TopKProbs(words.long().to(device), shares.to(device), known.to(device))

    def _compute_top_k_probs(
        self, example: EncodedExample, cache_path: Path
    ) -> dict[str, torch.Tensor]:
        """Its answer to one row, alone, so that it is the same in whatever company."""
        ids = torch.tensor([example.input_ids], device=self._model.device)
        spots = torch.tensor([example.labels[1:]], device=ids.device) != IGNORE_INDEX
        hidden = self._model.forward_lm(self._model.embed_input_ids(ids), torch.ones_like(ids))
        logits = self._model.compute_logits(hidden[:, :-1][spots]).float()
        words = logits.topk(min(self.plan.top_k, logits.shape[-1])).indices
        shares = _compute_top_k_log_probs(logits, words, self.plan.temperature).exp()
        told = {"words": words.int().cpu(), "shares": shares.cpu()}
        write_cached_tensors(cache_path, told)
        return told

    def _get_cache_path(self, example: EncodedExample) -> Path:
        how = (
            self._lm_fingerprint,
            self.plan.top_k,
            self.plan.temperature,
            example.input_ids,
            example.labels,
        )
        return self._cache_dir / f"{hashlib.sha256(repr(how).encode()).hexdigest()}.safetensors"


def compute_kl_divergence(
    logits: torch.Tensor, teacher_probs: TopKProbs, temperature: float
) -> torch.Tensor:
    """How far a student's logits (labels, words) are from the answer: (labels,), in nats."""
    said = _compute_top_k_log_probs(logits, teacher_probs.token_ids, temperature)
    return nn.functional.kl_div(said, teacher_probs.probs, reduction="none").sum(dim=-1)


def _compute_top_k_log_probs(
    logits: torch.Tensor, token_ids: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Logarithms of the shares of `words`, and of all others together if there are any."""
    flat = logits / temperature
    near = flat.gather(-1, token_ids)
    if token_ids.shape[-1] < flat.shape[-1]:
        others = flat.scatter(-1, token_ids, -torch.inf).logsumexp(dim=-1, keepdim=True)
        near = torch.cat([near, others], dim=-1)
    return near.log_softmax(dim=-1)


def _fingerprint_lm(model: AudioLanguageModel) -> str:
    """Which language model it is, by a few numbers of each of its tensors and their format."""
    digest = hashlib.sha256()
    for name, each in model.named_parameters():
        if get_param_group(name, model) == "lm":
            some = each.detach().flatten()[:FINGERPRINT_SAMPLE_SIZE]
            digest.update(f"{each.dtype} {tuple(each.shape)} {some.tolist()}".encode())
    return digest.hexdigest()

"""Distillation from the model's own language model, which reads the transcript of the audio.

    student    audio       -> language model with adapters     -> logits at labels
    teacher    transcript  -> language model without adapters  -> logits at the same labels, cached

The loss is Ultravox's (Fixie 2024): both distributions are divided by a temperature, without a
factor of its square, and the mean over end tokens is added to the mean over labels. Only the
teacher's k most probable tokens are stored. With its probabilities p and the student's q of these,
and r and s of all other tokens together, the loss of a label is

    sum over the k of p log(p / q)  +  r log(r / s)

which is KL(p || q) less r times the divergence among the others; with k = vocab_size it is KL.
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

FINGERPRINT_SAMPLE_SIZE = 16  # values of each tensor that tell language models apart


@dataclass(frozen=True)
class TopKProbs:
    """The teacher's most probable tokens.

    Attributes:
        token_ids: (labels, k), the examples of a batch one after the other.
        probs: (labels, k), or (labels, k + 1) where the last is of all other tokens together.
        has_teacher: (examples,), whether an example has a teacher.
    """

    token_ids: torch.Tensor
    probs: torch.Tensor
    has_teacher: torch.Tensor


class DistillationTeacher:
    """The language model of a model without adapters; its probabilities are cached on disk.

    Args:
        model: the student.
        plan: temperature and k.
        cache_dir: folder of the cache, by language model, tokens, temperature and k.
    """

    def __init__(self, model: AudioLanguageModel, plan: DistillationPlan, cache_dir: Path) -> None:
        self.plan = plan
        self._model, self._cache_dir = model, cache_dir
        self._lm_fingerprint = _fingerprint_lm(model)

    def get_top_k_probs(
        self, teacher_examples: tuple[EncodedExample | None, ...]
    ) -> TopKProbs | None:
        """Return the teacher's probabilities at the labels of a batch; None without any example."""
        examples = [example for example in teacher_examples if example is not None]
        if not examples:
            return None
        tensors = []
        for example in examples:
            path = self._get_cache_path(example)
            cached = read_cached_tensors(path)
            tensors.append(self._compute_top_k_probs(example, path) if cached is None else cached)
        device = self._model.device
        has_teacher = torch.tensor([example is not None for example in teacher_examples])
        return TopKProbs(
            torch.cat([each["token_ids"] for each in tensors]).long().to(device),
            torch.cat([each["probs"] for each in tensors]).to(device),
            has_teacher.to(device),
        )

    def _compute_top_k_probs(
        self, example: EncodedExample, cache_path: Path
    ) -> dict[str, torch.Tensor]:
        """Run the teacher on one example by itself: the result does not depend on the batch."""
        input_ids = torch.tensor([example.input_ids], device=self._model.device)
        label_mask = torch.tensor([example.labels[1:]], device=input_ids.device) != IGNORE_INDEX
        with disable_adapters(self._model), torch.no_grad():
            embeddings = self._model.embed_input_ids(input_ids)
            hidden_states = self._model.forward_lm(embeddings, torch.ones_like(input_ids))
            logits = self._model.compute_logits(hidden_states[:, :-1][label_mask]).float()
        token_ids = logits.topk(min(self.plan.top_k, logits.shape[-1])).indices
        probs = _compute_top_k_log_probs(logits, token_ids, self.plan.temperature).exp()
        tensors = {"token_ids": token_ids.int().cpu(), "probs": probs.cpu()}
        write_cached_tensors(cache_path, tensors)
        return tensors

    def _get_cache_path(self, example: EncodedExample) -> Path:
        key = (
            "token_ids, probs",  # the tensors of the file
            self._lm_fingerprint,
            self.plan.top_k,
            self.plan.temperature,
            example.input_ids,
            example.labels,
        )
        return self._cache_dir / f"{hashlib.sha256(repr(key).encode()).hexdigest()}.safetensors"


def compute_kl_divergence(
    logits: torch.Tensor, teacher_probs: TopKProbs, temperature: float
) -> torch.Tensor:
    """Compute the divergence of a student's logits (labels, vocab_size): (labels,), in nats."""
    log_probs = _compute_top_k_log_probs(logits, teacher_probs.token_ids, temperature)
    return nn.functional.kl_div(log_probs, teacher_probs.probs, reduction="none").sum(dim=-1)


def _compute_top_k_log_probs(
    logits: torch.Tensor, token_ids: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Log probabilities of the tokens, and of all others together if there are any."""
    logits = logits / temperature
    top_k = logits.gather(-1, token_ids)
    if token_ids.shape[-1] < logits.shape[-1]:
        others = logits.scatter(-1, token_ids, -torch.inf).logsumexp(dim=-1, keepdim=True)
        top_k = torch.cat([top_k, others], dim=-1)
    return top_k.log_softmax(dim=-1)


def _fingerprint_lm(model: AudioLanguageModel) -> str:
    """A hash of dtype, shape and a few values of each tensor of the language model."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if get_param_group(name, model) == "lm":
            values = parameter.detach().flatten()[:FINGERPRINT_SAMPLE_SIZE].tolist()
            digest.update(f"{parameter.dtype} {tuple(parameter.shape)} {values}".encode())
    return digest.hexdigest()

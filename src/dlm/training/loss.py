"""What a model is taught: the likelihood of each label token, a teacher's answer, and to listen."""

from typing import NamedTuple

import torch
from torch import nn

from dlm.batching.chat_template import IGNORE_INDEX
from dlm.batching.collator import Batch
from dlm.models.adapters import get_trainable_parameters
from dlm.models.audio_lm import AudioLanguageModel
from dlm.models.cpu_kernels import sparse_last_mlp
from dlm.plan.types import DistillationPlan
from dlm.training.distillation import DistillationTeacher, TopKProbs, compute_kl_divergence


class LossOutput(NamedTuple):
    """Sums over the label tokens of each row (rows,), fp32, in nats.

    `said` is the cross entropy, `apart` how far a row is from the teacher's answer, which there is
    for the labels that are `answered`. Gradients are those of `learned`, which is made of both.
    """

    total_loss: torch.Tensor
    ce_loss: torch.Tensor
    kl_loss: torch.Tensor
    num_distilled: torch.Tensor


class _LabelLogits(NamedTuple):
    """Logits (labels, words) where labels are, the labels themselves, and the row of each."""

    logits: torch.Tensor
    labels: torch.Tensor
    row_indices: torch.Tensor


class AudioLMLoss(nn.Module):
    """Cross entropy of the label tokens, and a teacher's answer; logits only where labels are."""

    def __init__(
        self, model: AudioLanguageModel, teacher: DistillationTeacher | None = None
    ) -> None:
        super().__init__()
        self.model, self.teacher = model, teacher

    def forward(self, batch: Batch) -> LossOutput:
        """The losses of each row. Divide by label tokens outside, over the whole step."""
        answer = self.teacher.get_top_k_probs(batch.teacher_examples) if self.teacher else None
        spoken = self._compute_label_logits(batch)
        losses = nn.functional.cross_entropy(spoken.logits, spoken.labels, reduction="none")
        said = losses.new_zeros(len(batch.input_ids)).index_add(0, spoken.row_indices, losses)
        if batch.audio_features is None:
            said = said + self._make_zero_audio_loss()
        if self.teacher is None or answer is None:
            return LossOutput(said, said.detach(), *torch.zeros(2, len(said)).to(said))
        apart, ends, answered = self._compute_distillation_loss(spoken, answer, self.teacher.plan)
        weight = self.teacher.plan.weight * answer.row_mask
        learned = (1 - weight) * said + weight * (apart + ends)
        return LossOutput(learned, said.detach(), apart.detach(), answered)

    def _compute_label_logits(self, batch: Batch) -> _LabelLogits:
        """What is said at the labels."""
        targets = batch.labels[:, 1:]  # each position predicts the next token
        spots = targets != IGNORE_INDEX
        embedded = self.model.merge_audio_embeddings(batch)
        with sparse_last_mlp(self.model, nn.functional.pad(spots, (0, 1))):
            hidden = self.model.forward_lm(embedded, batch.attention_mask)
        logits = self.model.compute_logits(hidden[:, :-1][spots]).float()
        return _LabelLogits(logits, targets[spots], spots.nonzero()[:, 0])

    def _compute_distillation_loss(
        self,
        label_logits: _LabelLogits,
        teacher_probs: TopKProbs,
        distillation_plan: DistillationPlan,
    ) -> tuple[torch.Tensor, ...]:
        """How far each row is from the answer, what the ends of its turns add, and its labels.

        Per label of the row, they add `end_weight` times the mean over them.
        """
        at = teacher_probs.row_mask[label_logits.row_indices]  # the labels with an answer
        each = compute_kl_divergence(
            label_logits.logits[at], teacher_probs, distillation_plan.temperature
        )
        ends = (label_logits.labels[at] == self.model.tokenizer.eos_token_id).float()

        def by_row(values: torch.Tensor) -> torch.Tensor:
            return values.new_zeros(len(teacher_probs.row_mask)).index_add(
                0, label_logits.row_indices[at], values
            )

        labels = by_row(torch.ones_like(each))
        mean_of_ends = by_row(each * ends) / by_row(ends).clamp(min=1)
        return by_row(each), distillation_plan.eos_weight * labels * mean_of_ends, labels

    def _make_zero_audio_loss(self) -> torch.Tensor:
        """Zero, by way of all that only sound reaches: ranks must agree on what has a gradient."""
        ear = (*self.model.param_prefixes["encoder"], *self.model.param_prefixes["projector"])
        every = [
            each.sum().to(self.model.device)
            for name, each in get_trainable_parameters(self.model).items()
            if name.startswith(ear)
        ]
        return (
            0.0 * torch.stack(every).sum() if every else torch.zeros((), device=self.model.device)
        )


@torch.no_grad()
def compute_mean_loss(model: AudioLanguageModel, batches: list[Batch]) -> float:
    """Loss per label token over `batches`, in nats."""
    objective = AudioLMLoss(model)
    device = str(model.device)
    total = sum(float(objective(batch.to(device)).ce_loss.sum()) for batch in batches)
    return total / max(sum(batch.num_label_tokens for batch in batches), 1)


def compute_audio_gap(loss: float, shuffled_loss: float) -> float:
    """How much worse the model does with another clip's sound, in nats per token.

    Near zero means that the model ignores the audio.
    """
    return shuffled_loss - loss

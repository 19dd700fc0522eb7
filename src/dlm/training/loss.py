"""The loss of a training step: cross entropy of labels, mixed with distillation and CTC."""

from typing import NamedTuple

import torch
from torch import nn

from dlm.batching.chat_template import IGNORE_INDEX
from dlm.batching.collator import Batch
from dlm.models.adapters import get_trainable_parameters
from dlm.models.audio_lm import AudioLanguageModel
from dlm.models.cpu_kernels import sparse_last_mlp
from dlm.plan.types import DistillationPlan
from dlm.training.ctc import CtcLoss
from dlm.training.distillation import DistillationTeacher, TopKProbs, compute_kl_divergence


class LossOutput(NamedTuple):
    """Sums over the label tokens of each example, (examples,), fp32, in nats.

    Attributes:
        total_loss: what gradients are computed of.
        ce_loss: cross entropy; of a batch that is trained by CTC alone, the CTC loss.
        kl_loss: divergence from the teacher.
        num_distilled: label tokens that have a teacher.
    """

    total_loss: torch.Tensor
    ce_loss: torch.Tensor
    kl_loss: torch.Tensor
    num_distilled: torch.Tensor


class _LabelLogits(NamedTuple):
    """Logits (labels, vocab_size) at label positions, labels, and the example of each."""

    logits: torch.Tensor
    labels: torch.Tensor
    example_indices: torch.Tensor

    def sum_by_example(self, values: torch.Tensor, num_examples: int) -> torch.Tensor:
        """Sum values (labels,) over each example: (examples,)."""
        return values.new_zeros(num_examples).index_add(0, self.example_indices, values)


class AudioLMLoss(nn.Module):
    """The loss of each example of a batch; logits are computed at label positions only.

    Args:
        model: what is trained.
        teacher: for distillation.
        ctc: for CTC; None without it.
        ctc_weight: of CTC in the loss of transcripts; with 1, the language model is not run for a
            batch of transcripts alone.
    """

    def __init__(
        self,
        model: AudioLanguageModel,
        teacher: DistillationTeacher | None = None,
        *,
        ctc: CtcLoss | None = None,
        ctc_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.model, self.teacher = model, teacher
        self.ctc, self.ctc_weight = ctc if ctc_weight else None, ctc_weight

    def forward(self, batch: Batch) -> LossOutput:
        """Compute the losses of a batch, summed by example: the caller divides by label tokens."""
        if self.ctc is None:
            return self._compute_label_losses(batch)
        ctc_loss = self.ctc.compute_losses(batch)
        if self.ctc_weight == 1 and all(batch.transcript_mask):
            zeros = torch.zeros(2, len(ctc_loss)).to(ctc_loss)
            ctc_loss = ctc_loss + self._make_zero_audio_loss()
            return LossOutput(ctc_loss, ctc_loss.detach(), *zeros)
        losses = self._compute_label_losses(batch)
        weight = self.ctc_weight * torch.tensor(batch.transcript_mask).to(ctc_loss)
        return losses._replace(total_loss=(1 - weight) * losses.total_loss + weight * ctc_loss)

    def _compute_label_losses(self, batch: Batch) -> LossOutput:
        teacher_probs = None
        if self.teacher:
            teacher_probs = self.teacher.get_top_k_probs(batch.teacher_examples)
        outputs = self._compute_label_logits(batch)
        num_examples = len(batch.input_ids)
        ce_loss = outputs.sum_by_example(
            nn.functional.cross_entropy(outputs.logits, outputs.labels, reduction="none"),
            num_examples,
        )
        if batch.audio_features is None:
            ce_loss = ce_loss + self._make_zero_audio_loss()
        if self.teacher is None or teacher_probs is None:
            return LossOutput(ce_loss, ce_loss.detach(), *torch.zeros(2, num_examples).to(ce_loss))
        plan = self.teacher.plan
        kl_loss, eos_loss, num_distilled = self._compute_distillation_loss(
            outputs, teacher_probs, plan
        )
        weight = plan.weight * teacher_probs.has_teacher
        total_loss = (1 - weight) * ce_loss + weight * (kl_loss + eos_loss)
        return LossOutput(total_loss, ce_loss.detach(), kl_loss.detach(), num_distilled)

    def _compute_label_logits(self, batch: Batch) -> _LabelLogits:
        targets = batch.labels[:, 1:]  # each position predicts the next token
        label_mask = targets != IGNORE_INDEX
        lm_inputs = self.model.make_lm_inputs(batch)
        with sparse_last_mlp(self.model, nn.functional.pad(label_mask, (0, 1))):
            hidden_states = self.model.forward_lm(*lm_inputs)
        logits = self.model.compute_logits(hidden_states[:, :-1][label_mask]).float()
        return _LabelLogits(logits, targets[label_mask], label_mask.nonzero()[:, 0])

    def _compute_distillation_loss(
        self, outputs: _LabelLogits, teacher_probs: TopKProbs, plan: DistillationPlan
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The divergence of each example, what its end tokens add, and its number of labels.

        End tokens add, for each label of the example, `eos_weight` times their mean divergence.
        """
        has_teacher = teacher_probs.has_teacher[outputs.example_indices]
        distilled = _LabelLogits(*(tensor[has_teacher] for tensor in outputs))
        num_examples = len(teacher_probs.has_teacher)
        divergence = compute_kl_divergence(distilled.logits, teacher_probs, plan.temperature)
        is_eos = (distilled.labels == self.model.tokenizer.eos_token_id).float()
        num_labels = distilled.sum_by_example(torch.ones_like(divergence), num_examples)
        num_eos = distilled.sum_by_example(is_eos, num_examples).clamp(min=1)
        eos_loss = distilled.sum_by_example(divergence * is_eos, num_examples) / num_eos
        kl_loss = distilled.sum_by_example(divergence, num_examples)
        return kl_loss, plan.eos_weight * num_labels * eos_loss, num_labels

    def _make_zero_audio_loss(self) -> torch.Tensor:
        """Zero, as a function of encoder and projector: all ranks must have the same gradients."""
        prefixes = self.model.param_prefixes
        audio_prefixes = (*prefixes["encoder"], *prefixes["projector"])
        sums = [
            parameter.sum().to(self.model.device)
            for name, parameter in get_trainable_parameters(self.model).items()
            if name.startswith(audio_prefixes)
        ]
        return 0.0 * torch.stack(sums).sum() if sums else torch.zeros((), device=self.model.device)


@torch.no_grad()
def compute_mean_loss(model: AudioLanguageModel, batches: list[Batch]) -> float:
    """Compute the cross entropy per label token over batches, in nats."""
    loss_module, device = AudioLMLoss(model), str(model.device)
    total = sum(float(loss_module(batch.to(device)).ce_loss.sum()) for batch in batches)
    return total / max(sum(batch.num_label_tokens for batch in batches), 1)


def compute_audio_gap(loss: float, shuffled_loss: float) -> float:
    """Compute the listening gap, in nats per token: near zero, the model ignores the audio.

    Args:
        loss: with the right audio.
        shuffled_loss: with the audio of other examples.
    """
    return shuffled_loss - loss

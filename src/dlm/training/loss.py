"""What a model is taught: the likelihood of each label token, a teacher's answer, and to listen."""

from typing import NamedTuple

import torch
from torch import nn

from dlm.batches.chat import IGNORE
from dlm.batches.collate import Batch
from dlm.model.adapters import learning
from dlm.model.face import Model
from dlm.model.last import told_at
from dlm.plan.plan import Teaching
from dlm.training.teacher import Answer, Teacher, divergence


class Losses(NamedTuple):
    """Sums over the label tokens of each row (rows,), fp32, in nats.

    `said` is the cross entropy, `apart` how far a row is from the teacher's answer, which there is
    for the labels that are `answered`. Gradients are those of `learned`, which is made of both.
    """

    learned: torch.Tensor
    said: torch.Tensor
    apart: torch.Tensor
    answered: torch.Tensor


class _Spoken(NamedTuple):
    """Logits (labels, words) where labels are, the labels themselves, and the row of each."""

    logits: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor


class Objective(nn.Module):
    """Cross entropy of the label tokens, and a teacher's answer; logits only where labels are."""

    def __init__(self, model: Model, teacher: Teacher | None = None) -> None:
        super().__init__()
        self.model, self.teacher = model, teacher

    def forward(self, batch: Batch) -> Losses:
        """The losses of each row. Divide by label tokens outside, over the whole step."""
        answer = self.teacher.answer(batch.read) if self.teacher else None
        spoken = self._spoken(batch)
        losses = nn.functional.cross_entropy(spoken.logits, spoken.labels, reduction="none")
        said = losses.new_zeros(len(batch.ids)).index_add(0, spoken.rows, losses)
        if batch.sounds is None:
            said = said + self._unheard()
        if self.teacher is None or answer is None:
            return Losses(said, said.detach(), *torch.zeros(2, len(said)).to(said))
        apart, ends, answered = self._compared(spoken, answer, self.teacher.plan)
        weight = self.teacher.plan.weight * answer.rows
        learned = (1 - weight) * said + weight * (apart + ends)
        return Losses(learned, said.detach(), apart.detach(), answered)

    def _spoken(self, batch: Batch) -> _Spoken:
        """What is said at the labels."""
        targets = batch.labels[:, 1:]  # each position predicts the next token
        spots = targets != IGNORE
        embedded = self.model.merge(batch)
        with told_at(self.model.decoder, nn.functional.pad(spots, (0, 1))):
            hidden = self.model.think(embedded, batch.attention)
        logits = self.model.speak(hidden[:, :-1][spots]).float()
        return _Spoken(logits, targets[spots], spots.nonzero()[:, 0])

    def _compared(
        self, spoken: _Spoken, answer: Answer, plan: Teaching
    ) -> tuple[torch.Tensor, ...]:
        """How far each row is from the answer, what the ends of its turns add, and its labels.

        Per label of the row, they add `end_weight` times the mean over them.
        """
        at = answer.rows[spoken.rows]  # the labels with an answer
        each = divergence(spoken.logits[at], answer, plan.temperature)
        ends = (spoken.labels[at] == self.model.tokenizer.eos_token_id).float()

        def by_row(values: torch.Tensor) -> torch.Tensor:
            return values.new_zeros(len(answer.rows)).index_add(0, spoken.rows[at], values)

        labels = by_row(torch.ones_like(each))
        mean_of_ends = by_row(each * ends) / by_row(ends).clamp(min=1)
        return by_row(each), plan.end_weight * labels * mean_of_ends, labels

    def _unheard(self) -> torch.Tensor:
        """Zero, by way of all that only sound reaches: ranks must agree on what has a gradient."""
        ear = (*self.model.parts["encoder"], *self.model.parts["projector"])
        every = [
            each.sum().to(self.model.device)
            for name, each in learning(self.model).items()
            if name.startswith(ear)
        ]
        return (
            0.0 * torch.stack(every).sum() if every else torch.zeros((), device=self.model.device)
        )


@torch.no_grad()
def mean_loss(model: Model, batches: list[Batch]) -> float:
    """Loss per label token over `batches`, in nats."""
    objective = Objective(model)
    device = str(model.device)
    total = sum(float(objective(batch.to(device)).said.sum()) for batch in batches)
    return total / max(sum(batch.label_tokens for batch in batches), 1)


def listening_gap(loss: float, shuffled: float) -> float:
    """How much worse the model does with another clip's sound, in nats per token.

    Near zero means that the model ignores the audio.
    """
    return shuffled - loss

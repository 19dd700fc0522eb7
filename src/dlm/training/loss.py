"""What a model is taught: the likelihood of each label token, and whether it listens."""

import torch
from torch import nn

from dlm.batches.chat import IGNORE
from dlm.batches.collate import Batch
from dlm.model.adapters import learning
from dlm.model.face import Model
from dlm.model.last import told_at


class Objective(nn.Module):
    """Cross entropy summed over each row's label tokens; logits only where labels are."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> torch.Tensor:
        """(rows,) fp32 sums in nats. Divide by label tokens outside, over the whole step."""
        targets = batch.labels[:, 1:]  # each position predicts the next token
        spots = targets != IGNORE
        embedded = self.model.merge(batch)
        with told_at(self.model.decoder, nn.functional.pad(spots, (0, 1))):
            hidden = self.model.think(embedded, batch.attention)
        logits = self.model.speak(hidden[:, :-1][spots]).float()
        losses = nn.functional.cross_entropy(logits, targets[spots], reduction="none")
        rows = spots.nonzero()[:, 0]
        sums = losses.new_zeros(len(targets)).index_add(0, rows, losses)
        return sums if batch.sounds is not None else sums + self._unheard()

    def _unheard(self) -> torch.Tensor:
        """Zero, by way of all that only sound reaches: ranks must agree on what has a gradient."""
        ear = (*self.model.parts["encoder"], *self.model.parts["projector"])
        every = [each.sum() for name, each in learning(self.model).items() if name.startswith(ear)]
        return (
            0.0 * torch.stack(every).sum() if every else torch.zeros((), device=self.model.device)
        )


@torch.no_grad()
def mean_loss(model: Model, batches: list[Batch]) -> float:
    """Loss per label token over `batches`, in nats."""
    objective = Objective(model)
    device = str(model.device)
    total = sum(float(objective(batch.to(device)).sum()) for batch in batches)
    return total / max(sum(batch.label_tokens for batch in batches), 1)


def listening_gap(loss: float, shuffled: float) -> float:
    """How much worse the model does with another clip's sound, in nats per token.

    Near zero means that the model ignores the audio.
    """
    return shuffled - loss

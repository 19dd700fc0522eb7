"""The loss of one clip's row by hand: token by token, beside what the trainer makes of it.

By hand is from logits at every position, in fp64, without the trainer's short cuts. Where the two
differ something is wrong with the loss; where one token costs most, something is with the clip.
"""

from dataclasses import dataclass

import torch

from dlm.batches.chat import IGNORE
from dlm.batches.collate import Padding, collate
from dlm.clips.clip import Clip
from dlm.training.loss import mean_loss
from dlm.use.ready import Ready


@dataclass(frozen=True)
class TokenLoss:
    """A token that carries loss, its loss in nats, and the token the model would have said."""

    token: str
    loss: float
    likeliest: str


@dataclass(frozen=True)
class RowLoss:
    """The label tokens of one clip; `by_hand` and `trained` are both the mean of their losses."""

    place: str
    tokens: tuple[TokenLoss, ...]
    by_hand: float
    trained: float


@torch.no_grad()
def manual_loss(using: Ready, clip: Clip) -> RowLoss:
    """The loss of each label token of `clip`, in evaluation mode."""
    model, chat = using.model.eval(), using.chat
    batch = collate([chat.row(clip)], using.ear, Padding(chat.pad, chat.placeholder))
    here = batch.to(str(model.device))
    logits = model.speak(model.think(model.merge(here), here.attention)[0]).double()
    chances = logits.log_softmax(dim=-1)
    targets = here.labels[0, 1:]  # each position predicts the next token
    tokens = tuple(
        TokenLoss(chat.spell([label]), -float(chance[label]), chat.spell([int(chance.argmax())]))
        for label, chance in zip(targets.tolist(), chances, strict=False)
        if label != IGNORE
    )
    by_hand = sum(each.loss for each in tokens) / len(tokens)
    return RowLoss(clip.place, tokens, by_hand, mean_loss(model, [batch]))

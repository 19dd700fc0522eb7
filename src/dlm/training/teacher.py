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

from dlm.batches.chat import IGNORE, Row
from dlm.features.kept import keep, read_kept
from dlm.model.adapters import released, role_of
from dlm.model.face import Model
from dlm.plan.plan import Teaching

SAMPLED = 16  # numbers of each tensor that tell one language model from another


@dataclass(frozen=True)
class Answer:
    """The teacher's likeliest words (labels, k), and its shares (labels, k) of them.

    Where it left words out, one share more is that of all others together. `rows` (rows,) are those
    of the batch that it answers; labels are theirs, one row after the other.
    """

    words: torch.Tensor
    shares: torch.Tensor
    rows: torch.Tensor


class Teacher:
    """The language model of `model` as it was released, reading; it is asked once for each clip."""

    def __init__(self, model: Model, plan: Teaching, folder: Path) -> None:
        """Answers are kept in `folder`, by what is read, who reads and how much of it is kept."""
        self.plan = plan
        self._model, self._folder, self._who = model, folder, _fingerprint(model)

    def answer(self, read: tuple[Row | None, ...]) -> Answer | None:
        """What it says to what it reads of a batch; None where that is nothing."""
        rows = [row for row in read if row is not None]
        if not rows:
            return None
        paths = [self._path(row) for row in rows]
        kept = [read_kept(path) for path in paths]
        if None in kept:
            with released(self._model), torch.no_grad():
                kept = [
                    self._asked(row, path) if found is None else found
                    for row, path, found in zip(rows, paths, kept, strict=True)
                ]
        told = [found for found in kept if found is not None]
        words, shares = (torch.cat([each[name] for each in told]) for name in ("words", "shares"))
        device, known = self._model.device, torch.tensor([row is not None for row in read])
        return Answer(words.long().to(device), shares.to(device), known.to(device))

    def _asked(self, row: Row, path: Path) -> dict[str, torch.Tensor]:
        """Its answer to one row, alone, so that it is the same in whatever company."""
        ids = torch.tensor([row.ids], device=self._model.device)
        spots = torch.tensor([row.labels[1:]], device=ids.device) != IGNORE
        hidden = self._model.think(self._model.embed(ids), torch.ones_like(ids))
        logits = self._model.speak(hidden[:, :-1][spots]).float()
        words = logits.topk(min(self.plan.top_k, logits.shape[-1])).indices
        shares = _logs(logits, words, self.plan.temperature).exp()
        told = {"words": words.int().cpu(), "shares": shares.cpu()}
        keep(path, told)
        return told

    def _path(self, row: Row) -> Path:
        how = (self._who, self.plan.top_k, self.plan.temperature, row.ids, row.labels)
        return self._folder / f"{hashlib.sha256(repr(how).encode()).hexdigest()}.safetensors"


def divergence(logits: torch.Tensor, answer: Answer, temperature: float) -> torch.Tensor:
    """How far a student's logits (labels, words) are from the answer: (labels,), in nats."""
    said = _logs(logits, answer.words, temperature)
    return nn.functional.kl_div(said, answer.shares, reduction="none").sum(dim=-1)


def _logs(logits: torch.Tensor, words: torch.Tensor, temperature: float) -> torch.Tensor:
    """Logarithms of the shares of `words`, and of all others together if there are any."""
    flat = logits / temperature
    near = flat.gather(-1, words)
    if words.shape[-1] < flat.shape[-1]:
        others = flat.scatter(-1, words, -torch.inf).logsumexp(dim=-1, keepdim=True)
        near = torch.cat([near, others], dim=-1)
    return near.log_softmax(dim=-1)


def _fingerprint(model: Model) -> str:
    """Which language model it is, by a few numbers of each of its tensors and their format."""
    digest = hashlib.sha256()
    for name, each in model.named_parameters():
        if role_of(name, model) == "lm":
            some = each.detach().flatten()[:SAMPLED]
            digest.update(f"{each.dtype} {tuple(each.shape)} {some.tolist()}".encode())
    return digest.hexdigest()

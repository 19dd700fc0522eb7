"""The four questions every base answers; the trainer knows no other.

mel --hear--> features --project--> audio embeddings
token ids + audio embeddings --think--> hidden states --speak--> logits
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from dlm.batches.collate import Batch
from dlm.errors import ClipError
from dlm.plan.bases import Base, Role


@dataclass(frozen=True)
class Features:
    """What an encoder heard: (windows, frames, width), and the true frames of each (windows,)."""

    values: torch.Tensor
    frames: torch.Tensor


class Model(nn.Module, ABC):
    """A base that can hear. `parts` name its parameters by role."""

    base: Base
    tokenizer: PreTrainedTokenizerBase
    placeholder: int  # the token that stands for one token of sound

    @property
    @abstractmethod
    def parts(self) -> dict[Role, tuple[str, ...]]:
        """How the names of the parameters of each part begin."""

    @abstractmethod
    def hear(self, mel: torch.Tensor, frames: torch.Tensor) -> Features:
        """The encoder alone: `mel` (windows, bins, frames), `frames` (windows,) true lengths."""

    @abstractmethod
    def project(self, features: Features) -> torch.Tensor:
        """Audio embeddings of all windows, one after the other: (audio tokens, width)."""

    @property
    @abstractmethod
    def decoder(self) -> nn.Module:
        """The language model without its head: embeddings in, hidden states out."""

    @property
    @abstractmethod
    def head(self) -> nn.Module:
        """The language model's head: hidden states in, logits out."""

    @property
    @abstractmethod
    def words(self) -> nn.Module:
        """The table of text embeddings."""

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Text embeddings of (rows, tokens): (rows, tokens, width)."""
        embedded: torch.Tensor = self.words(ids)
        return embedded

    def think(self, embedded: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
        """Hidden states of merged embeddings: (rows, tokens, width)."""
        hidden: torch.Tensor = self.decoder(
            inputs_embeds=embedded, attention_mask=attention, use_cache=False
        ).last_hidden_state
        return hidden.to(embedded.device)  # the last layers may lie on another

    def speak(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of the hidden states (positions, width) one wants to hear: (positions, words)."""
        logits: torch.Tensor = self.head(hidden)
        return logits.to(hidden.device)

    def next_logits(
        self, embedded: torch.Tensor, attention: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        """Logits of the word after `embedded` (rows, new tokens, width): (rows, words).

        `attention` covers the tokens in the cache and the new ones; rows are padded on the left.
        """
        positions = (attention.cumsum(dim=1) - 1).clamp(min=0)[:, -embedded.shape[1] :]
        hidden = self.decoder(
            inputs_embeds=embedded,
            attention_mask=attention,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return self.speak(hidden[:, -1])

    def merge(self, batch: Batch) -> torch.Tensor:
        """Text embeddings, sound where the placeholders stand. Raises ClipError on a miscount."""
        embedded = self.embed(batch.ids)
        check_counts(batch, self.placeholder)
        if batch.sounds is None:
            return embedded
        features = (
            Features(batch.sounds, batch.frames)
            if batch.encoded
            else self.hear(batch.sounds.to(self.ear_device), batch.frames.to(self.ear_device))
        )
        audio = self.project(features).to(embedded)
        spots = (batch.ids == self.placeholder)[..., None].expand_as(embedded)
        return embedded.masked_scatter(spots, audio)

    def train(self, mode: bool = True) -> "Model":
        """Go to training mode; a frozen encoder stays as it is, for what it heard is kept."""
        ear = self.parts["encoder"]
        learns = any(
            name.startswith(ear) for name, each in self.named_parameters() if each.requires_grad
        )
        for name, module in self.named_modules():
            module.training = mode and (learns or not f"{name}.".startswith(ear))
        return self

    @torch.no_grad()
    def hear_one(self, mel: torch.Tensor, frames: int) -> torch.Tensor:
        """Features (frames, width) of one window's mel (bins, frames and tail), always the same."""
        lengths = torch.tensor([frames], device=self.ear_device)
        heard = self.hear(mel[None].to(self.ear_device), lengths)
        return heard.values[0, : int(heard.frames[0])].cpu().contiguous()

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens at which the released model stops, besides the end of a turn."""
        return ()

    @property
    def ear_device(self) -> torch.device:
        """Where it hears."""
        ear = self.parts["encoder"]
        return next(each for name, each in self.named_parameters() if name.startswith(ear)).device

    @property
    def device(self) -> torch.device:
        """Where its words lie, and so where it thinks; the encoder may lie elsewhere."""
        return next(self.words.parameters()).device


def ends_of(generator: PreTrainedModel) -> tuple[int, ...]:
    """The tokens at which a released language model stops."""
    config = generator.generation_config
    ends = None if config is None else config.eos_token_id
    return tuple(ends) if isinstance(ends, list | tuple) else () if ends is None else (ends,)


def check_counts(batch: Batch, placeholder: int) -> None:
    """Every row must hold as many placeholders as its sounds have tokens."""
    found = (batch.ids == placeholder).sum(dim=1).tolist()
    start = 0
    for place, windows, count in zip(batch.places, batch.windows_per_row, found, strict=True):
        expected = int(batch.spans[start : start + windows].sum())
        start += windows
        if count != expected:
            raise ClipError(
                f"{count} placeholders for {expected} tokens of sound",
                where=place,
                mend="report this clip: the counts come from one function and should agree",
            )

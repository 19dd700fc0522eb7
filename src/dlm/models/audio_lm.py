"""The four questions every base answers; the trainer knows no other.

mel --hear--> features --project--> audio embeddings
token ids + audio embeddings --think--> hidden states --speak--> logits
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from dlm.batching.collator import Batch
from dlm.errors import DataError
from dlm.plan.model_spec import ComponentName, ModelSpec


@dataclass(frozen=True)
class EncoderOutput:
    """What an encoder heard: (windows, frames, width), and the true frames of each (windows,)."""

    hidden_states: torch.Tensor
    lengths: torch.Tensor


class AudioLanguageModel(nn.Module, ABC):
    """A base that can hear. `parts` name its parameters by role."""

    spec: ModelSpec
    tokenizer: PreTrainedTokenizerBase
    audio_token_id: int  # the token that stands for one token of sound

    @property
    @abstractmethod
    def param_prefixes(self) -> dict[ComponentName, tuple[str, ...]]:
        """How the names of the parameters of each part begin."""

    @abstractmethod
    def encode_audio(
        self, input_features: torch.Tensor, feature_lengths: torch.Tensor
    ) -> EncoderOutput:
        """The encoder alone: `mel` (windows, bins, frames), `frames` (windows,) true lengths."""

    @abstractmethod
    def project_audio(self, encoder_output: EncoderOutput) -> torch.Tensor:
        """Audio embeddings of all windows, one after the other: (audio tokens, width)."""

    @property
    @abstractmethod
    def decoder(self) -> nn.Module:
        """The language model without its head: embeddings in, hidden states out."""

    @property
    @abstractmethod
    def lm_head(self) -> nn.Module:
        """The language model's head: hidden states in, logits out."""

    @property
    @abstractmethod
    def embed_tokens(self) -> nn.Module:
        """The table of text embeddings."""

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Text embeddings of (rows, tokens): (rows, tokens, width)."""
        embedded: torch.Tensor = self.embed_tokens(input_ids)
        return embedded

    def forward_lm(self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Hidden states of merged embeddings: (rows, tokens, width)."""
        hidden: torch.Tensor = self.decoder(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, use_cache=False
        ).last_hidden_state
        return hidden.to(inputs_embeds.device)  # the last layers may lie on another

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Logits of the hidden states (positions, width) one wants to hear: (positions, words)."""
        logits: torch.Tensor = self.lm_head(hidden_states)
        return logits.to(hidden_states.device)

    def compute_next_logits(
        self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        """Logits of the word after `embedded` (rows, new tokens, width): (rows, words).

        `attention` covers the tokens in the cache and the new ones; rows are padded on the left.
        """
        positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)[:, -inputs_embeds.shape[1] :]
        hidden = self.decoder(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return self.compute_logits(hidden[:, -1])

    def merge_audio_embeddings(self, batch: Batch) -> torch.Tensor:
        """Text embeddings, sound where the placeholders stand. Raises ClipError on a miscount."""
        embedded = self.embed_input_ids(batch.input_ids)
        check_placeholder_counts(batch, self.audio_token_id)
        if batch.audio_features is None:
            return embedded
        features = (
            EncoderOutput(batch.audio_features, batch.audio_lengths)
            if batch.is_encoded
            else self.encode_audio(
                batch.audio_features.to(self.encoder_device),
                batch.audio_lengths.to(self.encoder_device),
            )
        )
        audio = self.project_audio(features).to(embedded)
        spots = (batch.input_ids == self.audio_token_id)[..., None].expand_as(embedded)
        return embedded.masked_scatter(spots, audio)

    def train(self, mode: bool = True) -> "AudioLanguageModel":
        """Go to training mode; a frozen encoder stays as it is, for what it heard is kept."""
        ear = self.param_prefixes["encoder"]
        learns = any(
            name.startswith(ear) for name, each in self.named_parameters() if each.requires_grad
        )
        for name, module in self.named_modules():
            module.training = mode and (learns or not f"{name}.".startswith(ear))
        return self

    @torch.no_grad()
    def encode_single(self, input_features: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Features (frames, width) of one window's mel (bins, frames and tail), always the same."""
        lengths = torch.tensor([num_frames], device=self.encoder_device)
        heard = self.encode_audio(input_features[None].to(self.encoder_device), lengths)
        return heard.hidden_states[0, : int(heard.lengths[0])].cpu().contiguous()

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The tokens at which the released model stops, besides the end of a turn."""
        return ()

    @property
    def encoder_device(self) -> torch.device:
        """Where it hears."""
        ear = self.param_prefixes["encoder"]
        return next(each for name, each in self.named_parameters() if name.startswith(ear)).device

    @property
    def device(self) -> torch.device:
        """Where its words lie, and so where it thinks; the encoder may lie elsewhere."""
        return next(self.embed_tokens.parameters()).device


def get_eos_token_ids(model: PreTrainedModel) -> tuple[int, ...]:
    """The tokens at which a released language model stops."""
    config = model.generation_config
    ends = None if config is None else config.eos_token_id
    return tuple(ends) if isinstance(ends, list | tuple) else () if ends is None else (ends,)


def check_placeholder_counts(batch: Batch, audio_token_id: int) -> None:
    """Every row must hold as many placeholders as its sounds have tokens."""
    found = (batch.input_ids == audio_token_id).sum(dim=1).tolist()
    start = 0
    for place, windows, count in zip(
        batch.locations, batch.windows_per_example, found, strict=True
    ):
        expected = int(batch.audio_token_counts[start : start + windows].sum())
        start += windows
        if count != expected:
            raise DataError(
                f"{count} placeholders for {expected} tokens of sound",
                where=place,
                hint="report this clip: the counts come from one function and should agree",
            )

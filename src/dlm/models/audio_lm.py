"""The interface of every audio language model, and the one place that merges audio into text.

    input_features --encode_audio--> hidden states --project_audio--> audio embeddings
    input_ids + audio embeddings --forward_lm--> hidden states --compute_logits--> logits

Audio embeddings stand among the text in the places of placeholders, or beside it: the decoder of an
encoder-decoder model (Whisper) attends to them. `make_lm_inputs` is the one place that knows.
Training, evaluation and generation use nothing else of a model. A count of placeholders that
differs from the count of audio tokens is refused here.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from transformers import Cache, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from dlm.batching.collator import Batch
from dlm.errors import DataError
from dlm.plan.model_spec import ComponentName, ModelSpec


@dataclass(frozen=True)
class EncoderOutput:
    """What an audio encoder returns.

    Attributes:
        hidden_states: (windows, frames, hidden_size).
        lengths: (windows,) frames that are not padding.
    """

    hidden_states: torch.Tensor
    lengths: torch.Tensor


class LMInputs(NamedTuple):
    """What `forward_lm` takes.

    Attributes:
        inputs_embeds: (batch, tokens, hidden_size), audio in the places of placeholders.
        attention_mask: (batch, tokens), 0 for padding.
        audio_states: (batch, frames, hidden_size) that the decoder attends to; None where audio
            stands among the text.
    """

    inputs_embeds: torch.Tensor
    attention_mask: torch.Tensor
    audio_states: torch.Tensor | None = None


class AudioLanguageModel(nn.Module, ABC):
    """An audio encoder, a projector and a language model.

    Attributes:
        spec: shapes, strides, placeholder and chat format of the model.
        tokenizer: the language model's tokenizer.
        audio_token_id: the id of the placeholder, one for each audio token.
        has_sparse_last_mlp: whether training may skip the last feed-forward layer at positions
            without labels (`models/cpu_kernels.py`).
    """

    spec: ModelSpec
    tokenizer: PreTrainedTokenizerBase
    audio_token_id: int
    has_sparse_last_mlp: bool = False

    @property
    @abstractmethod
    def param_prefixes(self) -> dict[ComponentName, tuple[str, ...]]:
        """The prefixes of the parameter names of each component."""

    @abstractmethod
    def encode_audio(
        self, input_features: torch.Tensor, feature_lengths: torch.Tensor
    ) -> EncoderOutput:
        """Run the encoder.

        Args:
            input_features: log-mels (windows, num_mel_bins, frames) or waveforms (windows, 1,
                samples).
            feature_lengths: (windows,) frames or samples that are not padding.
        """

    @abstractmethod
    def project_audio(self, encoder_output: EncoderOutput) -> torch.Tensor:
        """Compute audio embeddings, window after window: (audio tokens, hidden_size)."""

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
        """Look up text embeddings: (batch, tokens) -> (batch, tokens, hidden_size)."""
        embeddings: torch.Tensor = self.embed_tokens(input_ids)
        return embeddings

    def forward_lm(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        audio_states: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compute hidden states (batch, tokens, hidden_size) of what `make_lm_inputs` returns."""
        beside = {} if audio_states is None else {"encoder_hidden_states": audio_states}
        hidden: torch.Tensor = self.decoder(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, use_cache=False, **beside
        ).last_hidden_state
        return hidden.to(inputs_embeds.device)  # the last layers may be on another device

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Compute logits: (positions, hidden_size) -> (positions, vocab_size)."""
        logits: torch.Tensor = self.lm_head(hidden_states)
        return logits.to(hidden_states.device)

    def make_cache(self) -> Cache:
        """Make an empty cache of keys and values for `compute_next_logits`."""
        return DynamicCache()

    def compute_next_logits(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        cache: Cache,
        audio_states: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compute the logits of the next token, and add the new tokens to `cache`.

        Args:
            inputs_embeds: (batch, new tokens, hidden_size), padded on the left.
            attention_mask: (batch, cached and new tokens).
            cache: keys and values of the tokens before.
            audio_states: as LMInputs has them.

        Returns:
            (batch, vocab_size).
        """
        positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)[:, -inputs_embeds.shape[1] :]
        beside = {} if audio_states is None else {"encoder_hidden_states": audio_states}
        hidden = self.decoder(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **beside,
        ).last_hidden_state
        return self.compute_logits(hidden[:, -1])

    def restrict_logits(
        self, logits: torch.Tensor, prompt_ids: torch.Tensor, answer_ids: torch.Tensor
    ) -> torch.Tensor:
        """Exclude tokens that the released model never generates next: here none.

        Args:
            logits: (batch, vocab_size) of the next token.
            prompt_ids: (batch, tokens) of the prompts, padded on the left.
            answer_ids: (batch, tokens) generated so far.

        Returns:
            (batch, vocab_size), minus infinity for excluded tokens.
        """
        return logits

    def make_lm_inputs(self, batch: Batch) -> LMInputs:
        """Embed a batch. Raises DataError as `merge_audio_embeddings`."""
        return LMInputs(self.merge_audio_embeddings(batch), batch.attention_mask)

    def make_prompt_inputs(self, batch: Batch) -> LMInputs:
        """Embed a batch of prompts to generate from, once what they leave open is known."""
        return self.make_lm_inputs(batch)

    def merge_audio_embeddings(self, batch: Batch) -> torch.Tensor:
        """Put audio embeddings in the places of the placeholders: (batch, tokens, hidden_size).

        Raises:
            DataError: the counts of an example differ (`data.placeholder_count`).
        """
        embeddings = self.embed_input_ids(batch.input_ids)
        _check_placeholder_counts(batch, self.audio_token_id)
        if batch.audio_features is None:
            return embeddings
        audio = self.embed_audio(batch.audio_features, batch).to(embeddings)
        is_audio = (batch.input_ids == self.audio_token_id)[..., None].expand_as(embeddings)
        return embeddings.masked_scatter(is_audio, audio)

    def embed_audio(self, audio_features: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Compute the audio embeddings of a batch's features: (audio tokens, hidden_size)."""
        if batch.is_encoded:
            return self.project_audio(EncoderOutput(audio_features, batch.audio_lengths))
        device = self.encoder_device
        lengths = batch.audio_lengths.to(device)
        return self.project_audio(self.encode_audio(audio_features.to(device), lengths))

    def train(self, mode: bool = True) -> "AudioLanguageModel":
        """Set training mode; a frozen encoder stays in evaluation mode, as its output is cached."""
        prefixes = self.param_prefixes["encoder"]
        encoder_trains = any(
            name.startswith(prefixes) and parameter.requires_grad
            for name, parameter in self.named_parameters()
        )
        for name, module in self.named_modules():
            module.training = mode and (encoder_trains or not f"{name}.".startswith(prefixes))
        return self

    @torch.no_grad()
    def encode_single(self, input_features: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Encode one window by itself, so that its output does not depend on a batch.

        Args:
            input_features: (num_mel_bins, frames) or (1, samples).
            num_frames: frames or samples that are not padding.

        Returns:
            (frames, hidden_size), on the CPU.
        """
        lengths = torch.tensor([num_frames], device=self.encoder_device)
        output = self.encode_audio(input_features[None].to(self.encoder_device), lengths)
        return output.hidden_states[0, : int(output.lengths[0])].cpu().contiguous()

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The tokens at which the released model stops, besides the end of a turn."""
        return ()

    @property
    def encoder_device(self) -> torch.device:
        """The device of the encoder."""
        prefixes = self.param_prefixes["encoder"]
        return next(
            parameter.device
            for name, parameter in self.named_parameters()
            if name.startswith(prefixes)
        )

    @property
    def device(self) -> torch.device:
        """The device of the text embeddings, where batches go."""
        return next(self.embed_tokens.parameters()).device


def get_eos_token_ids(model: PreTrainedModel) -> tuple[int, ...]:
    """Return the tokens at which a released language model stops."""
    config = model.generation_config
    token_ids = None if config is None else config.eos_token_id
    if isinstance(token_ids, list | tuple):
        return tuple(token_ids)
    return () if token_ids is None else (token_ids,)


def _check_placeholder_counts(batch: Batch, audio_token_id: int) -> None:
    """Refuse an example with more or fewer placeholders than audio tokens."""
    placeholder_counts = (batch.input_ids == audio_token_id).sum(dim=1).tolist()
    start = 0
    for location, num_windows, count in zip(
        batch.locations, batch.windows_per_example, placeholder_counts, strict=True
    ):
        expected = int(batch.audio_token_counts[start : start + num_windows].sum())
        start += num_windows
        if count != expected:
            raise DataError(
                f"{count} placeholders for {expected} tokens of audio",
                where=location,
                hint="report this clip: the counts come from one function and should agree",
                code="data.placeholder_count",
            )

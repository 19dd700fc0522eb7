"""CTC of the audio embeddings of a transcribed example against the tokens of its transcript.

    logit of audio embedding x for token v    k x . E_v / mean |E|^2, of text embeddings E
    logit of blank                            k / 2
    CTC (Graves et al. 2006)                  over the tokens of all transcripts that are trained on

An audio embedding equal to a token's text embedding has a logit of about `SELF_LOGIT`, so that what
the language model reads in place of audio comes to resemble the words, without running it. A
transcript with more tokens than its audio cannot be aligned and has no loss.
"""

from collections.abc import Iterable

import torch
from torch import nn

from dlm.batching.chat_template import IGNORE_INDEX, EncodedExample
from dlm.batching.collator import Batch
from dlm.models.audio_lm import AudioLanguageModel

SELF_LOGIT = 27.0  # of a text embedding of Gemma 3 270M with itself, in its own head
BLANK = 0  # the class before all tokens


def collect_transcript_token_ids(examples: Iterable[EncodedExample]) -> tuple[int, ...]:
    """Return the token ids of all transcripts, in order."""
    return tuple(
        sorted({label for each in examples if each.is_transcript for label in each.label_ids})
    )


class CtcLoss:
    """The CTC loss of a model's audio embeddings.

    Args:
        model: has the text embeddings, which get no gradient from it.
        token_ids: the classes besides blank.
    """

    def __init__(self, model: AudioLanguageModel, token_ids: tuple[int, ...]) -> None:
        self._model = model
        self._token_ids = torch.tensor(token_ids, dtype=torch.long)

    def compute_losses(self, batch: Batch) -> torch.Tensor:
        """Compute the loss of each example, (examples,), in nats; zero without a transcript."""
        device = self._model.device
        losses = torch.zeros(len(batch.input_ids), device=device)
        all_targets = {
            index: self._get_targets(labels)
            for index, labels in enumerate(batch.labels)
            if batch.transcript_mask[index]
        }
        targets = {index: ids for index, ids in all_targets.items() if len(ids)}
        if not targets or batch.audio_features is None:
            return losses
        audio = self._model.embed_audio(batch.audio_features, batch).to(device).float()
        counts: list[int] = (batch.input_ids == self._model.audio_token_id).sum(dim=1).tolist()
        embeddings = audio.split(counts)
        padded = nn.utils.rnn.pad_sequence([embeddings[index] for index in targets])
        transcript_losses = nn.functional.ctc_loss(
            self._compute_logits(padded).log_softmax(dim=-1),
            torch.cat(list(targets.values())),
            torch.tensor([counts[index] for index in targets]),
            torch.tensor([len(ids) for ids in targets.values()]),
            blank=BLANK,
            reduction="none",
            zero_infinity=True,
        )
        return losses.index_add(0, torch.tensor(list(targets), device=device), transcript_losses)

    def _get_targets(self, labels: torch.Tensor) -> torch.Tensor:
        """The classes of a transcript's tokens, without the token that ends it."""
        ids = labels[1:][labels[1:] != IGNORE_INDEX]
        ids = ids[ids != self._model.tokenizer.eos_token_id]
        return torch.searchsorted(self._token_ids.to(ids.device), ids) + 1

    def _compute_logits(self, audio: torch.Tensor) -> torch.Tensor:
        """(tokens, transcripts, hidden_size) -> (tokens, transcripts, classes)."""
        with torch.no_grad():
            table = self._model.embed_input_ids(self._token_ids.to(audio.device)).float()
            factor = SELF_LOGIT / table.square().sum(dim=1).mean()
        logits = audio @ table.T * factor
        return nn.functional.pad(logits, (1, 0), value=SELF_LOGIT / 2)

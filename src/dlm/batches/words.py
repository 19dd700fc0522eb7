"""The tokenizer of a base that is stitched as it is loaded (H3 completes this: bytes, placeholder)."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from dlm.batches.chat import tokenizer_in
from dlm.plan.bases import Base


def words_for(base: Base, folder: Path | None) -> PreTrainedTokenizerBase:
    """The language model's own tokenizer, or one of bytes where `folder` is None."""
    return tokenizer_in(folder or Path(), base)

"""Which chat form a base speaks."""

from transformers import PreTrainedTokenizerBase

from dlm.batches.chat import Chat
from dlm.plan.bases import Base


def chat_of(tokenizer: PreTrainedTokenizerBase, base: Base) -> Chat:
    """The chat form of a base. Raises BaseError when its tokenizer lacks what the form needs."""
    return Chat(tokenizer, base)

"""Which chat form a base speaks."""

from transformers import PreTrainedTokenizerBase

from dlm.batches.chat import Chat
from dlm.batches.mistral import MistralChat
from dlm.batches.parts import AsrChat, PartsChat
from dlm.plan.bases import Base

FORMS: dict[str, type[Chat]] = {"mistral": MistralChat, "parts": PartsChat, "asr": AsrChat}


def chat_of(tokenizer: PreTrainedTokenizerBase, base: Base) -> Chat:
    """The chat form of a base. Raises BaseError when its tokenizer lacks what the form needs."""
    return FORMS.get(base.chat, Chat)(tokenizer, base)

"""The tokenizer of a base that is stitched as it is loaded, with a token that stands for sound.

    0 .. 255    the bytes of UTF-8 text     a tokenizer of bytes, for a model made from nothing
    256 .. 259  <|endoftext|>  <|im_start|>  <|im_end|>  <|audio|>

The token for sound is added to a tokenizer that has none. Its number may lie beyond the table of
embeddings, which is never resized: sound takes its place before the table is asked.
"""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from dlm.batching.chat_template import load_pretrained_tokenizer
from dlm.plan.model_spec import ModelSpec

PAD_TOKEN, IM_START_TOKEN, IM_END_TOKEN, AUDIO_TOKEN = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|audio|>",
)
CHATML_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PRINTABLE_BYTES = (
    *range(0x21, 0x7F),
    *range(0xA1, 0xAD),
    *range(0xAE, 0x100),
)  # bytes that are their letter


def build_tokenizer(spec: ModelSpec, folder: Path | None) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`, or one of bytes where it is None, with the base's placeholder.

    Raises BaseError where the folder holds none.
    """
    return add_audio_token(
        load_pretrained_tokenizer(folder, spec) if folder else build_byte_tokenizer(), spec
    )


def build_byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte, at its number, and four special ones; its template is ChatML."""
    specials = [PAD_TOKEN, IM_START_TOKEN, IM_END_TOKEN, AUDIO_TOKEN]
    numbers = {token: number for number, token in enumerate([*_bytes_to_unicode(), *specials])}
    tokenizer = Tokenizer(models.BPE(vocab=numbers, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD_TOKEN,
        eos_token=IM_END_TOKEN,
        extra_special_tokens=[IM_START_TOKEN, AUDIO_TOKEN],
    )
    fast.chat_template = CHATML_TEMPLATE
    return fast


def add_audio_token(tokenizer: PreTrainedTokenizerBase, spec: ModelSpec) -> PreTrainedTokenizerBase:
    """The same tokenizer, which knows the base's placeholder as one special token."""
    if spec.placeholder not in tokenizer.all_special_tokens:
        tokenizer.add_special_tokens(
            {"extra_special_tokens": [spec.placeholder]}, replace_extra_special_tokens=False
        )
    return tokenizer


def _bytes_to_unicode() -> list[str]:
    """The letter that stands for each byte in the vocabulary of a byte-level tokenizer (GPT-2)."""
    free = iter(range(0x100, 0x200))
    return [chr(byte) if byte in PRINTABLE_BYTES else chr(next(free)) for byte in range(256)]

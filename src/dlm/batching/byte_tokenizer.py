"""The tokenizer of a composed model: its language model's with a placeholder added, or of bytes.

    0 .. 255    the bytes of UTF-8 text, for a language model from scratch
    256 .. 259  <|endoftext|>  <|im_start|>  <|im_end|>  <|audio|>

The placeholder is added to a tokenizer that has none. Its id may lie beyond the embedding table,
which is never resized: audio embeddings replace it before the table is read.
"""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from dlm.batching.chat_template import load_pretrained_tokenizer
from dlm.plan.model_spec import ModelSpec

PAD_TOKEN, IM_START_TOKEN, IM_END_TOKEN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
AUDIO_TOKEN = "<|audio|>"
CHATML_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# bytes that stand for themselves in the vocabulary of a byte-level tokenizer (GPT-2)
PRINTABLE_BYTES = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))


def build_tokenizer(spec: ModelSpec, folder: Path | None) -> PreTrainedTokenizerBase:
    """Load the tokenizer in `folder`, or make one of bytes for None; add the placeholder.

    Raises:
        ModelError: the folder has no tokenizer (`model.bad_tokenizer`).
    """
    tokenizer = load_pretrained_tokenizer(folder, spec) if folder else build_byte_tokenizer()
    return add_audio_token(tokenizer, spec)


def build_byte_tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer with one token for each byte, four special tokens and ChatML."""
    others = iter(range(0x100, 0x200))
    letters = [chr(byte) if byte in PRINTABLE_BYTES else chr(next(others)) for byte in range(256)]
    specials = [PAD_TOKEN, IM_START_TOKEN, IM_END_TOKEN, AUDIO_TOKEN]
    vocab = {token: number for number, token in enumerate([*letters, *specials])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
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
    """Add the model's placeholder to a tokenizer as one special token, if it is missing."""
    if spec.placeholder not in tokenizer.all_special_tokens:
        tokenizer.add_special_tokens(
            {"extra_special_tokens": [spec.placeholder]}, replace_extra_special_tokens=False
        )
    return tokenizer

"""Train sparrow's tokenizer: a byte-level BPE of 1,024 tokens.

    python recipes/sparrow/train_tokenizer.py --work DIR

writes `DIR/tokenizer`, a folder that `AutoTokenizer` opens. Every byte is a token, so decoding an
encoded UTF-8 text returns it unchanged.
"""

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from questions import ANSWERS, NUMBER_WORDS, PHRASINGS, TRANSCRIBE_PROMPT
from sentences import iter_sentences, list_vocabulary
from synthesize_speech import FIRST_SENTENCE, SEED

VOCAB_SIZE = 1_024
NUM_SENTENCES = 60_000
PAD_TOKEN, START_TOKEN, END_TOKEN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
AUDIO_TOKEN = "<|audio|>"
MAX_TOKENS = 2_048
CHAT_TEMPLATE = """\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] \
+ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}\
{% endif %}"""


def train_tokenizer(work_dir: Path) -> None:
    """Train the merges on the training sentences, and save the tokenizer."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[PAD_TOKEN, START_TOKEN, END_TOKEN, AUDIO_TOKEN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(_iter_texts(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD_TOKEN,
        eos_token=END_TOKEN,
        additional_special_tokens=[START_TOKEN, AUDIO_TOKEN],
        model_max_length=MAX_TOKENS,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
    tokenizer.save_pretrained(work_dir / "tokenizer")


def _iter_texts() -> Iterator[str]:
    """Yield sentences, prompts, questions and answers."""
    first = FIRST_SENTENCE["train"]
    yield from islice(iter_sentences(SEED), first, first + NUM_SENTENCES)
    for _ in range(4):
        yield from (f" {word}" for word in list_vocabulary())
    for _ in range(2_000):
        yield from (TRANSCRIBE_PROMPT, "user", "assistant")
    for _ in range(200):
        yield from ("system", *NUMBER_WORDS.split(), *ANSWERS)
        yield from (phrase for phrases in PHRASINGS.values() for phrase in phrases)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    train_tokenizer(parser.parse_args().work)

"""Sparrow's vocabulary: 768 tokens of bytes and pieces of everyday words.

    python recipes/sparrow/tokenizer.py --work DIR

leaves `DIR/tokenizer`, a folder that `AutoTokenizer` opens. Any UTF-8 text survives the way there
and back, because every byte is a token.
"""

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import text
from questions import ANSWERS, COUNTS, PHRASINGS, PROMPT

SIZE = 768
PAD, START, END, AUDIO = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio|>"
LONGEST_TOKENS = 2_048
CHAT = """\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] \
+ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}\
{% endif %}"""


def make_tokenizer(work: Path) -> PreTrainedTokenizerFast:
    """Learn the merges from the training sentences and save the folder."""
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=[PAD, START, END, AUDIO],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bare.train_from_iterator(_lessons(work), trainer)
    whole = PreTrainedTokenizerFast(
        tokenizer_object=bare,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[START, AUDIO],
        model_max_length=LONGEST_TOKENS,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT,
    )
    whole.save_pretrained(work / "tokenizer")
    return whole


def _lessons(work: Path) -> Iterator[str]:
    """Sentences as they are said, every word of the vocabulary often, questions and answers."""
    with (work / "train.jsonl").open(encoding="utf-8") as lines:
        yield from (json.loads(line)["text"] for line in islice(lines, 20_000))
    for _ in range(12):
        yield from (f" {word}" for word in text.vocabulary())
        yield from (text.vocabulary())[::3]
    for _ in range(2_000):
        yield from (PROMPT, "user", "assistant")
    for _ in range(200):
        yield from ("system", *COUNTS.split(), *ANSWERS)
        yield from (phrase for phrases in PHRASINGS.values() for phrase in phrases)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    make_tokenizer(parser.parse_args().work)

"""The tokenizer of a stitched base: bytes, and a token for sound where there was none."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from dlm.batching.byte_tokenizer import add_audio_token, build_byte_tokenizer, build_tokenizer
from dlm.batching.chat_template import ChatEncoder
from dlm.data.types import AudioSegment, Example, Message
from dlm.errors import ModelError
from dlm.models.composed import ComposedAudioLM, load_composed_model, save_composed_model
from tests.tiny_models import CHATML_TEMPLATE, make_tiny_config, make_tiny_spec

BYTES = build_byte_tokenizer()


def make_text_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte and three of ChatML: 259, and none for sound."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate([*specials, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=specials[0],
        eos_token=specials[2],
        extra_special_tokens=specials[1:2],
    )
    fast.chat_template = CHATML_TEMPLATE
    return fast


@given(st.text())
def test_every_token_is_a_byte(text: str) -> None:
    plain = text.replace("<|", "<")
    ids = BYTES(plain)["input_ids"]
    assert ids == list(plain.encode())
    assert BYTES.decode(ids) == plain


def test_byte_tokenizer_is_saved_with_its_model(tmp_path: Path) -> None:
    BYTES.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert len(again) == 260 and again.chat_template == BYTES.chat_template
    text = "héllo\n<|im_end|><|audio|>漢"
    assert again(text)["input_ids"] == BYTES(text)["input_ids"]
    assert again.all_special_tokens == BYTES.all_special_tokens


@pytest.mark.parametrize("chat", ["plain", "template"])
def test_byte_tokenizer_encodes_an_example(chat: str) -> None:
    base = replace(make_tiny_spec(), chat_format=chat)
    chat_encoder = ChatEncoder(build_tokenizer(base, None), base)
    turns = (
        Message("user", (AudioSegment(Path("a.wav")), "Which?")),
        Message("assistant", ("low",)),
    )
    encoded = chat_encoder.encode_example(Example(turns, "here", "answer"))
    prompt = "<|audio|>\nWhich?\n"
    if chat == "template":
        prompt = f"<|im_start|>user\n{prompt.rstrip()}<|im_end|>\n<|im_start|>assistant\n"
    label_ids = [label for label in encoded.labels if label >= 0]
    assert label_ids == [*b"low", chat_encoder.eos_token_id]
    assert chat_encoder.decode_raw(list(encoded.input_ids)).startswith(f"{prompt}low<|im_end|>")
    assert encoded.input_ids.count(chat_encoder.audio_token_id) == 1


def test_placeholder_is_added_to_a_tokenizer_without_one(tmp_path: Path) -> None:
    base = replace(make_tiny_spec(), placeholder="<|audio|>")
    tokenizer = add_audio_token(make_text_tokenizer(), base)
    assert tokenizer("a<|audio|>b")["input_ids"][1] == 259 == len(tokenizer) - 1
    assert "<|im_start|>" in tokenizer.all_special_tokens, "those it had are kept"
    known = len(BYTES)
    assert len(add_audio_token(build_byte_tokenizer(), base)) == known, (
        "one that has it stays as it is"
    )
    (tmp_path / "none").mkdir()
    with pytest.raises(ModelError) as caught:
        build_tokenizer(base, tmp_path / "none")
    assert caught.value.code == "model.bad_tokenizer"


def test_embedding_table_is_not_resized_for_the_placeholder(tmp_path: Path) -> None:
    """Tied embeddings stay tied and as large as they were, before and after a folder."""
    base, config = make_tiny_spec(), make_tiny_config()
    config["lm"] |= {"vocab_size": 259, "tie_word_embeddings": True}
    torch.manual_seed(0)
    model = ComposedAudioLM(base, config, add_audio_token(make_text_tokenizer(), base)).eval()
    assert model.audio_token_id == 259 == len(model.embed_tokens.weight)
    assert model.embed_tokens.weight is model.lm_head.weight
    ids = torch.tensor([[5, 259, 6]])
    with torch.no_grad():
        audio_embedding = torch.randn(1, 1, 32)
        hidden = model.decoder(
            inputs_embeds=torch.cat([model.embed_input_ids(ids)[:, :1], audio_embedding], dim=1)
        )
        before = model.lm_head(hidden.last_hidden_state)
    save_composed_model(model, tmp_path)
    again = load_composed_model(tmp_path)
    assert again.audio_token_id == 259 and again.embed_tokens.weight is again.lm_head.weight
    with torch.no_grad():
        hidden = again.decoder(
            inputs_embeds=torch.cat([again.embed_input_ids(ids)[:, :1], audio_embedding], dim=1)
        )
        assert torch.equal(again.lm_head(hidden.last_hidden_state), before)
    assert before.shape[-1] == 259

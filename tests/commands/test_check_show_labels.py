"""`dlm check --show-labels`: tokens, labels, and examples that cannot be encoded."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dlm.batching.inspect_labels import LabelSpan, make_label_view
from dlm.batching.mistral_chat import build_chat_encoder
from dlm.data.types import AudioSegment, Example, Message
from dlm.models.load import load_tokenizer
from dlm.plan.audio_lengths import count_audio_tokens
from dlm.plan.model_spec import MODEL_CATALOG, read_model_spec
from tests.cli_runner import dlm
from tests.tiny_models import make_example, write_document, write_tiny_model, write_tone
from tests.tiny_voxtral import write_tekken

QUESTION = """
::instruction::
### Q
Higher or lower?
### A
Higher.
"""


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def document(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_document(
        tmp_path, base_model=tiny_model, num_clips=2, training="  held_out: 0\n", body=QUESTION
    )
    return Path("my.dlm")


def append(document: Path, text: str) -> None:
    document.write_text(document.read_text() + text)


def test_tokens_and_labels_of_an_example_are_printed(document: Path, home: Path) -> None:
    result = dlm("check", document, "--show-labels")
    assert result.code == 0, result
    view = result.out.split("\n\n", 1)[1].splitlines()
    assert view == [
        "my.dlm:10: 4 of 44 tokens carry loss (marked >)",
        "      6  <|im_start|>user\\n",
        "      8  <|audio|> x 8",
        "     25  \\nTranscribe.<|im_end|>\\n<|im_start|>assistant\\n",
        ">     4  one<|im_end|>",
        "      1  \\n",
    ]
    assert not home.exists()


def test_labels_as_json(document: Path) -> None:
    labels = json.loads(dlm("check", document, "--show-labels", "--json").out)["labels"]
    assert labels["location"] == "my.dlm:10"
    assert sum(span["num_tokens"] for span in labels["spans"]) == labels["num_tokens"]
    texts = [span["text"] for span in labels["spans"] if span["has_loss"]]
    assert texts == ["one<|im_end|>"]
    assert json.loads(dlm("check", document, "--json").out)["labels"] is None


def test_labels_need_no_weights(document: Path, tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    for file in tiny_model.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    document.write_text(document.read_text().replace(str(tiny_model), "bare"))
    result = dlm("check", document, "--show-labels")
    assert "<|audio|> x 8" in result.out, result


def test_labels_are_coloured_in_a_terminal(document: Path) -> None:
    output = dlm("check", document, "--show-labels", terminal=True).out
    assert "\x1b[32m>     4  one<|im_end|>\x1b[0m" in output
    assert output.count("\x1b[32m") == 1


def test_text_has_loss_except_on_its_first_token(tiny_model: Path, tmp_path: Path) -> None:
    spec = read_model_spec(tiny_model)
    example = Example((Message("assistant", ("Hi there",)),), "my.dlm:9", "text")
    view = make_label_view(
        example, build_chat_encoder(load_tokenizer(spec), spec), spec.audio_spec, None
    )
    assert view.spans == (
        LabelSpan("H", 1, False),
        LabelSpan("i there<|im_end|>", 8, True),
    )


def test_placeholders_of_several_segments_and_windows(tiny_model: Path, tmp_path: Path) -> None:
    spec = read_model_spec(tiny_model)
    short = write_tone(tmp_path / "a.wav", hertz=200, seconds=0.5)
    long = write_tone(tmp_path / "b.wav", hertz=300, seconds=5.0)
    messages = (
        Message("user", (AudioSegment(short), AudioSegment(long), "Which?")),
        Message("assistant", ("B",)),
    )
    chat_encoder = build_chat_encoder(load_tokenizer(spec), spec)
    for max_windows in (None, 1):
        view = make_label_view(
            Example(messages, "x", "answer"), chat_encoder, spec.audio_spec, max_windows
        )
        counts = [span.num_tokens for span in view.spans if " x " in span.text]
        assert counts == [
            count_audio_tokens(8_000, spec.audio_spec),
            count_audio_tokens(80_000, spec.audio_spec, max_windows),
        ]


def test_tokens_of_voxtral(tmp_path: Path) -> None:
    write_tekken(tmp_path / "tekken.json")
    spec = replace(MODEL_CATALOG["voxtral-mini-3b"], source=str(tmp_path))
    example = make_example(write_tone(tmp_path / "a.wav", hertz=200), "Bonjour.")
    example = replace(example, language="fr")
    view = make_label_view(
        example, build_chat_encoder(load_tokenizer(spec), spec), spec.audio_spec, None
    )
    texts = [span.text for span in view.spans]
    assert texts[:2] == ["<s>[INST][BEGIN_AUDIO]", "[AUDIO] x 375"]
    assert texts[2].startswith("[/INST]") and "[TRANSCRIBE]" in texts[2]
    assert texts[3] == "Bonjour.</s>" and view.spans[3].has_loss


REFUSED = {
    "placeholder": ('\n::audio path="clips/0.wav" transcript="a <|audio|> b"::\n', "<|audio|>"),
    "end": ('\n::audio path="clips/0.wav" transcript="a <|im_end|> b"::\n', "<|im_end|>"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_transcript_with_a_special_token_is_refused(name: str, document: Path, home: Path) -> None:
    text, token = REFUSED[name]
    append(document, text)
    result = dlm("train", document, "--steps", 1)
    assert result.code == 1 and not list(home.rglob("v0001"))
    line = result.err.splitlines()[-1]
    assert line == f"my.dlm:20: the text holds the special token {token}; write it differently"


def test_held_out_clips_are_encoded_before_the_run(document: Path, home: Path) -> None:
    document.write_text(document.read_text().replace("held_out: 0", "held_out: 0.99"))
    append(document, "".join(REFUSED["end"][0].replace("0.wav", f"{n}.wav") for n in range(2)))
    result = dlm("train", document, "--steps", 1)
    assert result.code == 1 and "special token <|im_end|>" in result.err, result
    assert not list(home.rglob("run.json"))


def test_audio_too_long_for_a_sequence_is_refused(document: Path) -> None:
    write_tone(Path("clips/0.wav"), hertz=200, seconds=6.0)
    message = (
        "my.dlm:10: its audio takes 75 tokens, and training.sequence_len is 64; cut the clip",
    )
    result = dlm("check", document, "--set", "training.sequence_len=64")
    assert result.code == 1 and message[0] in result.err, result
    write_tone(Path("clips/1.wav"), hertz=200, seconds=45.0)
    result = dlm("check", document)
    assert result.code == 1, result
    assert "my.dlm:12: its audio takes 563 tokens, and the context of tiny is 512" in result.err
    overrides = ("training.sequence_len=64", "training.audio.long_clips=truncate")
    result = dlm("check", document, "--set", overrides[0], "--set", overrides[1])
    assert result.code == 0, result


def test_too_many_segments_for_a_sequence_are_refused(document: Path) -> None:
    audio_tags = "<audio>clips/0.wav</audio>" * 9
    append(
        document, f"\n::conversation::\n### User\n{audio_tags} How many?\n### Assistant\nNine.\n"
    )
    result = dlm("check", document, "--set", "training.sequence_len=64")
    assert result.code == 1, result
    assert "my.dlm:20: its audio takes 72 tokens, and training.sequence_len is 64" in result.err


def test_text_alone_trains_and_a_prompt_needs_audio(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_document(tmp_path, base_model=tiny_model, num_clips=0, body="Only words stand here.\n")
    assert dlm("train", "my.dlm", "--steps", 1).code == 0
    message = "audio-language base requires at least one --audio PATH"
    dlm("prompt", "my.dlm", "What?").refused(message, code=2)

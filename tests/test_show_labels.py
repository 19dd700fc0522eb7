"""`dlm check --show-labels`: what the model is given and what it learns, and what makes no row."""

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

ASKED = """
::instruction::
### Q
Higher or lower?
### A
Higher.
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def document(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_document(tmp_path, base_model=tiny, num_clips=2, training="  held_out: 0\n", body=ASKED)
    return Path("my.dlm")


def add(document: Path, text: str) -> None:
    document.write_text(document.read_text() + text)


def test_a_row_is_shown_as_it_is_learned(document: Path, home: Path) -> None:
    done = dlm("check", document, "--show-labels")
    assert done.code == 0, done
    shown = done.out.split("\n\n", 1)[1].splitlines()
    assert shown == [
        "my.dlm:10: 4 of 44 tokens are learned (marked >)",
        "      6  <|im_start|>user\\n",
        "      8  <|audio|> x 8",
        "     25  \\nTranscribe.<|im_end|>\\n<|im_start|>assistant\\n",
        ">     4  one<|im_end|>",
        "      1  \\n",
    ]
    assert not home.exists()


def test_labels_are_in_json(document: Path) -> None:
    found = json.loads(dlm("check", document, "--show-labels", "--json").out)["labels"]
    assert found["location"] == "my.dlm:10"
    assert sum(each["num_tokens"] for each in found["spans"]) == found["num_tokens"]
    learned = [each["text"] for each in found["spans"] if each["has_loss"]]
    assert learned == ["one<|im_end|>"]
    assert json.loads(dlm("check", document, "--json").out)["labels"] is None


def test_labels_need_no_weights(document: Path, tiny: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in tiny.iterdir():
        if file.suffix != ".safetensors":
            (bare / file.name).write_bytes(file.read_bytes())
    document.write_text(document.read_text().replace(str(tiny), "bare"))
    done = dlm("check", document, "--show-labels")
    assert "<|audio|> x 8" in done.out, done


def test_labels_are_coloured_where_somebody_looks(document: Path) -> None:
    told = dlm("check", document, "--show-labels", terminal=True).out
    assert "\x1b[32m>     4  one<|im_end|>\x1b[0m" in told
    assert told.count("\x1b[32m") == 1


def test_prose_is_learned_but_for_its_first_token(tiny: Path, tmp_path: Path) -> None:
    base = read_model_spec(tiny)
    prose = Example((Message("assistant", ("Hi there",)),), "my.dlm:9", "text")
    shown = make_label_view(
        prose, build_chat_encoder(load_tokenizer(base), base), base.audio_spec, None
    )
    assert shown.spans == (
        LabelSpan("H", 1, False),
        LabelSpan("i there<|im_end|>", 8, True),
    )


def test_several_sounds_and_windows_are_counted(tiny: Path, tmp_path: Path) -> None:
    base = read_model_spec(tiny)
    short = write_tone(tmp_path / "a.wav", hertz=200, seconds=0.5)
    long = write_tone(tmp_path / "b.wav", hertz=300, seconds=5.0)
    turns = (
        Message("user", (AudioSegment(short), AudioSegment(long), "Which?")),
        Message("assistant", ("B",)),
    )
    chat = build_chat_encoder(load_tokenizer(base), base)
    for most in (None, 1):
        shown = make_label_view(Example(turns, "x", "answer"), chat, base.audio_spec, most)
        runs = [each.num_tokens for each in shown.spans if " x " in each.text]
        assert runs == [
            count_audio_tokens(8_000, base.audio_spec),
            count_audio_tokens(80_000, base.audio_spec, most),
        ]


def test_voxtrals_form(tmp_path: Path) -> None:
    write_tekken(tmp_path / "tekken.json")
    base = replace(MODEL_CATALOG["voxtral-mini-3b"], source=str(tmp_path))
    clip = make_example(write_tone(tmp_path / "a.wav", hertz=200), "Bonjour.")
    clip = replace(clip, language="fr")
    shown = make_label_view(
        clip, build_chat_encoder(load_tokenizer(base), base), base.audio_spec, None
    )
    texts = [each.text for each in shown.spans]
    assert texts[:2] == ["<s>[INST][BEGIN_AUDIO]", "[AUDIO] x 375"]
    assert texts[2].startswith("[/INST]") and "[TRANSCRIBE]" in texts[2]
    assert texts[3] == "Bonjour.</s>" and shown.spans[3].has_loss


REFUSED = {
    "placeholder": ('\n::audio path="clips/0.wav" transcript="a <|audio|> b"::\n', "<|audio|>"),
    "end": ('\n::audio path="clips/0.wav" transcript="a <|im_end|> b"::\n', "<|im_end|>"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_transcript_with_a_special_token(name: str, document: Path, home: Path) -> None:
    text, token = REFUSED[name]
    add(document, text)
    done = dlm("train", document, "--steps", 1)
    assert done.code == 1 and not list(home.rglob("v0001"))
    line = done.err.splitlines()[-1]
    assert line == f"my.dlm:20: the text holds the special token {token}; write it another way"


def test_a_held_out_clip_is_tried_before_the_run(document: Path, home: Path) -> None:
    document.write_text(document.read_text().replace("held_out: 0", "held_out: 0.99"))
    add(document, "".join(REFUSED["end"][0].replace("0.wav", f"{n}.wav") for n in range(2)))
    done = dlm("train", document, "--steps", 1)
    assert done.code == 1 and "special token <|im_end|>" in done.err, done
    assert not list(home.rglob("run.json"))


def test_a_sound_too_long_for_a_row_is_told_by_check(document: Path) -> None:
    write_tone(Path("clips/0.wav"), hertz=200, seconds=6.0)
    said = ("my.dlm:10: its audio takes 75 tokens, and training.sequence_len is 64; cut the clip",)
    done = dlm("check", document, "--set", "training.sequence_len=64")
    assert done.code == 1 and said[0] in done.err, done
    write_tone(Path("clips/1.wav"), hertz=200, seconds=45.0)
    done = dlm("check", document)
    assert done.code == 1, done
    assert "my.dlm:12: its audio takes 563 tokens, and the context of tiny is 512" in done.err
    cut = ("training.sequence_len=64", "training.audio.long_clips=truncate")
    done = dlm("check", document, "--set", cut[0], "--set", cut[1])
    assert done.code == 0, done


def test_too_many_clips_for_a_row(document: Path) -> None:
    heard = "<audio>clips/0.wav</audio>" * 9
    add(document, f"\n::conversation::\n### User\n{heard} How many?\n### Assistant\nNine.\n")
    done = dlm("check", document, "--set", "training.sequence_len=64")
    assert done.code == 1, done
    assert "my.dlm:20: its audio takes 72 tokens, and training.sequence_len is 64" in done.err


def test_prose_alone_trains_and_is_not_asked_without_sound(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_document(tmp_path, base_model=tiny, num_clips=0, body="Only words stand here.\n")
    assert dlm("train", "my.dlm", "--steps", 1).code == 0
    words = "audio-language base requires at least one --audio PATH"
    dlm("prompt", "my.dlm", "What?").refused(words, code=2)

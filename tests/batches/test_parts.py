"""Every base's form writes the tokens that the released processor writes for the same turns."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoProcessor, AutoTokenizer

from dlm.batches.chat import IGNORE, tokenizer_in
from dlm.batches.collate import Batch, Padding, collate
from dlm.batches.forms import chat_of
from dlm.clips.clip import Clip, Sound, Turn
from dlm.errors import ClipError
from dlm.features.ear import Ear
from dlm.plan.bases import Base
from tests.natives import build, row
from tests.tiny import RATE

WHOLE = ["qwen2-audio-7b-instruct", "audio-flamingo-3", "glm-asr-nano", "qwen3-asr-1.7b"]
OMNI = ["qwen2.5-omni-7b", "qwen3-omni-30b-a3b"]  # their processors need torchvision
LENGTHS = (9_000, 16_037, 3_000)  # one of them shorter than Qwen3-ASR hears at the least


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Base]:
    folders = {key: tmp_path_factory.mktemp(key) for key in (*WHOLE, *OMNI)}
    return {key: row(key, build(key, folder)) for key, folder in folders.items()}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[Sound]:
    place, chance = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    for number, length in enumerate(LENGTHS):
        soundfile.write(place / f"{number}.wav", chance.normal(0, 0.1, length), RATE, "FLOAT")
    return [Sound(place / f"{number}.wav") for number in range(len(LENGTHS))]


def learned(base: Base, clip: Clip) -> Batch:
    """The batch of one clip to learn from."""
    chat = chat_of(tokenizer_in(Path(base.source), base), base)
    padding = Padding(chat.pad, chat.placeholder)
    return collate([chat.row(clip)], Ear(base, auto_resample=False), padding)


def asked(base: Base, turns: tuple[Turn, ...], language: str | None = None) -> torch.Tensor:
    """The tokens of a question."""
    chat = chat_of(tokenizer_in(Path(base.source), base), base)
    padding = Padding(chat.pad, chat.placeholder)
    question = chat.question(turns, "here", language)
    return collate([question], Ear(base, auto_resample=False), padding).ids


def parts(turn: Turn, prompt: str = "") -> dict:
    """A turn as released templates take it."""
    content = [
        {"type": "audio", "path": str(part.path)}
        if isinstance(part, Sound)
        else {"type": "text", "text": part}
        for part in turn.parts
    ]
    return {
        "role": turn.role,
        "content": content + [{"type": "text", "text": prompt}] * bool(prompt),
    }


@pytest.mark.parametrize("number", range(len(LENGTHS)), ids=str)
@pytest.mark.parametrize("key", WHOLE)
def test_a_question_is_the_processor_s(
    key: str, number: int, bases: dict[str, Base], sounds: list[Sound]
) -> None:
    """With as many tokens of sound as it counts, for odd lengths."""
    base = bases[key]
    turn = Turn("user", (sounds[number],))
    processor = AutoProcessor.from_pretrained(base.source)
    told = processor.apply_chat_template(
        [parts(turn, base.prompt)],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    assert asked(base, (turn,)).tolist() == told["input_ids"].tolist()


@pytest.mark.parametrize("key", OMNI)
def test_a_conversation_is_the_template_s(
    key: str, bases: dict[str, Base], sounds: list[Sound]
) -> None:
    """Two sounds and two answers; an answer carries loss on its words and its end alone."""
    base = bases[key]
    turns = (
        Turn("system", ("Be brief.",)),
        Turn("user", (sounds[0], "Who?")),
        Turn("assistant", ("Ann.",)),
        Turn("user", ("And ", sounds[1], "?")),
        Turn("assistant", ("Bob.",)),
    )
    tokenizer = AutoTokenizer.from_pretrained(base.source)
    text = tokenizer.apply_chat_template([parts(turn) for turn in turns], tokenize=False)
    batch = learned(base, Clip(turns, "here", "answer"))
    spelled = tokenizer.decode(batch.ids[0])
    for run in batch.spans.tolist():
        spelled = spelled.replace(base.placeholder * run, base.placeholder, 1)
    assert spelled == text
    taught = [each for each in batch.labels[0].tolist() if each != IGNORE]
    assert tokenizer.decode(taught) == "Ann.<|im_end|>Bob.<|im_end|>"


def test_qwen3_asr_s_answers_name_their_language(
    bases: dict[str, Base], sounds: list[Sound]
) -> None:
    """As its own transcription requests force it; a name, a code, or none."""
    base = bases["qwen3-asr-1.7b"]
    processor = AutoProcessor.from_pretrained(base.source)
    turn = Turn("user", (sounds[1],))
    for language in ("fr", "French", "fr-CA"):
        told = processor.apply_transcription_request(str(sounds[1].path), language="fr")
        assert asked(base, (turn,), language).tolist() == told["input_ids"].tolist()
    said = Turn("assistant", ("oui",))
    for language, name in (("fr", "French"), (None, "None")):
        batch = learned(base, Clip((turn, said), "here", "transcribe", language))
        taught = [each for each in batch.labels[0].tolist() if each != IGNORE]
        spelled = processor.tokenizer.decode(taught)
        assert spelled == f"language {name}<asr_text>oui<|im_end|>"
    chat = chat_of(tokenizer_in(Path(base.source), base), base)
    spell = processor.tokenizer
    assert chat.decode(spell("language French<asr_text>oui")["input_ids"]) == "oui"
    assert chat.decode(spell("language Fre")["input_ids"]) == ""
    assert chat.decode(spell("oui")["input_ids"]) == "oui"


def test_qwen3_asr_cannot_be_asked(bases: dict[str, Base], sounds: list[Sound]) -> None:
    """Its template would leave the question out without a word."""
    turns = (Turn("user", (sounds[0], "Who speaks?")), Turn("assistant", ("Ann.",)))
    with pytest.raises(ClipError, match="here: qwen3-asr-1.7b only transcribes.*Who speaks?"):
        learned(bases["qwen3-asr-1.7b"], Clip(turns, "here", "answer"))
    with pytest.raises(ClipError, match="only transcribes"):
        asked(bases["qwen3-asr-1.7b"], turns[:1])


def test_a_form_without_ends_is_taught_to_stop(bases: dict[str, Base], sounds: list[Sound]) -> None:
    """GLM-ASR's template ends no turn: its last one ends with the tokenizer's end."""
    base = bases["glm-asr-nano"]
    clip = Clip((Turn("user", (sounds[0],)), Turn("assistant", ("yes",))), "here", "transcribe")
    taught = [each for each in learned(base, clip).labels[0].tolist() if each != IGNORE]
    assert tokenizer_in(Path(base.source), base).decode(taught) == "yes<|endoftext|>"


def test_the_template_of_an_older_processor_is_read(bases: dict[str, Base], tmp_path: Path) -> None:
    """Omni models hold theirs in chat_template.json, which tokenizers do not read."""
    base = bases["qwen2.5-omni-7b"]
    for file in Path(base.source).iterdir():
        if file.suffix != ".safetensors" and file.name != "chat_template.jinja":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "chat_template.json").write_text('{"chat_template": "{{ messages[0].role }}"}')
    assert tokenizer_in(tmp_path, base).chat_template == "{{ messages[0].role }}"


@pytest.mark.parametrize("key", ["qwen2-audio-7b-instruct", "audio-flamingo-3", *OMNI])
def test_who_reads_is_asked_the_same(key: str, bases: dict[str, Base], sounds: list[Sound]) -> None:
    base = bases[key]
    chat = chat_of(tokenizer_in(Path(base.source), base), base)
    turns = (Turn("user", (replace(sounds[0], said="one two"),)), Turn("assistant", ("one two",)))
    row = chat.taught(Clip(turns, "a", "transcribe"))
    assert row.read and row.read.learned == row.learned
    read = chat.spell(list(row.read.ids))
    assert f"one two\n{base.prompt}" in read
    assert base.placeholder not in read

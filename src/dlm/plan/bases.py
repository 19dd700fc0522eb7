"""The catalogue of bases: one row for each released model that can hear, facts only.

A row says everything the plan, the batches and the loader need to know about a base; adding a base
is adding a row.
"""

import json
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from dlm.errors import BaseError
from dlm.plan.frames import Strides

Role = Literal["encoder", "projector", "lm"]


@dataclass(frozen=True)
class Base:
    """Facts on one base.

    `bins` mel bins of its ear; `placeholder` the token that stands for one token of sound, written
    between `before` and `after`; `prompt` what it is asked when a clip only has a transcript.
    `parameters`, `width` (of the LM) and `layers` feed the memory arithmetic.
    """

    key: str
    kind: Literal["native", "stitched"]
    source: str  # "embedded:sparrow", a hub name, or a folder
    revision: str | None
    license: str
    strides: Strides
    bins: int
    placeholder: str
    before: str
    after: str
    prompt: str
    parameters: int
    megabytes: int  # to download, or on disk
    layers: int
    width: int
    adapter: Literal["lora", "dora", "projector", "full"]  # what the scaffold proposes
    learning_rate: float
    epochs: int


WHISPER = Strides(rate=16_000, hop=160, encoder=2, projector=1, window=480_000)

CATALOGUE = {
    base.key: base
    for base in (
        Base(
            key="sparrow",
            kind="stitched",
            source="embedded:sparrow",
            revision="1",
            license="MIT",
            strides=replace(WHISPER, projector=4, window=240_000),
            bins=80,
            placeholder="<|audio|>",
            before="",
            after="",
            prompt="Transcribe the audio.",
            parameters=4_900_000,
            megabytes=10,
            layers=3,
            width=192,
            adapter="full",
            learning_rate=2e-4,
            epochs=15,
        ),
        Base(
            key="qwen2-audio-7b-instruct",
            kind="native",
            source="Qwen/Qwen2-Audio-7B-Instruct",
            revision="0a095220c30b7b31434169c3086508ef3ea5bf0a",
            license="Apache-2.0",
            strides=replace(WHISPER, projector=2, drops=True, tail=2),
            bins=128,
            placeholder="<|AUDIO|>",
            before="<|audio_bos|>",
            after="<|audio_eos|>",
            prompt="Transcribe the audio.",
            parameters=8_400_000_000,
            megabytes=16_800,
            layers=32,
            width=4096,
            adapter="lora",
            learning_rate=2e-4,
            epochs=3,
        ),
    )
}

DEFAULT = "qwen2-audio-7b-instruct"  # what --audio pins
EMBEDDED = "sparrow"  # what a laptop starts with


FACTS = "dlm_base.json"  # beside the weights of a stitched base: its row


def find(name: str) -> Base:
    """The row called `name`. Raises BaseError with the nearest key when there is none."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    near = get_close_matches(name, CATALOGUE, n=1)
    known = ", ".join(sorted(CATALOGUE))
    mend = f"did you mean {near[0]}?" if near else f"known bases: {known}, or a local folder"
    raise BaseError(f"unknown base '{name}'", mend=mend)


def resolve(name: str, folder: Path) -> Base:
    """The facts of what `base_model` names: a catalogue key, or a folder (relative to `folder`)."""
    place = folder / Path(name).expanduser()
    if name in CATALOGUE or not (place / FACTS).is_file():
        return find(name)
    return read_facts(place)


def read_facts(folder: Path) -> Base:
    """The row written beside a stitched base's weights. Raises BaseError when it is damaged."""
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        return Base(**{**facts, "strides": Strides(**facts["strides"]), "source": str(folder)})
    except (OSError, ValueError, KeyError, TypeError) as reason:
        raise BaseError(
            f"not the facts of a base ({reason})",
            where=str(folder / FACTS),
            mend="write the folder again with the tool that made it",
        ) from reason


def write_facts(base: Base, folder: Path) -> None:
    """Write the row beside the weights, so that a folder is a base of its own."""
    facts = asdict(replace(base, source="folder"))
    (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

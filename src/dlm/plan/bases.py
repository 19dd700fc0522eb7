"""A base: the facts on one released model that can hear, and how `base_model` finds them.

A row says everything the plan, the batches and the loader need to know about a base. The rows known
by name are in plan/catalogue.py.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, with_config

from dlm.errors import BaseError
from dlm.plan.frames import Strides

Role = Literal["encoder", "projector", "lm"]
Layer = int | Literal["last", "weighted_sum"]
FACTS = "dlm_base.json"  # beside the weights of a stitched base: its row


@dataclass(frozen=True)
class Tower:
    """The shape of one stack of transformer layers.

    `parameters` without embeddings and head, `inner` the width of the feed-forward part.
    """

    parameters: int
    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    head_width: int = 0  # 0: width / heads


@dataclass(frozen=True)
class Sizes:
    """Parameters by part; `words` are those of embeddings and head."""

    encoder: Tower
    projector: int
    lm: Tower
    words: int
    vocabulary: int

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.encoder.parameters + self.projector + self.lm.parameters + self.words


@dataclass(frozen=True)
class Part:
    """Where an encoder or a language model comes from that is stitched to others.

    `source` is as a Base's, "" for random weights; `config` is the one of transformers' class, its
    model_type among it. Of an encoder, `layer` says which of its hidden states are heard: that of
    the last layer, of one counted from 1, or all of them for the projector to weigh.
    """

    source: str
    revision: str | None
    config: dict[str, Any]
    layer: Layer = "last"


@dataclass(frozen=True)
class Recipe:
    """What a base is stitched from as it is loaded.

    What several encoders hear is joined frame by frame, at the rate of the first. `projector` is
    its kind and what that kind takes; `source` among it is where its weights are taken from, as
    source@revision on a hub. `tokenizer` is own, the language model's, or bytes, or the folder of
    another.
    """

    encoders: tuple[Part, ...]
    projector: dict[str, Any]
    lm: Part
    tokenizer: str = "own"


@dataclass(frozen=True)
class Base:
    """Facts on one base.

    `family` is the model type of transformers' class, or "stitched". `bins` mel bins of its ear,
    and `whole_mel` whether a long sound's mel is taken before it is cut into windows. `placeholder`
    is the token that stands for one token of sound, written between `before` and `after`, in which
    {number} counts the sounds of a conversation. `prompt` is what it is asked when a clip only has
    a transcript, {language} in it the clip's, or en; `chat` the form of its conversations: the
    template beside its weights, with each turn as text or in parts, for which it writes the markers
    itself; parts with Qwen3-ASR's answers; mistral-common's; or plain text. `context` is the
    longest row it knows, in tokens. `ear` is what the encoder takes: a mel, or the wave, of which
    it makes its own. `recipe` is None where all weights lie in one place.
    """

    key: str
    kind: Literal["native", "stitched"]
    family: str
    source: str  # "embedded:sparrow", a hub name, or the absolute path of a folder
    revision: str | None
    license: str
    strides: Strides
    bins: int
    whole_mel: bool
    placeholder: str
    before: str
    after: str
    prompt: str
    chat: Literal["template", "parts", "asr", "mistral", "plain"]
    sizes: Sizes
    megabytes: int  # to download, or on disk
    context: int
    adapter: Literal["lora", "dora", "projector", "full"]  # what the scaffold proposes
    learning_rate: float
    epochs: int
    ear: Literal["mel", "wave"] = "mel"
    recipe: Recipe | None = None


_ROW = TypeAdapter(with_config(ConfigDict(extra="forbid"))(Base))


def read_facts(folder: Path) -> Base:
    """The row written beside a stitched base's weights. Raises BaseError when it is damaged."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        return replace(_ROW.validate_python(facts), source=str(folder.absolute()))
    except (OSError, ValueError, KeyError, TypeError) as reason:
        raise BaseError(
            f"not the facts of a base ({' '.join(str(reason).split())})",
            where=str(folder / FACTS),
            mend="write the folder again with the tool that made it",
        ) from reason


def write_facts(base: Base, folder: Path) -> None:
    """Write the row beside the weights, so that a folder is a base of its own."""
    facts = asdict(replace(base, source="folder", recipe=None))
    (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

"""What thinks in a stitched base: a language model, from its source or its config.

a stitched base      its language model
a model that hears   its language model (text_config)
a language model     itself
from_scratch         random weights of a config, with a tokenizer of bytes or another's
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dlm.document.stitching import Lm
from dlm.errors import BaseError
from dlm.plan.bases import Base, Part
from dlm.plan.derive import derive, family_of, part_of, read_json, row_of
from dlm.plan.hearing import ENCODERS
from dlm.plan.hub import fetch_words, place_of
from dlm.plan.origin import Origin, origin_of
from dlm.plan.parts import SCRATCH, THINKS, bytes_of, hears, named_class
from dlm.plan.thinking import USUAL, Thinking, lm_parameters, thinking_of

Config = dict[str, Any]
Form = Literal["template", "plain"]

BYTES = "bytes"
OWN = "own"
BYTE_TOKENS = 260  # 256 bytes, the end of a text, both ends of a turn, sound
ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")  # which are the tokenizer's to say
TEXT = {"audioflamingo3": "qwen2", "glmasr": "llama", "qwen2_audio": "qwen2", "voxtral": "llama"}
TEXT |= {"qwen3_asr": "qwen3"}
SETTINGS, VOCABULARY = "tokenizer_config.json", "tokenizer.json"
TEMPLATES = ("chat_template.jinja", "chat_template.json")


@dataclass(frozen=True)
class Mind:
    """What thinks; `bytes` are those of its files, `facts` those of the stitched base it is from.

    `tokenizer` is as a Recipe has it.
    """

    part: Part
    key: str
    thinking: Thinking
    tokenizer: str
    chat: Form
    license: str = ""
    bytes: int = 0
    facts: Base | None = None


@dataclass(frozen=True)
class _Words:
    """A tokenizer: where it lies, whether it has a template, the form that is usual with it."""

    tokenizer: str
    template: bool
    usual: Form | None
    tokens: int = 0  # 0: not counted


def mind_of(given: Lm, chat: Form | None, folder: Path) -> Mind:
    """What the plan needs of a language model that is to speak in this form, or in its own.

    Raises BaseError where it is none, or has not that form.
    """
    origin = origin_of(given.source, folder) if given.source else None
    words = _words(given, origin, folder)
    mind = _released(origin) if origin else _scratch(dict(given.from_scratch or {}), words.tokens)
    form = chat or words.usual
    if form is None or (form == "template" and not words.template):
        where = origin.named if origin and words.tokenizer == OWN else given.tokenizer
        mend = "set base_model.chat to plain, or name an instruct model"
        raise BaseError("has no chat template", where=where, mend=mend)
    return replace(mind, tokenizer=words.tokenizer, chat=form)


def _words(given: Lm, origin: Origin | None, folder: Path) -> _Words:
    """The tokenizer that is asked for, or the one that goes with the model."""
    if given.tokenizer == BYTES or (origin is None and given.tokenizer is None):
        return _Words(BYTES, True, "plain", BYTE_TOKENS)
    if given.tokenizer is not None:
        return _other_words(given.tokenizer, folder, scratch=origin is None)
    template = origin is not None and any(map(origin.file, TEMPLATES))
    settings = origin.file(SETTINGS) if origin and not template else None
    template = template or (settings is not None and "chat_template" in read_json(settings))
    plain = origin is not None and origin.facts is not None and origin.facts.chat == "plain"
    return _Words(OWN, template, "plain" if plain else "template" if template else None)


def _other_words(name: str, folder: Path, *, scratch: bool) -> _Words:
    """A tokenizer in a folder of this machine, or of a base that is here."""
    place = (folder / Path(name).expanduser()).absolute()
    if not place.is_dir():
        origin = origin_of(name, folder)
        place = place_of(origin.source, origin.revision) or fetch_words(
            origin.source, origin.revision
        )
    settings, vocabulary = place / SETTINGS, place / VOCABULARY
    if not (settings.is_file() or vocabulary.is_file()):
        what = "holds no tokenizer"
        raise BaseError(what, where=name, mend="name a folder that save_pretrained wrote, or bytes")
    template = any((place / each).is_file() for each in TEMPLATES)
    template = template or (settings.is_file() and "chat_template" in read_json(settings))
    usual: Form | None = "template" if template else "plain" if scratch else None
    return _Words(str(place), template, usual, _tokens(vocabulary))


def _tokens(vocabulary: Path) -> int:
    """How many tokens a tokenizer.json holds, those that were added among them."""
    if not vocabulary.is_file():
        return 0
    read = read_json(vocabulary)
    own = part_of(read, "model").get("vocab") or ()
    last: int = max(own.values(), default=-1) if isinstance(own, dict) else len(own) - 1
    added = (each["id"] for each in read.get("added_tokens", ()))
    most: int = max([last, *added])
    return most + 1


def _scratch(config: Config, tokens: int) -> Mind:
    """Random weights, with as many words as the tokenizer has where the config does not say."""
    kind = config["model_type"]
    where = f"from_scratch: {kind}"
    _check_thinks(config, where, named=False)
    if tokens:
        config = {"vocab_size": tokens, **config}
    if config.get("vocab_size", tokens) < tokens - 1:  # sound needs no row
        what = f"has {config['vocab_size']} words, and its tokenizer {tokens}"
        raise BaseError(what, where=where, mend="take vocab_size out")
    config = {**dict.fromkeys(ENDS), **config}
    part = Part("", None, config)
    return Mind(part, SCRATCH + kind, thinking_of(config, where=where), BYTES, "plain")


def _released(origin: Origin) -> Mind:
    """A language model with weights, in the shape that its files tell."""
    if origin.facts is not None:
        return _of_stitched(origin, origin.facts)
    weights, config = origin.weights, origin.config
    if hears(config):
        config, thinking = _text(origin, derive(row_of(config, origin.named), config, weights))
    else:
        _check_thinks(config, origin.named)
        own, words = lm_parameters(weights)
        thinking = thinking_of(config, where=origin.named)
        tower = replace(thinking.tower, parameters=own)
        thinking = replace(thinking, tower=tower, words=words)
    return Mind(
        part=Part(origin.source, origin.revision, config),
        key=origin.key,
        thinking=thinking,
        tokenizer=OWN,
        chat="template",
        license=origin.license,
        bytes=bytes_of(weights),
    )


def _of_stitched(origin: Origin, facts: Base) -> Mind:
    sizes = facts.sizes
    return Mind(
        part=Part(origin.source, origin.revision, origin.config["lm"]),
        key=origin.key,
        thinking=Thinking(sizes.lm, sizes.words, sizes.vocabulary, facts.context),
        tokenizer=OWN,
        chat="template",
        license=origin.license,
        bytes=facts.megabytes * 10**6,
        facts=facts,
    )


def _text(origin: Origin, whole: Base) -> tuple[Config, Thinking]:
    """What thinks in a model that does more, in the sizes of the whole."""
    family = family_of(origin.config)
    if family not in TEXT:
        what = f"the language model of {family} cannot be taken out of it"
        raise BaseError(what, where=origin.named, mend="name a language model by itself")
    text = {"model_type": TEXT[family], **part_of(origin.config, "text_config")}
    sizes = whole.sizes
    text["tie_word_embeddings"] = sizes.words == sizes.vocabulary * sizes.lm.width
    return text, Thinking(sizes.lm, sizes.words, sizes.vocabulary, whole.context)


def _check_thinks(config: Mapping[str, Any], where: str, *, named: bool = True) -> None:
    """Refuse what is no language model, by its name; one from nothing names no class."""
    kind = str(config.get("model_type", "unknown"))
    if kind in ENCODERS or "encoder_layers" in config:
        what = f"is an encoder ({kind}), not a language model"
        raise BaseError(what, where=where, mend="name it under encoder: the two are swapped")
    if kind in USUAL or not named or named_class(config).endswith(THINKS):
        return
    what = f"is no language model ({kind}, {named_class(config) or 'no class'})"
    raise BaseError(what, where=where, mend="name one that goes on with text, as hf:Qwen/Qwen3-4B")

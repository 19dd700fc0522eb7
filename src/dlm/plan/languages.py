"""What a document asks of a Whisper: its languages, task, and how clips fill its window.

A multilingual model needs the language of a transcript it learns; in use it detects it.
"""

from dataclasses import replace
from typing import Literal

from dlm.data.types import Example
from dlm.errors import DataError, ModelError
from dlm.plan.model_spec import ModelSpec


def set_task(spec: ModelSpec, task: Literal["transcribe", "translate"]) -> ModelSpec:
    """Return the spec of a base that is asked for a task.

    Raises:
        ModelError: it has no token for it (`model.no_task_token`).
    """
    if task == "transcribe" or len(spec.languages) > 1:
        return replace(spec, task=task)
    raise ModelError(
        f"{spec.key} has no token for training.audio.task: {task}",
        hint="a multilingual Whisper has one; others are asked by the text beside the audio",
        code="model.no_task_token",
    )


def set_padding(spec: ModelSpec, pad_to_window: bool | None) -> ModelSpec:
    """Return the spec of a base whose clips are completed with silence, or are not.

    An untuned Whisper that is given the clip alone writes on after its end: tiny.en has 320 % WER
    so, and 3.7 % in its window. It has to learn it.

    Args:
        spec: the base.
        pad_to_window: of `training.audio`; None as the base was trained.

    Raises:
        ModelError: the base is no Whisper (`model.no_padding_choice`).
    """
    if pad_to_window is None:
        return spec
    if not spec.is_encoder_decoder:
        raise ModelError(
            f"training.audio.pad_to_window is for a Whisper, and the base is {spec.key}",
            hint="take it out; an encoder of base_model has pad: 30s",
            code="model.no_padding_choice",
        )
    pad_mode: Literal["counted", "none"] = "counted" if pad_to_window else "none"
    return replace(spec, audio_spec=replace(spec.audio_spec, pad_mode=pad_mode))


def normalize_language(language: str) -> str:
    """Return the code that models know: pt of pt-BR."""
    return language.lower().partition("-")[0]


def make_language_error(spec: ModelSpec, example: Example) -> DataError | None:
    """Return what is wrong with the language of an example to train on, if anything is.

    The codes are `data.no_language` and `data.other_language`.
    """
    if example.language is not None:
        return make_other_language_error(spec, example.language, example.location)
    if len(spec.languages) < 2:
        return None
    return DataError(
        f"{spec.key} needs the language of a transcript",
        where=example.location,
        hint='write language="en" beside it, or set training.audio.language',
        code="data.no_language",
    )


def make_other_language_error(spec: ModelSpec, language: str, location: str) -> DataError | None:
    """Return the error for a language that a base has no token for; None where it has, or any."""
    if not spec.languages or normalize_language(language) in spec.languages:
        return None
    is_single = len(spec.languages) == 1
    known = f"only {spec.languages[0]}" if is_single else f"{len(spec.languages)} others"
    return DataError(
        f"the language is {language}, and {spec.key} knows {known}",
        where=location,
        hint="use a multilingual base, such as whisper-base" if is_single else "use another base",
        code="data.other_language",
    )

"""How a clip's turns become tokens: the base's own chat form, and which tokens carry loss.

    system and user turns      no loss
    assistant turns            loss on the words and on the token that ends the turn
    prose                      loss on every token and on the end

A sound takes one placeholder here; collate repeats it once its true length is known.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.import_utils import is_mistral_common_available

from dlm.clips.clip import Clip, Sound, Turn
from dlm.errors import BaseError, ClipError, MissingExtra
from dlm.plan.bases import Base

IGNORE = -100  # the label that carries no loss (torch's cross entropy)
REPEAT = "Repeat this."  # asked of who reads, where sound alone is a request to write it down


@dataclass(frozen=True)
class Row:
    """One clip as tokens; `labels` equal the ids that carry loss, IGNORE elsewhere.

    `read` is the same for a teacher: what is said in each sound stands in its place.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    sounds: tuple[Sound, ...]
    place: str
    read: "Row | None" = None

    @property
    def learned(self) -> tuple[int, ...]:
        """The tokens that carry loss; the first token of a row has nothing to predict it."""
        return tuple(label for label in self.labels[1:] if label != IGNORE)


class Chat:
    """Turns clips into rows for one base."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, base: Base) -> None:
        """Raises BaseError when the tokenizer lacks a chat form, an end or the placeholder."""
        self._tokenizer, self._base = tokenizer, base
        if tokenizer.chat_template is None and base.chat in ("template", "parts", "asr"):
            raise BaseError(f"{base.key} has no chat template", mend="use an instruct model")
        if not isinstance(tokenizer.eos_token_id, int):
            raise BaseError(f"the tokenizer of {base.key} has no end-of-turn token")
        self.placeholder = placeholder_of(tokenizer, base)
        self.end: int = tokenizer.eos_token_id
        pad = tokenizer.pad_token_id
        self.pad: int = pad if isinstance(pad, int) else tokenizer.eos_token_id

    def row(self, clip: Clip) -> Row:
        """A clip to learn from. Raises ClipError when its text holds one of the base's tokens."""
        for turn in clip.turns:
            self._plain(turn.text, clip.place)
        return self._row(clip)

    def _row(self, clip: Clip) -> Row:
        """The row of a clip whose words are plain."""
        if clip.task == "text" and len(clip.turns) == 1:
            prose = tuple(self._prose(clip.turns[0].text))
            return Row(prose, prose, (), clip.place)
        ids: list[int] = []
        labels: list[int] = []
        stretches = list(self._stretches(clip))
        for asked, said in stretches:
            if said is stretches[-1][1] and self.end not in said:
                said = [*said, self.end]  # the template ends no turn: the next one's marker does
            learned = said.index(self.end) + 1 if self.end in said else len(said)
            ids += asked + said
            labels += [IGNORE] * len(asked) + said[:learned] + [IGNORE] * (len(said) - learned)
        return Row(tuple(ids), tuple(labels), clip.sounds, clip.place)

    def taught(self, clip: Clip) -> Row:
        """The row of a clip with what a teacher reads of it; a clip without sound has no teacher.

        Raises ClipError when the teacher would answer in other tokens.
        """
        row = self.row(clip)
        if not clip.sounds:
            return row
        for sound in clip.sounds:
            self._plain(sound.said or "", clip.place)
        turns = tuple(self._as_read(turn, clip.language) for turn in clip.turns)
        read = self._row(replace(clip, turns=turns))
        if read.learned != row.learned:
            what = f"{self._base.key} writes this answer to words in other tokens than to a sound"
            raise ClipError(what, where=clip.place, mend="take training.teacher out")
        return replace(row, read=read)

    def question(self, turns: tuple[Turn, ...], place: str, language: str | None = None) -> Row:
        """A question to answer: everything up to where the assistant begins to speak.

        `language` is that of the sound, as far as the base's form has a place for it.
        """
        for turn in turns:
            self._plain(turn.text, place)
        ids = tuple(self._asked(turns, place, language))
        sounds = tuple(part for turn in turns for part in turn.parts if isinstance(part, Sound))
        return Row(ids, (IGNORE,) * len(ids), sounds, place)

    def decode(self, ids: list[int]) -> str:
        """The text of what a model said."""
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text if isinstance(text, str) else "".join(text)

    def spell(self, ids: list[int]) -> str:
        """Tokens as they are, the special ones too."""
        text = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text if isinstance(text, str) else "".join(text)

    def _prose(self, text: str) -> list[int]:
        return [*self._encode(text), self.end]

    def _asked(self, turns: tuple[Turn, ...], place: str, language: str | None) -> list[int]:
        """Tokens up to where the assistant begins to speak."""
        return self._encode(self._render(self._messages(turns, language), answer_next=True))

    def _stretches(self, clip: Clip) -> Iterator[tuple[list[int], list[int]]]:
        """For each turn of the assistant: the tokens since the last one, and those it says."""
        messages = self._messages(clip.turns, clip.language)
        done = ""
        for number, turn in enumerate(clip.turns):
            if turn.role != "assistant":
                continue
            before = self._render(messages[:number], answer_next=True)
            after = self._render(messages[: number + 1], answer_next=False)
            if not (before.startswith(done) and after.startswith(before)):
                raise BaseError(f"the chat template of {self._base.key} rewrites earlier turns")
            yield self._encode(before[len(done) :]), self._encode(after[len(before) :])
            done = after

    def _messages(self, turns: tuple[Turn, ...], language: str | None) -> list[dict[str, str]]:
        numbers = count(1)
        return [
            {"role": turn.role, "content": self._content(turn, numbers, language)} for turn in turns
        ]

    def _content(self, turn: Turn, numbers: "count[int]", language: str | None) -> str:
        """A turn's words, each sound a placeholder between its markers."""
        base = self._base
        words = ""
        for part in turn.parts:
            if isinstance(part, Sound):
                before = base.before.format(number=next(numbers))
                words += f"{before}{base.placeholder}{base.after}"
            else:
                words += part
        return words + self._prompt(language) if _silent(turn) else words

    def _prompt(self, language: str | None) -> str:
        """What the base is asked about a sound in this language when a clip asks nothing."""
        return self._base.prompt.replace("{language}", language or "en")

    def _as_read(self, turn: Turn, language: str | None) -> Turn:
        """A turn for who cannot hear: each sound as a line of what is said in it."""
        parts = [f"{part.said}\n" if isinstance(part, Sound) else part for part in turn.parts]
        asked = (self._prompt(language) or REPEAT) if _silent(turn) else ""
        return Turn(turn.role, ("".join([*parts, asked]),))

    def _plain(self, text: str, place: str) -> None:
        """Refuse text that would be read as one of the base's special tokens."""
        for token in self._tokenizer.all_special_tokens:
            if token in text:
                mend = "write it another way"
                raise ClipError(f"the text holds the special token {token}", where=place, mend=mend)

    def _render(self, messages: list[dict[str, str]], *, answer_next: bool) -> str:
        if self._base.chat == "plain":
            ends = {"assistant": str(self._tokenizer.eos_token)}
            return "".join(each["content"] + ends.get(each["role"], "") for each in messages)
        text = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=answer_next
        )
        return str(text)

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def _silent(turn: Turn) -> bool:
    """Whether a turn is sound alone."""
    return turn.role == "user" and not turn.text.strip()


def placeholder_of(tokenizer: PreTrainedTokenizerBase, base: Base) -> int:
    """The token that stands for one token of sound. Raises BaseError when there is none."""
    token = tokenizer.convert_tokens_to_ids(base.placeholder)
    if not isinstance(token, int) or token == tokenizer.unk_token_id:
        raise BaseError(f"the tokenizer of {base.key} has no token {base.placeholder}")
    return token


def tokenizer_in(folder: Path, base: Base) -> PreTrainedTokenizerBase:
    """The tokenizer beside a base's weights. Raises MissingExtra without the library it needs."""
    mistral = base.chat == "mistral"
    if mistral and not is_mistral_common_available():
        raise MissingExtra("mistral-common", "voxtral")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, mistral_format=mistral
        )
        older = folder / "chat_template.json"  # the processor's, which tokenizers do not read
        if older.is_file() and not (folder / "chat_template.jinja").is_file():
            tokenizer.chat_template = json.loads(older.read_text(encoding="utf-8"))["chat_template"]
    except (OSError, ValueError, KeyError, TypeError) as reason:
        told = " ".join(str(reason).split()).split(". ")[0]
        what = f"its tokenizer cannot be read ({told})"
        raise BaseError(what, where=str(folder), mend="fetch the model again") from reason
    return tokenizer

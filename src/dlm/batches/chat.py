"""How a clip's turns become tokens: the base's own chat form, and which tokens carry loss.

    system and user turns      no loss
    assistant turns            loss on the words and on the token that ends the turn
    prose                      loss on every token and on the end

A sound takes one placeholder here; collate repeats it once its true length is known.
"""

from dataclasses import dataclass
from itertools import count

from transformers import PreTrainedTokenizerBase

from dlm.clips.clip import Clip, Sound, Turn
from dlm.errors import BaseError, ClipError
from dlm.plan.bases import Base

IGNORE = -100  # the label that carries no loss (torch's cross entropy)


@dataclass(frozen=True)
class Row:
    """One clip as tokens; `labels` equal the ids that carry loss, IGNORE elsewhere."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    sounds: tuple[Sound, ...]
    place: str


class Chat:
    """Turns clips into rows for one base."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, base: Base) -> None:
        """Raises BaseError when the tokenizer lacks a chat form, an end or the placeholder."""
        self._tokenizer, self._base = tokenizer, base
        if tokenizer.chat_template is None and base.chat == "template":
            raise BaseError(f"{base.key} has no chat template", mend="use an instruct model")
        if not isinstance(tokenizer.eos_token_id, int):
            raise BaseError(f"the tokenizer of {base.key} has no end-of-turn token")
        self.placeholder = placeholder_of(tokenizer, base)
        self.end: int = tokenizer.eos_token_id
        pad = tokenizer.pad_token_id
        self.pad: int = pad if isinstance(pad, int) else tokenizer.eos_token_id

    def row(self, clip: Clip) -> Row:
        """A clip to learn from. Raises ClipError when its text holds one of the base's tokens."""
        if clip.task == "text" and len(clip.turns) == 1:
            self._plain(clip.turns[0].text, clip.place)
            prose = (*self._encode(clip.turns[0].text), self.end)
            return Row(prose, prose, (), clip.place)
        ids, labels = self._segments(clip)
        return Row(tuple(ids), tuple(labels), clip.sounds, clip.place)

    def question(self, turns: tuple[Turn, ...], place: str, language: str | None = None) -> Row:
        """A question to answer: everything up to where the assistant begins to speak."""
        messages = self._messages(turns, place)
        ids = tuple(self._encode(self._render(messages, answer_next=True)))
        sounds = tuple(part for turn in turns for part in turn.parts if isinstance(part, Sound))
        return Row(ids, (IGNORE,) * len(ids), sounds, place)

    def decode(self, ids: list[int]) -> str:
        """The text of what a model said."""
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text if isinstance(text, str) else "".join(text)

    def _segments(self, clip: Clip) -> tuple[list[int], list[int]]:
        """Tokens and labels, one stretch of the rendered chat after the other."""
        messages = self._messages(clip.turns, clip.place)
        ids: list[int] = []
        labels: list[int] = []
        done = ""
        for number, turn in enumerate(clip.turns):
            if turn.role != "assistant":
                continue
            before = self._render(messages[:number], answer_next=True)
            after = self._render(messages[: number + 1], answer_next=False)
            if not (before.startswith(done) and after.startswith(before)):
                raise BaseError(f"the chat template of {self._base.key} rewrites earlier turns")
            asked, said = self._encode(before[len(done) :]), self._encode(after[len(before) :])
            learned = said.index(self.end) + 1 if self.end in said else len(said)
            ids += asked + said
            labels += [IGNORE] * len(asked) + said[:learned] + [IGNORE] * (len(said) - learned)
            done = after
        return ids, labels

    def _messages(self, turns: tuple[Turn, ...], place: str) -> list[dict[str, str]]:
        numbers = count(1)
        return [
            {"role": turn.role, "content": self._content(turn, place, numbers)} for turn in turns
        ]

    def _content(self, turn: Turn, place: str, numbers: "count[int]") -> str:
        """A turn's words, each sound a placeholder between its markers."""
        base = self._base
        self._plain(turn.text, place)
        words = ""
        for part in turn.parts:
            if isinstance(part, Sound):
                before = base.before.format(number=next(numbers))
                words += f"{before}{base.placeholder}{base.after}"
            else:
                words += part
        silent = turn.role == "user" and not turn.text.strip()
        return words + base.prompt if silent else words

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


def placeholder_of(tokenizer: PreTrainedTokenizerBase, base: Base) -> int:
    """The token that stands for one token of sound. Raises BaseError when there is none."""
    token = tokenizer.convert_tokens_to_ids(base.placeholder)
    if not isinstance(token, int) or token == tokenizer.unk_token_id:
        raise BaseError(f"the tokenizer of {base.key} has no token {base.placeholder}")
    return token

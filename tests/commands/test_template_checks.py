"""What `dlm check` says of conversations and the chat template of the base."""

from pathlib import Path

import pytest

from dlm.batching.byte_tokenizer import build_byte_tokenizer
from tests.batching.test_released_templates import ALTERNATE, PHI3, QWEN3
from tests.cli_runner import dlm
from tests.composed_models import make_base_model_field, write_composed_document

REFUSES = "{% if messages | length > 2 %}{{ raise_exception('one\nturn') }}{% endif %}" + QWEN3
STRICT = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    + ALTERNATE
    + "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
)
CONVERSATION = """
::conversation::
### User
What is this?
### Assistant
A tone.
### User
And now?
### Assistant
Another.
"""


def write_conversation(folder: Path, template: str, system: str = "") -> Path:
    """Write a document with a conversation, for a base whose tokenizer has this template."""
    tokenizer = build_byte_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder / "tokenizer")
    base = {**make_base_model_field(), "chat": "template"}
    base["lm"] = {**base["lm"], "tokenizer": str(folder / "tokenizer")}
    path = write_composed_document(folder, base)
    text = path.read_text(encoding="utf-8")
    path.write_text(
        text + CONVERSATION.replace("### User", system + "### User", 1), encoding="utf-8"
    )
    return path


@pytest.mark.parametrize("template", [QWEN3, PHI3])
def test_templates_that_rewrite_earlier_turns_pass(tmp_path: Path, template: str) -> None:
    result = dlm("check", write_conversation(tmp_path / "a", template))
    assert result.code == 0 and "template" not in result.err, result


def test_what_training_would_refuse_is_refused_by_check(tmp_path: Path) -> None:
    """The kind: check passes, and training ends with what the template says."""
    result = dlm("check", write_conversation(tmp_path / "a", REFUSES))
    assert result.code == 1 and "refuses this conversation (one turn)" in result.err, result


def test_the_plan_says_what_is_done_to_conversations(tmp_path: Path) -> None:
    path = write_conversation(tmp_path / "a", STRICT, "### System\nBe brief.\n")
    result = dlm("check", path)
    assert result.code == 0 and "system text goes into the user's turn" in result.out, result

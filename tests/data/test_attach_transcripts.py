"""Transcripts for a teacher model: attached to every segment whose transcript is known."""

from pathlib import Path

from dlm.data.load import attach_transcripts, find_missing_transcripts, load_examples
from dlm.data.types import Example
from tests.data.recordings import create_document, save_audio

BODY = """
::audio path="a.wav" transcript="Die Faehre geht um halb." prompt="Translate."::

::audio path="a.wav" transcript="The ferry leaves at half past."::

::instruction::
### Q
What leaves?
### A
The ferry.

::conversation::
### User
<audio>a.wav</audio> and <audio>corpus/b.wav</audio>
### Assistant
Two voices.

::conversation::
### User
<audio>c.wav</audio> Who?
### Assistant
Nobody knows.
"""


def load_body(folder: Path) -> tuple[Example, ...]:
    for name in ("a.wav", "c.wav", "corpus/b.wav"):
        save_audio(folder / name)
    (folder / "corpus/b.txt").write_text("Good morning.")
    head = "training:\n  sources: [corpus]\n"
    return load_examples(create_document(folder, BODY, head=head)).examples


def get_transcripts(example: Example) -> list[str | None]:
    return [segment.transcript for segment in example.audio_segments]


def test_each_segment_gets_its_transcript(tmp_path: Path) -> None:
    examples = load_body(tmp_path)
    assert not any(any(get_transcripts(example)) for example in examples)
    attached = attach_transcripts(examples, examples)
    ferry, morning = "The ferry leaves at half past.", "Good morning."
    assert [get_transcripts(example) for example in attached] == [
        [ferry],  # a translation is not the transcript, where that is known
        [ferry],
        [ferry],
        [ferry, morning],
        [None],
        [morning],
    ]
    assert attached == examples, "a segment with a transcript is the same segment"


def test_the_answer_to_a_prompt_is_a_transcript_where_there_is_no_other(tmp_path: Path) -> None:
    translated = load_body(tmp_path)[:1]
    (example,) = attach_transcripts(translated, translated)
    assert get_transcripts(example) == ["Die Faehre geht um halb."]


def test_audio_without_a_transcript_is_an_issue(tmp_path: Path) -> None:
    examples = load_body(tmp_path)
    (issue,) = find_missing_transcripts(attach_transcripts(examples, examples))
    assert issue.fatal and issue.code == "data.teacher_no_transcript"
    assert issue.where == examples[4].location and issue.what.startswith("c.wav has no transcript")


def test_an_attached_transcript_is_kept(tmp_path: Path) -> None:
    examples = load_body(tmp_path)
    attached = attach_transcripts(examples[1:2], examples[1:2])
    (again,) = attach_transcripts(attached, examples[:1])
    assert get_transcripts(again) == ["The ferry leaves at half past."]

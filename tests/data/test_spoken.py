"""Where what is said in a sound is known from, and where nobody knows."""

from pathlib import Path

from dlm.data.load import attach_transcripts, find_missing_transcripts, load_examples
from dlm.data.types import Example
from tests.data.sounds import document, save

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


def clips_of(folder: Path) -> tuple[Example, ...]:
    for name in ("a.wav", "c.wav", "corpus/b.wav"):
        save(folder / name)
    (folder / "corpus/b.txt").write_text("Good morning.")
    head = "training:\n  sources: [corpus]\n"
    return load_examples(document(folder, BODY, head=head)).examples


def said(clip: Example) -> list[str | None]:
    return [sound.transcript for sound in clip.audio_segments]


def test_each_sound_is_given_its_transcript(tmp_path: Path) -> None:
    clips = clips_of(tmp_path)
    assert not any(any(said(clip)) for clip in clips)
    told = attach_transcripts(clips, clips)
    ferry, morning = "The ferry leaves at half past.", "Good morning."
    assert [said(clip) for clip in told] == [
        [ferry],  # a translation is not what is said, where that is known
        [ferry],
        [ferry],
        [ferry, morning],
        [None],
        [morning],
    ]
    assert told == clips, "a sound that is known is the same sound"


def test_an_answer_to_a_prompt_is_better_than_nothing(tmp_path: Path) -> None:
    translated = clips_of(tmp_path)[:1]
    (told,) = attach_transcripts(translated, translated)
    assert said(told) == ["Die Faehre geht um halb."]


def test_a_sound_nobody_wrote_down_is_a_problem(tmp_path: Path) -> None:
    clips = clips_of(tmp_path)
    (problem,) = find_missing_transcripts(attach_transcripts(clips, clips))
    assert problem.fatal and problem.where == clips[4].location
    assert str(problem).endswith(
        "what is said in c.wav is not known, and training.teacher reads it; "
        "add an ::audio:: section with its transcript, or take training.teacher out"
    )


def test_what_is_known_already_stays(tmp_path: Path) -> None:
    clips = clips_of(tmp_path)
    told = attach_transcripts(clips[1:2], clips[1:2])
    assert said(attach_transcripts(told, clips[:1])[0]) == ["The ferry leaves at half past."]

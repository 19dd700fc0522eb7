"""Sections of a document and the examples that they become."""

from dataclasses import replace
from pathlib import Path

import pytest

from dlm.config.parser import Document, MessageBlock, QAPair, Section
from dlm.data.load import LoadedData, load_examples
from dlm.data.types import AudioSegment, Example, Message
from tests.data.recordings import create_document, save_audio


def make_document(folder: Path, *sections: Section, head: str = "") -> Document:
    """A document with exactly these sections, whatever the parser would say of them."""
    return replace(create_document(folder, head=head), sections=sections)


def make_audio_section(line: int = 1, **attributes: str) -> Section:
    given = {"path": "clips/a.wav", "transcript": "Hello there."} | attributes
    return Section("audio", line, attributes=given)


def get_contents(example: Example) -> list[tuple[str, tuple]]:
    return [
        (make_message_block.role, make_message_block.content)
        for make_message_block in example.messages
    ]


def get_only_example(data: LoadedData) -> Example:
    (example,) = data.examples
    assert data.issues == ()
    return example


def test_an_audio_section_is_an_example(tmp_path: Path) -> None:
    parsed = create_document(
        tmp_path, '# A\n\n::audio path="clips/a.wav" transcript="Hello there."::\n'
    )
    example = load_examples(parsed).examples[1]
    segment = AudioSegment(tmp_path / "clips/a.wav")
    assert get_contents(example) == [("user", (segment,)), ("assistant", ("Hello there.",))]
    assert (example.location, example.task, example.language) == ("my.dlm:8", "transcribe", None)
    assert example.audio_segments[0].name == "clips/a.wav"


def test_attributes_of_an_audio_section_reach_the_example(tmp_path: Path) -> None:
    section = make_audio_section(start="1.5", end="2", language="fr", prompt="Translate.")
    example = get_only_example(load_examples(make_document(tmp_path, section)))
    assert example.messages[0].content == (
        AudioSegment(tmp_path / "clips/a.wav", 1.5, 2.0),
        "Translate.",
    )
    assert example.language == "fr"


def test_the_system_prompt_begins_every_conversation(tmp_path: Path) -> None:
    sections = (
        make_audio_section(1),
        Section("instruction", 2, qa_pairs=(QAPair("Who?", "Ann.", 3),)),
        Section(
            "conversation",
            5,
            messages=(make_message_block("user", "Hi"), make_message_block("assistant", "Ho")),
        ),
        Section(
            "conversation",
            8,
            messages=(make_message_block("system", "Own."), make_message_block("assistant", "Ho")),
        ),
        Section("prose", 9, text="Plain."),
    )
    examples = load_examples(
        make_document(tmp_path, *sections, head="system_prompt: Listen well.\n")
    ).examples
    assert [example.messages[0] for example in examples] == [
        *[Message("system", ("Listen well.",))] * 3,
        Message("system", ("Own.",)),
        Message("assistant", ("Plain.",)),
    ]


def test_questions_after_an_audio_section_are_about_its_audio(tmp_path: Path) -> None:
    pairs = (QAPair("Who speaks?", "Ann.", 3), QAPair("Where?", "Here.", 6))
    section = Section("instruction", 2, qa_pairs=pairs)
    _, first, second = load_examples(
        make_document(tmp_path, make_audio_section(language="en", end="2"), section)
    ).examples
    segment = AudioSegment(tmp_path / "clips/a.wav", None, 2.0)
    assert get_contents(first) == [("user", (segment, "Who speaks?")), ("assistant", ("Ann.",))]
    assert (first.location, first.task, first.language) == ("my.dlm:3", "answer", "en")
    assert (second.location, second.target) == ("my.dlm:6", "Here.")


def test_questions_elsewhere_are_text(tmp_path: Path) -> None:
    section = Section("instruction", 3, qa_pairs=(QAPair("Who?", "Ann.", 4),))
    for previous in (Section("prose", 2, text="Between."), section):
        example = load_examples(
            make_document(tmp_path, make_audio_section(), previous, section)
        ).examples[-1]
        if previous.kind == "prose":
            assert example.task == "text" and get_contents(example)[0] == ("user", ("Who?",))
    assert load_examples(make_document(tmp_path, section)).examples[0].task == "text"


def make_message_block(role: str, *parts: str | Path) -> MessageBlock:
    return MessageBlock(role, parts, 1)


def test_a_conversation_is_one_example(tmp_path: Path) -> None:
    blocks = (
        make_message_block("user", Path("a.wav"), " and ", Path("b.wav")),
        make_message_block("assistant", "Two voices."),
        make_message_block("user", "Who?"),
        make_message_block("assistant", "Ann and Bob."),
    )
    example = get_only_example(
        load_examples(make_document(tmp_path, Section("conversation", 4, messages=blocks)))
    )
    segments = (AudioSegment(tmp_path / "a.wav"), AudioSegment(tmp_path / "b.wav"))
    assert example.messages[0] == Message("user", (segments[0], " and ", segments[1]))
    assert (example.audio_segments, example.task, example.location) == (
        segments,
        "answer",
        "my.dlm:4",
    )
    assert (example.target, example.audio_segments[1].name) == ("Ann and Bob.", "b.wav")


def test_a_conversation_without_audio_is_text(tmp_path: Path) -> None:
    blocks = (make_message_block("user", "Hi"), make_message_block("assistant", "Ho"))
    assert (
        get_only_example(
            load_examples(make_document(tmp_path, Section("conversation", 4, messages=blocks)))
        ).task
        == "text"
    )


@pytest.mark.parametrize(
    "blocks", [(), (make_message_block("user", "Hi"),), (make_message_block("assistant", " "),)]
)
def test_a_conversation_must_end_with_the_assistant(tmp_path: Path, blocks: tuple) -> None:
    (issue,) = load_examples(
        make_document(tmp_path, Section("conversation", 4, messages=blocks))
    ).issues
    assert issue.fatal
    assert str(issue) == (
        "my.dlm:4: the conversation does not end with words of the assistant; "
        "add the assistant turn to train on"
    )


def test_prose_is_one_assistant_message(tmp_path: Path) -> None:
    example = get_only_example(
        load_examples(create_document(tmp_path, "\nPlain words.\n\nAnd more.\n"))
    )
    assert get_contents(example) == [("assistant", ("Plain words.\n\nAnd more.",))]
    assert (example.task, example.location) == ("text", "my.dlm:7")


@pytest.mark.parametrize("blank", ["", "  \t", "\u2003"])
def test_an_empty_transcript(tmp_path: Path, blank: str) -> None:
    (issue,) = load_examples(
        make_document(tmp_path, make_audio_section(12, transcript=blank))
    ).issues
    assert issue.fatal
    assert str(issue) == (
        "my.dlm:12: AUDIO section has empty transcript; write what is said in clips/a.wav"
    )


def test_invalid_attributes_are_issues(tmp_path: Path) -> None:
    sections = (make_audio_section(3, start="soon"), make_audio_section(4, path=" "))
    first, second = load_examples(make_document(tmp_path, *sections)).issues
    assert str(first) == 'my.dlm:3: start="soon" is not a number of seconds; write start="1.5"'
    assert "my.dlm:4: AUDIO section has no path" in str(second)


def test_a_path_may_begin_at_home_or_the_root(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    elsewhere = save_audio(tmp_path / "elsewhere/b.wav")
    sections = (make_audio_section(1, path="~/a.wav"), make_audio_section(2, path=str(elsewhere)))
    first, second = load_examples(make_document(tmp_path, *sections)).examples
    assert first.audio_segments[0].path == tmp_path / "home/a.wav"
    assert first.audio_segments[0].name == "~/a.wav"
    assert second.audio_segments[0].path == elsewhere


@pytest.mark.parametrize("body", ["", "\n\n  \n"])
def test_a_document_without_anything_to_train_on(tmp_path: Path, body: str) -> None:
    data = load_examples(create_document(tmp_path, body))
    (issue,) = data.issues
    assert issue.fatal and data.examples == ()
    assert str(issue) == (
        "my.dlm: the document has nothing to train on; add an ::audio:: section, "
        "or a folder of clips under training.sources"
    )


@pytest.mark.parametrize(
    "section",
    [
        '::audio path="{}" transcript="a"::\n',
        '::audio path="{}" transcript="a"::\n\n::instruction::\n### Q\nWhat?\n### A\nThat.\n',
        "::conversation::\n### User\n<audio>{}</audio> What?\n### Assistant\nThat.\n",
    ],
)
@pytest.mark.parametrize("path", ["../far.wav", "/far.wav", "link.wav", "linked/far.wav"])
def test_a_strict_policy_refuses_recordings_of_sections_outside_the_folder(
    path: str, section: str, tmp_path: Path
) -> None:
    """Outside: by a relative path, an absolute one, a link, a folder that is a link."""
    folder = tmp_path / "here"
    save_audio(folder / "near.wav")
    far = save_audio(tmp_path / "far.wav")
    (folder / "link.wav").symlink_to(far)
    (folder / "linked").symlink_to(tmp_path)
    path = str(far) if path == "/far.wav" else path
    head = "training: {sources_policy: strict}\n"
    data = load_examples(create_document(folder, section.format("near.wav"), head=head))
    assert data.examples and not data.issues
    data = load_examples(create_document(folder, section.format(path), head=head))
    assert {issue.code for issue in data.issues} == {"data.outside_folder"} and not data.examples
    assert load_examples(create_document(folder, section.format(path))).examples

"""The held-out split: always the same examples, by recording, speaker or content."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm.data.load import load_examples
from dlm.data.split import SplitKeyer, hash_contents, split_by_group, train_eval_split
from dlm.data.types import AudioSegment, Example, Message
from tests.data.recordings import create_document, make_noise, save_audio, save_with_transcript


def make_audio_example(name: str, text: str = "", *, folder: str = "corpus") -> Example:
    segment = AudioSegment(Path(folder, name))
    turns = (Message("user", (segment,)), Message("assistant", (text or f"This is {name}.",)))
    return Example(turns, name, "transcribe")


def make_question(name: str, question: str) -> Example:
    turns = (
        Message("user", (AudioSegment(Path("corpus", name)), question)),
        Message("assistant", ("Yes.",)),
    )
    return Example(turns, f"{name} {question}", "answer")


def make_text(text: str) -> Example:
    return Example((Message("assistant", (text,)),), text, "text")


EXAMPLES = [make_audio_example(f"{number}.wav") for number in range(100)]


def split_held_out(
    examples: Sequence[Example], held_out: float, seed: int = 42, split_by: str = "recording"
) -> set[str]:
    content_hashes = hash_contents(examples, {}) if split_by == "content" else {}
    train, held_out_examples = split_by_group(
        examples, held_out, SplitKeyer(split_by, seed, content_hashes)
    )
    assert sorted(map(id, (*train, *held_out_examples))) == sorted(map(id, examples))
    indices = {example.location: number for number, example in enumerate(examples)}
    for side in (train, held_out_examples):
        assert [indices[example.location] for example in side] == sorted(
            indices[c.location] for c in side
        )
    return {example.location for example in held_out_examples}


def test_the_split_is_the_same_in_every_call_and_order() -> None:
    assert split_held_out(EXAMPLES, 0.2) == split_held_out(EXAMPLES, 0.2)
    assert split_held_out(EXAMPLES, 7) == split_held_out(list(reversed(EXAMPLES)), 7)
    assert split_held_out(EXAMPLES, 0.2, seed=1) != split_held_out(EXAMPLES, 0.2, seed=2)


def test_the_split_of_a_seed_never_changes_between_releases() -> None:
    assert split_held_out(EXAMPLES[:20], 3) == PINNED


PINNED = {"1.wav", "7.wav", "19.wav"}


@pytest.mark.parametrize("count", [1, 2, 50, 99])
def test_a_number_of_examples_is_held_out_exactly(count: int) -> None:
    assert len(split_held_out(EXAMPLES, count)) == count


def test_something_is_always_left_to_train_on() -> None:
    assert len(split_held_out(EXAMPLES, 100)) == len(split_held_out(EXAMPLES, 5000)) == 99
    assert len(split_held_out(EXAMPLES[:12], 0.999999)) == 11
    assert split_held_out(EXAMPLES[:1], 1) == split_held_out(EXAMPLES[:1], 0.9) == set()
    assert split_held_out([], 3) == split_held_out([], 0.5) == set()


def test_a_larger_split_contains_a_smaller_one() -> None:
    assert split_held_out(EXAMPLES, 5) < split_held_out(EXAMPLES, 10)
    assert split_held_out(EXAMPLES, 0.1) < split_held_out(EXAMPLES, 0.3)


@pytest.mark.parametrize("held_out", [0.05, 0.1, 0.5])
def test_a_fraction_holds_out_about_as_much(held_out: float) -> None:
    examples = [make_audio_example(f"{number}.wav") for number in range(2000)]
    assert abs(len(split_held_out(examples, held_out)) / 2000 - held_out) < 0.03


def test_zero_holds_out_nothing() -> None:
    assert split_held_out(EXAMPLES, 0.0) == split_held_out(EXAMPLES, 0) == set()


@pytest.mark.parametrize("seed", range(20))
def test_a_fraction_holds_out_at_least_one_of_ten(seed: int) -> None:
    assert len(split_held_out(EXAMPLES[:10], 0.001, seed)) == 1
    assert len(split_held_out(EXAMPLES[:9], 1e-12, seed)) == 0


def test_other_examples_do_not_change_the_side() -> None:
    few = split_held_out(EXAMPLES[:50], 0.3)
    assert few == split_held_out(EXAMPLES, 0.3) & {example.location for example in EXAMPLES[:50]}


def test_the_folder_does_not_change_the_side() -> None:
    moved = [
        make_audio_example(example.location, folder="/elsewhere/corpus") for example in EXAMPLES
    ]
    assert split_held_out(moved, 10) == split_held_out(EXAMPLES, 10)


def test_text_is_always_trained_on() -> None:
    examples = [*EXAMPLES[:5], *(make_text(f"Prose {number}.") for number in range(50))]
    assert split_held_out(examples, 4) <= {example.location for example in EXAMPLES[:5]}
    assert split_held_out([make_text(f"{number}") for number in range(50)], 0.5) == set()


def test_questions_stay_with_their_recording() -> None:
    examples = [
        c
        for example in EXAMPLES
        for c in (
            example,
            make_question(example.location, "Who?"),
            make_question(example.location, "?"),
        )
    ]
    held_out_examples = split_held_out(examples, 0.3)
    assert len(held_out_examples) % 3 == 0
    assert {location for location in held_out_examples if " " not in location} == split_held_out(
        EXAMPLES, 0.3
    )
    assert len(split_held_out(examples, 30)) == 30
    assert len(split_held_out(examples, 31)) == 30


def test_recordings_that_share_an_example_stay_together() -> None:
    pairs = [
        Example(
            (
                Message(
                    "user",
                    (
                        AudioSegment(Path("corpus", f"{n}.wav")),
                        AudioSegment(Path("corpus", f"{n + 1}.wav")),
                    ),
                ),
                Message("assistant", ("Two.",)),
            ),
            f"pair {n}",
            "answer",
        )
        for n in range(0, 20, 2)
    ]
    examples = [*EXAMPLES[:20], *pairs]
    held_out_examples = split_held_out(examples, 9)
    assert len(held_out_examples) == 9
    for number in range(0, 20, 2):
        assert len(
            {f"pair {number}", f"{number}.wav", f"{number + 1}.wav"} & held_out_examples
        ) in (0, 3)


def test_a_number_below_every_group_holds_out_the_smallest_group() -> None:
    examples = [
        c for example in EXAMPLES[:5] for c in (example, make_question(example.location, "Who?"))
    ]
    assert len(split_held_out(examples, 1)) == 2


def test_a_single_recording_is_trained_on() -> None:
    spans = [
        Example(
            (
                Message("user", (AudioSegment(Path("a.wav"), n, n + 1),)),
                Message("assistant", ("x",)),
            ),
            f"{n}",
            "transcribe",
        )
        for n in range(20)
    ]
    assert split_held_out(spans, 5) == split_held_out(spans, 0.5) == set()


@given(
    sizes=st.lists(st.integers(1, 4), max_size=12),
    held_out=st.one_of(st.integers(0, 40), st.floats(0, 0.999)),
    seed=st.integers(0, 99),
)
def test_no_recording_is_on_both_sides(sizes: list[int], held_out: float, seed: int) -> None:
    examples = [
        make_question(f"{n}.wav", f"{q}?") for n, size in enumerate(sizes) for q in range(size)
    ]
    train, held_out_examples = split_by_group(examples, held_out, SplitKeyer("recording", seed))
    paths = [
        {segment.path for example in side for segment in example.audio_segments}
        for side in (train, held_out_examples)
    ]
    assert not paths[0] & paths[1]
    assert len(train) + len(held_out_examples) == len(examples) and (train or not examples)


def test_members_of_an_archive_are_separate_recordings() -> None:
    examples = [make_archive_example(number) for number in range(100)]
    assert len(split_held_out(examples, 7)) == 7
    moved = [make_archive_example(number, shift=512) for number in range(100)]
    assert split_held_out(moved, 0.3) == split_held_out(examples, 0.3)


def make_archive_example(number: int, *, shift: int = 0) -> Example:
    """A clip in a tar, some bytes further on."""
    where = (shift + 1024 * number, 1000)
    segment = AudioSegment(Path("a.tar"), byte_range=where, display_path=f"a.tar/{number}.wav")
    turns = (Message("user", (segment,)), Message("assistant", ("The same words.",)))
    return Example(turns, f"{number}.wav", "transcribe")


def make_speaker_example(number: int, speaker: str | None) -> Example:
    return replace(make_audio_example(f"{number}.wav"), speaker=speaker)


SPEAKERS = [make_speaker_example(number, f"speaker {number % 20}") for number in range(200)]


@pytest.mark.parametrize("held_out", [0.2, 40])
def test_a_speaker_is_on_one_side_only(held_out: float) -> None:
    held_out_examples = split_held_out(SPEAKERS, held_out, split_by="speaker")
    speakers = {example.speaker for example in SPEAKERS if example.location in held_out_examples}
    assert len(held_out_examples) == 10 * len(speakers) > 0
    assert (
        len(split_held_out(SPEAKERS, held_out)) % 10
        or split_held_out(SPEAKERS, held_out) != held_out_examples
    )


def test_more_examples_and_speakers_do_not_change_the_side_of_a_speaker() -> None:
    few = SPEAKERS[:60] + [make_speaker_example(n, f"other {n}") for n in range(500, 520)]
    every = [*SPEAKERS, *few[60:]]
    speakers = {
        example.speaker
        for example in few
        if example.location in split_held_out(few, 0.3, split_by="speaker")
    }
    assert {c.location for c in every if c.speaker in speakers} <= split_held_out(
        every, 0.3, split_by="speaker"
    )


def test_without_a_speaker_recordings_are_grouped() -> None:
    examples = [replace(example, speaker=None) for example in EXAMPLES]
    assert split_held_out(examples, 0.3, split_by="speaker") == split_held_out(examples, 0.3)


def test_a_question_stays_with_the_speaker_of_its_audio() -> None:
    questions = [make_question(f"{number}.wav", "Who?") for number in range(200)]
    held_out_examples = split_held_out([*SPEAKERS, *questions], 0.3, split_by="speaker")
    assert {location for location in held_out_examples if " " not in location} == split_held_out(
        SPEAKERS, 0.3, split_by="speaker"
    )
    assert len(held_out_examples) == 2 * len(split_held_out(SPEAKERS, 0.3, split_by="speaker"))


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """Twenty recordings, each in two formats by two names."""
    folder, examples = tmp_path_factory.mktemp("copies"), []
    for number in range(20):
        wave = (make_noise(0.1, seed=number) * 32767).astype("int16")
        one = save_audio(folder / f"{number}.wav", wave)
        other = save_audio(folder / f"copy of {number}.flac", wave)
        examples += [
            make_audio_example(path.name, f"Said {path}.", folder=str(folder))
            for path in (one, other)
        ]
    return examples


def test_equal_samples_are_on_one_side(copies: list[Example]) -> None:
    held_out_examples = split_held_out(copies, 0.4, split_by="content")
    assert held_out_examples and all(
        (f"copy of {n}.flac" in held_out_examples) == (f"{n}.wav" in held_out_examples)
        for n in range(20)
    )
    apart = split_held_out(copies, 0.4)
    assert any((f"copy of {n}.flac" in apart) != (f"{n}.wav" in apart) for n in range(20))


def test_other_content_does_not_change_the_side(copies: list[Example]) -> None:
    few = copies[:20]
    indices = {example.location for example in few}
    assert (
        split_held_out(few, 0.4, split_by="content")
        == split_held_out(copies, 0.4, split_by="content") & indices
    )


def test_a_missing_recording_is_grouped_by_its_name() -> None:
    assert split_held_out(EXAMPLES[:20], 3, split_by="content") == split_held_out(
        EXAMPLES[:20], 3, split_by="content"
    )


def split_sources(folder: Path, *lines: str) -> tuple[set[str], set[str], list[str]]:
    """The places on both sides of a document with these settings, and its problems."""
    for name in ("corpus/a", "corpus/b", "dev/c", "dev/d"):
        save_with_transcript(
            folder / f"{name}.wav", f"This is {name}.", make_noise(0.2, seed=ord(name[-1]))
        )
    head = "training:\n" + "".join(f"  {line}\n" for line in lines)
    parsed = create_document(folder, head=head)
    data = load_examples(parsed)
    train, held_out_examples = train_eval_split(data, parsed.config.training)
    indices = ({example.location for example in side} for side in (train, held_out_examples))
    return *indices, [str(problem) for problem in data.issues]


BOTH = ({"corpus/a.wav", "corpus/b.wav"}, {"dev/c.wav", "dev/d.wav"}, [])


@pytest.mark.parametrize("path", ["dev", "./dev", "dev/"])
def test_a_listed_source_is_held_out(path: str, tmp_path: Path) -> None:
    assert split_sources(tmp_path, f"sources: [corpus, {path}]", "held_out: dev") == BOTH
    assert split_sources(tmp_path, "sources: [corpus, dev]", f"held_out: {path}") == BOTH


def test_a_source_that_is_not_listed_is_held_out(tmp_path: Path) -> None:
    assert split_sources(tmp_path, "sources: [corpus]", "held_out: dev") == BOTH


def test_the_order_of_sources_does_not_change_the_side(tmp_path: Path) -> None:
    assert split_sources(tmp_path, "sources: [dev, corpus]", "held_out: dev") == BOTH


def test_a_missing_source_cannot_be_held_out(tmp_path: Path) -> None:
    *_, issues = split_sources(tmp_path, "sources: [corpus]", "held_out: else")
    assert issues == ["my.dlm:7: source not found: else; make the folder or correct its path"]


def test_held_out_recordings_are_not_trained_on_through_another_source(tmp_path: Path) -> None:
    """The folder that is held out lies in one that is learned from."""
    train, held_out_examples, _ = split_sources(tmp_path, "sources: [.]", "held_out: dev")
    assert (train, held_out_examples) == BOTH[:2]
    copy = tmp_path / "corpus/copy.wav"
    copy.write_bytes((tmp_path / "dev/c.wav").read_bytes())
    copy.with_suffix(".txt").write_text("This is a copy.")
    assert "corpus/copy.wav" in split_sources(tmp_path, "sources: [.]", "held_out: dev")[0]
    by_content = ("sources: [.]", "held_out: dev", "split_by: content")
    assert split_sources(tmp_path, *by_content)[:2] == BOTH[:2]

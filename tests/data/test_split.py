"""Which clips are kept to be tested on: always the same ones."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm.data.load import load_examples
from dlm.data.split import SplitKeyer, hash_contents, split_by_group, train_eval_split
from dlm.data.types import AudioSegment, Example, Message
from tests.data.sounds import document, noise, pair, save


def spoken(name: str, text: str = "", *, folder: str = "corpus") -> Example:
    sound = AudioSegment(Path(folder, name))
    turns = (Message("user", (sound,)), Message("assistant", (text or f"This is {name}.",)))
    return Example(turns, name, "transcribe")


def asked(name: str, question: str) -> Example:
    turns = (
        Message("user", (AudioSegment(Path("corpus", name)), question)),
        Message("assistant", ("Yes.",)),
    )
    return Example(turns, f"{name} {question}", "answer")


def written(text: str) -> Example:
    return Example((Message("assistant", (text,)),), text, "text")


CLIPS = [spoken(f"{number}.wav") for number in range(100)]


def held(
    clips: Sequence[Example], held_out: float, seed: int = 42, by: str = "recording"
) -> set[str]:
    known = hash_contents(clips, {}) if by == "content" else {}
    learn, kept = split_by_group(clips, held_out, SplitKeyer(by, seed, known))
    assert sorted(map(id, (*learn, *kept))) == sorted(map(id, clips))
    places = {clip.location: number for number, clip in enumerate(clips)}
    for side in (learn, kept):
        assert [places[clip.location] for clip in side] == sorted(places[c.location] for c in side)
    return {clip.location for clip in kept}


def test_nothing_changes_between_two_calls() -> None:
    assert held(CLIPS, 0.2) == held(CLIPS, 0.2)
    assert held(CLIPS, 7) == held(list(reversed(CLIPS)), 7)
    assert held(CLIPS, 0.2, seed=1) != held(CLIPS, 0.2, seed=2)


def test_the_draw_is_pinned() -> None:
    assert held(CLIPS[:20], 3) == PINNED


PINNED = {"1.wav", "7.wav", "19.wav"}


@pytest.mark.parametrize("count", [1, 2, 50, 99])
def test_a_number_is_kept_exactly(count: int) -> None:
    assert len(held(CLIPS, count)) == count


def test_never_all() -> None:
    assert len(held(CLIPS, 100)) == len(held(CLIPS, 5000)) == 99
    assert len(held(CLIPS[:12], 0.999999)) == 11
    assert held(CLIPS[:1], 1) == held(CLIPS[:1], 0.9) == set()
    assert held([], 3) == held([], 0.5) == set()


def test_more_are_kept_when_more_are_asked() -> None:
    assert held(CLIPS, 5) < held(CLIPS, 10)
    assert held(CLIPS, 0.1) < held(CLIPS, 0.3)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_a_share_is_about_as_much(share: float) -> None:
    clips = [spoken(f"{number}.wav") for number in range(2000)]
    assert abs(len(held(clips, share)) / 2000 - share) < 0.03


def test_none_when_none_is_asked() -> None:
    assert held(CLIPS, 0.0) == held(CLIPS, 0) == set()


@pytest.mark.parametrize("seed", range(20))
def test_a_share_keeps_at_least_one_of_ten(seed: int) -> None:
    assert len(held(CLIPS[:10], 0.001, seed)) == 1
    assert len(held(CLIPS[:9], 1e-12, seed)) == 0


def test_other_clips_move_nothing() -> None:
    few = held(CLIPS[:50], 0.3)
    assert few == held(CLIPS, 0.3) & {clip.location for clip in CLIPS[:50]}


def test_moving_the_folder_moves_nothing() -> None:
    moved = [spoken(clip.location, folder="/elsewhere/corpus") for clip in CLIPS]
    assert held(moved, 10) == held(CLIPS, 10)


def test_text_always_learns() -> None:
    clips = [*CLIPS[:5], *(written(f"Prose {number}.") for number in range(50))]
    assert held(clips, 4) <= {clip.location for clip in CLIPS[:5]}
    assert held([written(f"{number}") for number in range(50)], 0.5) == set()


def test_questions_stay_with_their_recording() -> None:
    clips = [
        c for clip in CLIPS for c in (clip, asked(clip.location, "Who?"), asked(clip.location, "?"))
    ]
    kept = held(clips, 0.3)
    assert len(kept) % 3 == 0
    assert {place for place in kept if " " not in place} == held(CLIPS, 0.3)
    assert len(held(clips, 30)) == 30
    assert len(held(clips, 31)) == 30


def test_recordings_that_meet_in_a_clip_stay_together() -> None:
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
    clips = [*CLIPS[:20], *pairs]
    kept = held(clips, 9)
    assert len(kept) == 9
    for number in range(0, 20, 2):
        assert len({f"pair {number}", f"{number}.wav", f"{number + 1}.wav"} & kept) in (0, 3)


def test_a_number_smaller_than_every_recording_keeps_the_smallest() -> None:
    clips = [c for clip in CLIPS[:5] for c in (clip, asked(clip.location, "Who?"))]
    assert len(held(clips, 1)) == 2


def test_one_recording_is_learned() -> None:
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
    assert held(spans, 5) == held(spans, 0.5) == set()


@given(
    sizes=st.lists(st.integers(1, 4), max_size=12),
    share=st.one_of(st.integers(0, 40), st.floats(0, 0.999)),
    seed=st.integers(0, 99),
)
def test_recordings_are_never_parted(sizes: list[int], share: float, seed: int) -> None:
    clips = [asked(f"{n}.wav", f"{q}?") for n, size in enumerate(sizes) for q in range(size)]
    learn, kept = split_by_group(clips, share, SplitKeyer("recording", seed))
    heard = [
        {sound.path for clip in side for sound in clip.audio_segments} for side in (learn, kept)
    ]
    assert not heard[0] & heard[1]
    assert len(learn) + len(kept) == len(clips) and (learn or not clips)


def test_members_of_an_archive_are_recordings_of_their_own() -> None:
    clips = [inside(number) for number in range(100)]
    assert len(held(clips, 7)) == 7
    moved = [inside(number, shift=512) for number in range(100)]
    assert held(moved, 0.3) == held(clips, 0.3)


def inside(number: int, *, shift: int = 0) -> Example:
    """A clip in a tar, some bytes further on."""
    where = (shift + 1024 * number, 1000)
    sound = AudioSegment(Path("a.tar"), byte_range=where, display_path=f"a.tar/{number}.wav")
    turns = (Message("user", (sound,)), Message("assistant", ("The same words.",)))
    return Example(turns, f"{number}.wav", "transcribe")


def of_speaker(number: int, speaker: str | None) -> Example:
    return replace(spoken(f"{number}.wav"), speaker=speaker)


SPEAKERS = [of_speaker(number, f"speaker {number % 20}") for number in range(200)]


@pytest.mark.parametrize("share", [0.2, 40])
def test_a_speaker_is_on_one_side(share: float) -> None:
    kept = held(SPEAKERS, share, by="speaker")
    voices = {clip.speaker for clip in SPEAKERS if clip.location in kept}
    assert len(kept) == 10 * len(voices) > 0
    assert len(held(SPEAKERS, share)) % 10 or held(SPEAKERS, share) != kept


def test_more_clips_of_a_speaker_and_more_speakers_move_nobody() -> None:
    few = SPEAKERS[:60] + [of_speaker(n, f"other {n}") for n in range(500, 520)]
    every = [*SPEAKERS, *few[60:]]
    voices = {clip.speaker for clip in few if clip.location in held(few, 0.3, by="speaker")}
    assert {c.location for c in every if c.speaker in voices} <= held(every, 0.3, by="speaker")


def test_without_a_speaker_the_recording_counts() -> None:
    clips = [replace(clip, speaker=None) for clip in CLIPS]
    assert held(clips, 0.3, by="speaker") == held(clips, 0.3)


def test_a_question_stays_with_the_speaker_of_its_sound() -> None:
    questions = [asked(f"{number}.wav", "Who?") for number in range(200)]
    kept = held([*SPEAKERS, *questions], 0.3, by="speaker")
    assert {place for place in kept if " " not in place} == held(SPEAKERS, 0.3, by="speaker")
    assert len(kept) == 2 * len(held(SPEAKERS, 0.3, by="speaker"))


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """Twenty recordings, each in two formats by two names."""
    folder, clips = tmp_path_factory.mktemp("copies"), []
    for number in range(20):
        wave = (noise(0.1, seed=number) * 32767).astype("int16")
        one = save(folder / f"{number}.wav", wave)
        other = save(folder / f"copy of {number}.flac", wave)
        clips += [spoken(path.name, f"Said {path}.", folder=str(folder)) for path in (one, other)]
    return clips


def test_copies_are_on_one_side(copies: list[Example]) -> None:
    kept = held(copies, 0.4, by="content")
    assert kept and all((f"copy of {n}.flac" in kept) == (f"{n}.wav" in kept) for n in range(20))
    apart = held(copies, 0.4)
    assert any((f"copy of {n}.flac" in apart) != (f"{n}.wav" in apart) for n in range(20))


def test_other_content_moves_nothing(copies: list[Example]) -> None:
    few = copies[:20]
    places = {clip.location for clip in few}
    assert held(few, 0.4, by="content") == held(copies, 0.4, by="content") & places


def test_a_recording_that_is_gone_is_told_by_its_name() -> None:
    assert held(CLIPS[:20], 3, by="content") == held(CLIPS[:20], 3, by="content")


def sources(folder: Path, *lines: str) -> tuple[set[str], set[str], list[str]]:
    """The places on both sides of a document with these settings, and its problems."""
    for name in ("corpus/a", "corpus/b", "dev/c", "dev/d"):
        pair(folder / f"{name}.wav", f"This is {name}.", noise(0.2, seed=ord(name[-1])))
    head = "training:\n" + "".join(f"  {line}\n" for line in lines)
    found = document(folder, head=head)
    gathered = load_examples(found)
    learn, kept = train_eval_split(gathered, found.config.training)
    places = ({clip.location for clip in side} for side in (learn, kept))
    return *places, [str(problem) for problem in gathered.issues]


BOTH = ({"corpus/a.wav", "corpus/b.wav"}, {"dev/c.wav", "dev/d.wav"}, [])


@pytest.mark.parametrize("written", ["dev", "./dev", "dev/"])
def test_a_source_is_held_out(written: str, tmp_path: Path) -> None:
    assert sources(tmp_path, f"sources: [corpus, {written}]", "held_out: dev") == BOTH
    assert sources(tmp_path, "sources: [corpus, dev]", f"held_out: {written}") == BOTH


def test_a_source_that_is_not_listed_is_held_out(tmp_path: Path) -> None:
    assert sources(tmp_path, "sources: [corpus]", "held_out: dev") == BOTH


def test_an_order_of_sources_changes_no_side(tmp_path: Path) -> None:
    assert sources(tmp_path, "sources: [dev, corpus]", "held_out: dev") == BOTH


def test_a_source_that_is_not_there_cannot_be_held_out(tmp_path: Path) -> None:
    *_, told = sources(tmp_path, "sources: [corpus]", "held_out: else")
    assert told == ["my.dlm:7: source not found: else; make the folder or correct its path"]


def test_what_is_held_out_is_not_learned_from_elsewhere(tmp_path: Path) -> None:
    """The folder that is held out lies in one that is learned from."""
    learn, kept, _ = sources(tmp_path, "sources: [.]", "held_out: dev")
    assert (learn, kept) == BOTH[:2]
    copy = tmp_path / "corpus/copy.wav"
    copy.write_bytes((tmp_path / "dev/c.wav").read_bytes())
    copy.with_suffix(".txt").write_text("This is a copy.")
    assert "corpus/copy.wav" in sources(tmp_path, "sources: [.]", "held_out: dev")[0]
    by_content = ("sources: [.]", "held_out: dev", "split_by: content")
    assert sources(tmp_path, *by_content)[:2] == BOTH[:2]

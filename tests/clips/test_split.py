"""Which clips are kept to be tested on: always the same ones."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm.clips.clip import Clip, Sound, Turn
from dlm.clips.split import split


def spoken(name: str, text: str = "", *, folder: str = "corpus") -> Clip:
    sound = Sound(Path(folder, name))
    turns = (Turn("user", (sound,)), Turn("assistant", (text or f"This is {name}.",)))
    return Clip(turns, name, "transcribe")


def asked(name: str, question: str) -> Clip:
    turns = (Turn("user", (Sound(Path("corpus", name)), question)), Turn("assistant", ("Yes.",)))
    return Clip(turns, f"{name} {question}", "answer")


def written(text: str) -> Clip:
    return Clip((Turn("assistant", (text,)),), text, "text")


CLIPS = [spoken(f"{number}.wav") for number in range(100)]


def held(clips: Sequence[Clip], held_out: float, seed: int = 42) -> set[str]:
    learn, kept = split(clips, held_out, seed=seed)
    assert sorted(map(id, (*learn, *kept))) == sorted(map(id, clips))
    places = {clip.place: number for number, clip in enumerate(clips)}
    for side in (learn, kept):
        assert [places[clip.place] for clip in side] == sorted(places[c.place] for c in side)
    return {clip.place for clip in kept}


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
    assert few == held(CLIPS, 0.3) & {clip.place for clip in CLIPS[:50]}


def test_moving_the_folder_moves_nothing() -> None:
    moved = [spoken(clip.place, folder="/elsewhere/corpus") for clip in CLIPS]
    assert held(moved, 10) == held(CLIPS, 10)


def test_text_always_learns() -> None:
    clips = [*CLIPS[:5], *(written(f"Prose {number}.") for number in range(50))]
    assert held(clips, 4) <= {clip.place for clip in CLIPS[:5]}
    assert held([written(f"{number}") for number in range(50)], 0.5) == set()


def test_questions_stay_with_their_recording() -> None:
    clips = [c for clip in CLIPS for c in (clip, asked(clip.place, "Who?"), asked(clip.place, "?"))]
    kept = held(clips, 0.3)
    assert len(kept) % 3 == 0
    assert {place for place in kept if " " not in place} == held(CLIPS, 0.3)
    assert len(held(clips, 30)) == 30
    assert len(held(clips, 31)) == 30


def test_recordings_that_meet_in_a_clip_stay_together() -> None:
    pairs = [
        Clip(
            (
                Turn(
                    "user",
                    (Sound(Path("corpus", f"{n}.wav")), Sound(Path("corpus", f"{n + 1}.wav"))),
                ),
                Turn("assistant", ("Two.",)),
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
    clips = [c for clip in CLIPS[:5] for c in (clip, asked(clip.place, "Who?"))]
    assert len(held(clips, 1)) == 2


def test_one_recording_is_learned() -> None:
    spans = [
        Clip(
            (Turn("user", (Sound(Path("a.wav"), n, n + 1),)), Turn("assistant", ("x",))),
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
    learn, kept = split(clips, share, seed=seed)
    heard = [{sound.path for clip in side for sound in clip.sounds} for side in (learn, kept)]
    assert not heard[0] & heard[1]
    assert len(learn) + len(kept) == len(clips) and (learn or not clips)

"""Which transcripts are far from what is heard, and which are found with another clip."""

from dlm.inference.label_check import CheckedTranscript, TranscriptionCheck, rank_transcripts
from dlm.inference.metrics import score_utterance

SENTENCES = {
    "a": ("the red house stands on the hill", "the bread house stand on a hill"),
    "b": ("he came home late last night", "he game home laid last night"),
    "c": ("two cats sleep under the table", "to cat slip under the tables"),
    "d": ("nobody knows where the key is", "no body nose where the keys"),
}


def compared(said: dict[str, str], heard: dict[str, str]) -> tuple[CheckedTranscript, ...]:
    return rank_transcripts([score_utterance(place, said[place], heard[place]) for place in said])


def the(which: int, **instead: str) -> dict[str, str]:
    return {place: both[which] for place, both in SENTENCES.items()} | instead


def test_exchanged_transcripts_are_found_and_come_first() -> None:
    said = the(0, b=SENTENCES["c"][0], c=SENTENCES["b"][0])
    found = compared(said, the(1))
    assert {each.location: each.better_match for each in found[:2]} == {"b": "c", "c": "b"}
    assert [each.better_match for each in found[2:]] == [None, None]


def test_the_rest_is_told_the_worst_first() -> None:
    found = compared(the(0), the(1, d="la la la"))
    assert found[0].location == "d" and found[0].wer >= 1
    assert all(each.better_match is None for each in found)
    assert [each.wer for each in found] == sorted((each.wer for each in found), reverse=True)


def test_a_transcript_that_fits_nothing_is_of_nothing() -> None:
    found = compared(the(0, a="quite something else entirely"), the(1))
    assert found[0].location == "a" and found[0].better_match is None


def test_a_sentence_that_is_much_like_another_is_not_taken_for_it() -> None:
    alike = SENTENCES["a"][0].replace("house", "mouse")
    found = compared(the(0, e=alike), the(1, e="mumbled noise all along"))
    assert found[0].location == "e" and found[0].better_match is None


def test_a_sentence_of_two_clips_is_not_sought() -> None:
    found = compared(the(0, e=SENTENCES["a"][0].upper()), the(1, e="mumbled noise all along"))
    assert found[0].location == "e" and found[0].better_match is None


def test_nothing_said_or_heard() -> None:
    found = compared(the(0, a="...", b=SENTENCES["b"][0]), the(1, b=""))
    assert {each.location for each in found if each.better_match} == set()


def test_each_misplaced_transcript_is_a_problem_with_a_mend() -> None:
    said = the(0, b=SENTENCES["c"][0], c="quite something else entirely")
    problems = list(TranscriptionCheck("tiny", compared(said, the(1)), 4, 0.5).iter_issues())
    assert [str(each) for each in problems] == [
        "b: its transcript fits what is heard in c better than its own sound; "
        "check which transcript belongs to which recording"
    ]
    assert not problems[0].fatal

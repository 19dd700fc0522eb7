"""Transcripts far from what a model transcribes are ranked, and exchanged ones are recognized."""

from dlm.inference.label_check import CheckedTranscript, TranscriptionCheck, rank_transcripts
from dlm.inference.metrics import score_utterance

# transcript, and what a poor model transcribes
UTTERANCES = {
    "a": ("the red house stands on the hill", "the bread house stand on a hill"),
    "b": ("he came home late last night", "he game home laid last night"),
    "c": ("two cats sleep under the table", "to cat slip under the tables"),
    "d": ("nobody knows where the key is", "no body nose where the keys"),
}


def rank(references: dict[str, str], hypotheses: dict[str, str]) -> tuple[CheckedTranscript, ...]:
    return rank_transcripts(
        [
            score_utterance(location, reference, hypotheses[location])
            for location, reference in references.items()
        ]
    )


def references(**changes: str) -> dict[str, str]:
    return {location: pair[0] for location, pair in UTTERANCES.items()} | changes


def hypotheses(**changes: str) -> dict[str, str]:
    return {location: pair[1] for location, pair in UTTERANCES.items()} | changes


def test_exchanged_transcripts_come_first_with_their_match() -> None:
    exchanged = references(b=UTTERANCES["c"][0], c=UTTERANCES["b"][0])
    ranked = rank(exchanged, hypotheses())
    assert {each.location: each.better_match for each in ranked[:2]} == {"b": "c", "c": "b"}
    assert [each.better_match for each in ranked[2:]] == [None, None]


def test_the_highest_wer_comes_first() -> None:
    ranked = rank(references(), hypotheses(d="la la la"))
    assert ranked[0].location == "d" and ranked[0].wer >= 1
    assert all(each.better_match is None for each in ranked)
    assert [each.wer for each in ranked] == sorted((each.wer for each in ranked), reverse=True)


def test_a_transcript_unlike_every_recording_has_no_match() -> None:
    ranked = rank(references(a="quite something else entirely"), hypotheses())
    assert ranked[0].location == "a" and ranked[0].better_match is None


def test_a_sentence_like_another_is_not_matched_with_it() -> None:
    similar = UTTERANCES["a"][0].replace("house", "mouse")
    ranked = rank(references(e=similar), hypotheses(e="mumbled noise all along"))
    assert ranked[0].location == "e" and ranked[0].better_match is None


def test_the_same_sentence_of_two_clips_is_not_matched() -> None:
    repeated = UTTERANCES["a"][0].upper()
    ranked = rank(references(e=repeated), hypotheses(e="mumbled noise all along"))
    assert ranked[0].location == "e" and ranked[0].better_match is None


def test_empty_texts_have_no_match() -> None:
    ranked = rank(references(a="..."), hypotheses(b=""))
    assert {each.location for each in ranked if each.better_match} == set()


def test_each_exchanged_transcript_is_an_issue_with_a_hint() -> None:
    wrong = references(b=UTTERANCES["c"][0], c="quite something else entirely")
    check = TranscriptionCheck("tiny", rank(wrong, hypotheses()), 4, 0.5)
    (issue,) = check.iter_issues()
    assert str(issue) == (
        "b: its transcript fits the audio of c better than its own; "
        "check which transcript belongs to which recording"
    )
    assert issue.code == "data.transcript_of_other_audio" and not issue.fatal

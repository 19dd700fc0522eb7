"""What happens with clips that cannot be used (`training.bad_clips`): stop, or skip and count.

    error   the first stops training
    skip    they are left out, counted, and reported in one line
    empty   error below 100 clips; skip from there on, and in a stream

Only single clips and records are skipped, and no more than 5 % of all: what is wrong with a source
or with the document stops training.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from dlm.config.schema import TrainingConfig
from dlm.data.load import LoadedData
from dlm.data.types import AudioSegment, Example, Issue
from dlm.errors import DataError

MIN_EXAMPLES_TO_SKIP_BAD = 100
MAX_BAD_FRACTION = 0.05
MAX_REPORTED_LOCATIONS = 3


@dataclass(frozen=True)
class FilterResult:
    """The issues of a document, after what can be skipped was taken out.

    Attributes:
        issues: what is left to report.
        skipped_issues: what is wrong with each example or record that is skipped.
        unusable_segments: audio that cannot be used, whichever example it is in.
    """

    issues: tuple[Issue, ...]
    skipped_issues: tuple[Issue, ...] = ()
    unusable_segments: Collection[AudioSegment] = ()

    def drop_unusable(self, examples: Sequence[Example]) -> tuple[Example, ...]:
        """Return the examples that are not skipped."""
        bad_locations = {issue.where for issue in self.skipped_issues}
        return tuple(
            example
            for example in examples
            if example.location not in bad_locations
            and not any(segment in self.unusable_segments for segment in example.audio_segments)
        )


def should_skip_bad_examples(config: TrainingConfig, data: LoadedData) -> bool:
    """Whether examples that cannot be used are skipped."""
    if config.bad_clips is not None:
        return config.bad_clips == "skip"
    return config.uses_streaming or count_examples(data) >= MIN_EXAMPLES_TO_SKIP_BAD


def count_examples(data: LoadedData) -> int:
    """Count all examples, and the records that should have been examples."""
    return len(data.examples) + len(data.record_issues)


def filter_bad_examples(
    config: TrainingConfig,
    data: LoadedData,
    issues: Sequence[Issue],
    *,
    unusable_segments: Collection[AudioSegment] = (),
    where: str,
) -> FilterResult:
    """Decide which issues stop training and which examples are skipped for them.

    Args:
        config: `bad_clips`.
        data: the loaded examples.
        issues: everything found wrong with them.
        unusable_segments: audio that cannot be used.
        where: name of the document, for the line that counts what is skipped.
    """
    if not should_skip_bad_examples(config, data):
        return FilterResult(tuple(issues))
    record_locations = {issue.where for issue in data.record_issues}
    locations = {example.location for example in data.examples} | record_locations
    bad = tuple(issue for issue in issues if issue.fatal and issue.where in locations)
    if not bad:
        return FilterResult(tuple(issues))
    rest = tuple(issue for issue in issues if not (issue.fatal and issue.where in locations))
    result = FilterResult(rest, bad, unusable_segments)
    num_examples = count_examples(data)
    num_left_out = len(data.examples) - len(result.drop_unusable(data.examples))
    num_bad = num_left_out + len(record_locations)
    if exceeds_bad_fraction(num_bad, num_examples):
        too_many = make_too_many_bad_issue(bad, num_bad, num_examples, where=where)
        return FilterResult((too_many, *issues))
    what = (
        f"{_format_bad_count(num_bad, num_examples)} and {'is' if num_bad == 1 else 'are'} "
        f"left out: {_format_locations(bad)}"
    )
    hint = "nothing to do, or correct them: `dlm check --json` lists all"
    skipped = Issue(where, what, hint, fatal=False, code="data.bad_skipped")
    return replace(result, issues=(*rest, skipped))


class BadExampleCounter:
    """Counts examples that turn out to be unusable during training.

    Args:
        num_examples: of all examples seen so far.
        skip_bad_examples: skip them, rather than raise on the first.

    Attributes:
        issues: what is wrong with each, by its location.
    """

    def __init__(self, num_examples: int, *, skip_bad_examples: bool) -> None:
        self.num_examples = num_examples
        self.issues: dict[str, Issue] = {}
        self._skip_bad_examples = skip_bad_examples

    def record_error(self, error: DataError, location: str) -> None:
        """Skip the example at `location`.

        Raises:
            DataError: bad examples are not skipped, or there are too many.
        """
        if not self._skip_bad_examples:
            raise error
        self.issues[location] = Issue.from_error(error, location)
        num_bad = len(self.issues)
        if exceeds_bad_fraction(num_bad, self.num_examples):
            issue = make_too_many_bad_issue(
                self.issues.values(), num_bad, self.num_examples, where=location
            )
            raise DataError(
                issue.what, where=issue.where, hint=issue.hint, code=issue.code
            ) from error

    def leave_unscored(self, error: DataError, location: str) -> None:
        """Count an example that cannot be scored: that is never a reason to lose a run."""
        self.issues[location] = Issue.from_error(error, location)


def exceeds_bad_fraction(num_bad: int, num_examples: int) -> bool:
    """Whether so many unusable examples stop training."""
    return num_bad > MAX_BAD_FRACTION * num_examples


def make_too_many_bad_issue(
    bad_issues: Iterable[Issue], num_bad: int, num_examples: int, *, where: str
) -> Issue:
    """Make the issue that stops training for too many unusable examples."""
    what = (
        f"{_format_bad_count(num_bad, num_examples)}, more than "
        f"{MAX_BAD_FRACTION:.0%}: {_format_locations(bad_issues)}"
    )
    hint = "correct them, or take them out"
    return Issue(where, what, hint, fatal=True, code="data.too_many_bad")


def _format_bad_count(num_bad: int, num_examples: int) -> str:
    return f"{num_bad:,} of {num_examples:,} clip{'s' * (num_examples != 1)} cannot be used"


def _format_locations(bad_issues: Iterable[Issue]) -> str:
    """The first few locations, each once."""
    locations = list(dict.fromkeys(issue.where for issue in bad_issues))
    num_more = len(locations) - MAX_REPORTED_LOCATIONS
    more = f" and {num_more:,} more" if num_more > 0 else ""
    return ", ".join(locations[:MAX_REPORTED_LOCATIONS]) + more

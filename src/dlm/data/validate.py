"""Validation of all examples before any weights load: every issue, and what is known of the data.

    LoadedData -> each recording scanned once                    audio_scan
               -> issues of each example                         here, quality_checks
               -> issues of examples compared with each other    duplicates, contamination
               -> statistics of each example and of all          stats

Fatal is what would stop training: audio that is missing, damaged, at a refused sample rate or too
short, an empty transcript, a bad language code. An example never raises.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from dlm.config.data_schema import AudioConfig
from dlm.data.audio_io import (
    SEGMENT_END_TOLERANCE_SECONDS,
    choose_resampler,
    make_sample_rate_error,
)
from dlm.data.audio_scan import (
    AudioScan,
    HashMethodFn,
    ScanProgressFn,
    attach_recordings,
    number_segments,
    scan_audio,
)
from dlm.data.duplicates import (
    find_duplicates,
    find_near_duplicates,
    find_rate_outliers,
    find_repeated_transcripts,
)
from dlm.data.load import LoadedData
from dlm.data.quality_checks import (
    MIN_EXAMPLE_AUDIO_SECONDS,
    QualityWarning,
    check_audio_quality,
    check_script,
    check_speaking_rate,
    check_text_quality,
    describe_long_audio,
    summarize_long_audio,
)
from dlm.data.readers.base import EMPTY_TRANSCRIPT
from dlm.data.stats import DatasetStats, ExampleStatsView, compute_dataset_stats
from dlm.data.types import LANGUAGE_CODE_HINT, LANGUAGE_CODE_RE, AudioSegment, Example, Issue
from dlm.errors import AudioError, DataError


@dataclass(frozen=True, kw_only=True)
class ValidationReport(DatasetStats):
    """What is known of all examples, of each of them, and what is wrong.

    Attributes:
        example_stats: statistics of each example, made when they are asked for.
        issues: everything that is wrong, in the order of the checks.
        unusable_segments: audio that would stop training in any example.
    """

    example_stats: ExampleStatsView
    issues: tuple[Issue, ...]
    unusable_segments: frozenset[AudioSegment] = frozenset()

    @property
    def examples(self) -> tuple[Example, ...]:
        """The examples, each audio segment with what the scan read of its recording."""
        return tuple(self.example_stats.examples)

    @property
    def fatal_issues(self) -> tuple[Issue, ...]:
        """The issues that would stop training."""
        return tuple(issue for issue in self.issues if issue.fatal)


@dataclass(frozen=True)
class _ModelLimits:
    """What the model takes: sample rate in Hz, length of its window, and the document's options."""

    sample_rate: int
    window_seconds: float
    audio_config: AudioConfig


def validate_examples(
    data: LoadedData,
    *,
    sample_rate: int,
    window_seconds: float,
    audio_config: AudioConfig,
    progress: ScanProgressFn | None = None,
    full_scan: bool = False,
    hash_method_fn: HashMethodFn | None = None,
) -> ValidationReport:
    """Validate every example for a model.

    Args:
        data: the examples, and the issues found while they were loaded.
        sample_rate: of the model, in Hz.
        window_seconds: what its encoder takes at once.
        audio_config: `auto_resample` and `long_clips`.
        progress: called after each segment.
        full_scan: decode every segment, even where there are very many.
        hash_method_fn: how to hash a segment's recording, where there are very many.
    """
    limits = _ModelLimits(sample_rate, window_seconds, audio_config)
    scan = scan_audio(
        data.examples, full_scan=full_scan, hash_method_fn=hash_method_fn, progress=progress
    )
    examples = attach_recordings(
        data.examples, lambda segment: scan.recordings[scan.segment_numbers[segment]]
    )
    scan = replace(scan, segment_numbers=number_segments(examples))
    issues = (
        *data.issues,
        *_check_resampler(examples, scan, limits),
        *_check_examples(examples, scan, limits),
        *find_duplicates(examples, scan),
        *find_near_duplicates(examples, scan),
        *find_repeated_transcripts(examples),
        *find_rate_outliers(examples, scan),
        *_summarize_long_segments(scan, limits),
        *_summarize_cut_segments(examples, scan),
    )
    return ValidationReport(
        **vars(compute_dataset_stats(examples, scan)),
        example_stats=ExampleStatsView(examples, scan),
        issues=issues,
        unusable_segments=frozenset(
            segment
            for segment in scan.segment_numbers
            if any(issue.fatal for issue in _check_segment("", segment, scan, limits))
        ),
    )


def _check_resampler(
    examples: Sequence[Example], scan: AudioScan, limits: _ModelLimits
) -> Iterator[Issue]:
    """Report once, at the first example to be resampled, that nothing resamples."""
    native_rates = {0, limits.sample_rate}
    if not limits.audio_config.auto_resample or native_rates.issuperset(scan.sample_rates):
        return
    try:
        choose_resampler()
    except DataError as error:
        location = next(
            example.location
            for example in examples
            for segment in example.audio_segments
            if scan.sample_rates[scan.segment_numbers[segment]] not in native_rates
        )
        yield Issue.from_error(error, location)


def _check_examples(
    examples: Sequence[Example], scan: AudioScan, limits: _ModelLimits
) -> Iterator[Issue]:
    """The issues of each example; a segment that several share is reported once."""
    is_checked = bytearray(len(scan.segment_numbers))
    is_translated = limits.audio_config.task == "translate"
    for example in examples:
        location = example.location
        for segment in example.audio_segments:
            number = scan.segment_numbers[segment]
            if not is_checked[number]:
                is_checked[number] = True
                yield from _check_segment(location, segment, scan, limits)
        if not example.target.strip():
            hint = "write what the model should answer"
            yield Issue(location, EMPTY_TRANSCRIPT, hint, fatal=True, code="data.empty_transcript")
        if example.language is not None and not LANGUAGE_CODE_RE.fullmatch(example.language):
            what = f"'{example.language}' is not a language code of ISO 639-1"
            yield Issue(location, what, LANGUAGE_CODE_HINT, fatal=True, code="data.bad_language")
        for warning in (
            *check_text_quality(example),
            *check_speaking_rate(example, scan.get_total_seconds(example)),
            *check_script(replace(example, language="en") if is_translated else example),
        ):
            yield Issue(location, warning.what, warning.hint, fatal=False, code=warning.code)


def _check_segment(
    location: str, segment: AudioSegment, scan: AudioScan, limits: _ModelLimits
) -> Iterator[Issue]:
    """The issues of a segment, at the location of the example that names it first."""

    def make_issue(warning: QualityWarning, *, fatal: bool) -> Issue:
        what, hint, code = warning
        error = AudioError(what, where=segment.name, hint=hint, code=code)
        return Issue.from_error(error, location, fatal=fatal)

    number = scan.segment_numbers[segment]
    if number in scan.errors:
        yield Issue.from_error(scan.errors[number], location)
        return
    sample_rate, seconds = scan.sample_rates[number], scan.get_seconds(number)
    if sample_rate != limits.sample_rate and not limits.audio_config.auto_resample:
        error = make_sample_rate_error(segment.name, sample_rate, limits.sample_rate)
        yield Issue.from_error(error, location)
    if seconds < MIN_EXAMPLE_AUDIO_SECONDS:
        what = f"it lasts {seconds:.3f} s; a clip needs at least {MIN_EXAMPLE_AUDIO_SECONDS:g} s"
        hint = "take a longer span or leave the clip out"
        yield make_issue(QualityWarning(what, hint, code="audio.too_short"), fatal=True)
        return
    if number in scan.stats:
        for warning in check_audio_quality(scan.stats[number]):
            yield make_issue(warning, fatal=False)
    if seconds > limits.window_seconds:
        policy = limits.audio_config.long_clips
        warning = describe_long_audio(seconds, limits.window_seconds, policy)
        yield make_issue(warning, fatal=policy == "error")


def _summarize_cut_segments(examples: Sequence[Example], scan: AudioScan) -> Iterator[Issue]:
    """How many segments end a little after their recordings, and by how much at most."""
    overruns: list[float] = []
    location = ""
    for example in examples:
        for segment in example.audio_segments:
            recording = segment.recording
            if segment.end is None or recording is None:
                continue
            overrun = segment.end - recording.num_samples / recording.sample_rate
            is_read = scan.num_samples[scan.segment_numbers[segment]] > 0
            if overrun > SEGMENT_END_TOLERANCE_SECONDS and is_read:
                location = location or example.location
                overruns.append(overrun)
    if overruns:
        what = "1 clip ends" if len(overruns) == 1 else f"{len(overruns):,} clips end"
        what = f"{what} up to {max(overruns):.2f} s after the recording, and are cut there"
        what = what.replace("are cut", "is cut") if len(overruns) == 1 else what
        hint = "nothing to do if a tool counted the padding of mp3 or aac"
        yield Issue(location, what, hint, fatal=False, code="audio.span_cut")


def _summarize_long_segments(scan: AudioScan, limits: _ModelLimits) -> Iterator[Issue]:
    """How many segments are longer than the model's window, and what becomes of them."""
    durations = [scan.get_seconds(number) for number in range(len(scan.num_samples))]
    policy = limits.audio_config.long_clips
    if warning := summarize_long_audio(durations, limits.window_seconds, policy):
        what, hint, code = warning
        yield Issue("training.audio.long_clips", what, hint, fatal=False, code=code)

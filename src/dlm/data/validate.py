"""Everything that can be known of the clips before any weights load; never raises on a clip.

    Gathered -> each sound looked at once, several at a time      heard, measure
             -> what is wrong with a clip                         here, remarks, scripts
             -> what is odd about clips beside each other         beside; leaks, once they are split
             -> what there is of each, and of all together        facts, sums

What would stop training is fatal: a sound that is missing, damaged, at a refused rate or too short,
and a clip with nothing to learn. Everything else is a remark.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from dlm.config.data_schema import AudioConfig
from dlm.data.audio_io import choose_resampler, make_sample_rate_error
from dlm.data.audio_scan import (
    AudioScan,
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
from dlm.errors import DataError


@dataclass(frozen=True, kw_only=True)
class ValidationReport(DatasetStats):
    """What is known of all clips together, of each of them, and what is wrong."""

    example_stats: ExampleStatsView
    issues: tuple[Issue, ...]
    unusable_segments: frozenset[AudioSegment] = (
        frozenset()
    )  # what would stop training wherever it is heard

    @property
    def examples(self) -> tuple[Example, ...]:
        """The examples, each audio segment with what the scan read of its recording."""
        return tuple(self.example_stats.examples)

    @property
    def fatal_issues(self) -> tuple[Issue, ...]:
        """What would stop training."""
        return tuple(problem for problem in self.issues if problem.fatal)


@dataclass(frozen=True)
class _ModelLimits:
    """What the base hears."""

    rate: int
    window_seconds: float
    audio_config: AudioConfig


def validate_examples(
    data: LoadedData,
    *,
    rate: int,
    window_seconds: float,
    audio_config: AudioConfig,
    progress: ScanProgressFn | None = None,
    full_scan: bool = False,
) -> ValidationReport:
    """Look at every clip, for a base that hears `rate` samples per second, a window at a time.

    Of a great many sounds only a sample is decoded, unless `full`.
    """
    limits = _ModelLimits(rate, window_seconds, audio_config)
    heard = scan_audio(data.examples, full_scan=full_scan, progress=progress)
    clips = attach_recordings(
        data.examples, lambda segment: heard.recordings[heard.segment_numbers[segment]]
    )
    heard = replace(heard, segment_numbers=number_segments(clips))
    problems = (
        *data.issues,
        *_check_resampler(clips, heard, limits),
        *_check_examples(clips, heard, limits),
        *find_duplicates(clips, heard),
        *find_near_duplicates(clips, heard),
        *find_repeated_transcripts(clips),
        *find_rate_outliers(clips, heard),
        *_summarize_long_segments(heard, limits),
    )
    return ValidationReport(
        **vars(compute_dataset_stats(clips, heard)),
        example_stats=ExampleStatsView(clips, heard),
        issues=problems,
        unusable_segments=frozenset(
            sound
            for sound in heard.segment_numbers
            if any(problem.fatal for problem in _check_segment("", sound, heard, limits))
        ),
    )


def _check_resampler(
    examples: Sequence[Example], scan: AudioScan, limits: _ModelLimits
) -> Iterator[Issue]:
    """Said once, at the first clip that would have to be converted."""
    if not limits.audio_config.auto_resample or not set(scan.sample_rates) - {0, limits.rate}:
        return
    first = next(
        clip.location
        for clip in examples
        for sound in clip.audio_segments
        if scan.sample_rates[scan.segment_numbers[sound]] not in (0, limits.rate)
    )
    try:
        choose_resampler()
    except DataError as error:
        yield Issue.from_error(error, first)


def _check_examples(
    examples: Sequence[Example], scan: AudioScan, limits: _ModelLimits
) -> Iterator[Issue]:
    """What is wrong with each clip; a sound that several clips share is spoken of once."""
    told = bytearray(len(scan.segment_numbers))
    for clip in examples:
        for sound in clip.audio_segments:
            number = scan.segment_numbers[sound]
            if not told[number]:
                told[number] = True
                yield from _check_segment(clip.location, sound, scan, limits)
        if not clip.target.strip():
            mend = "write what the model should say"
            yield Issue(clip.location, EMPTY_TRANSCRIPT, mend, fatal=True)
        if clip.language is not None and not LANGUAGE_CODE_RE.fullmatch(clip.language):
            what = f"'{clip.language}' is not a language code of ISO 639-1"
            yield Issue(clip.location, what, LANGUAGE_CODE_HINT, fatal=True)
        told_of = (
            *check_text_quality(clip),
            *check_speaking_rate(clip, scan.get_total_seconds(clip)),
        )
        for what, mend in (*told_of, *check_script(clip)):
            yield Issue(clip.location, what, mend, fatal=False)


def _check_segment(
    location: str, segment: AudioSegment, scan: AudioScan, limits: _ModelLimits
) -> Iterator[Issue]:
    number = scan.segment_numbers[segment]
    if number in scan.errors:
        yield Issue.from_error(scan.errors[number], location)
        return
    native, seconds = scan.sample_rates[number], scan.get_seconds(number)
    if native != limits.rate and not limits.audio_config.auto_resample:
        yield Issue.from_error(make_sample_rate_error(segment.name, native, limits.rate), location)
    if seconds < MIN_EXAMPLE_AUDIO_SECONDS:
        what = f"it lasts {seconds:.3f} s; a clip needs at least {MIN_EXAMPLE_AUDIO_SECONDS:g} s"
        mend = "take a longer span or leave the clip out"
        yield Issue.from_error(DataError(what, where=segment.name, hint=mend), location)
        return
    if number in scan.stats:
        for what, mend in check_audio_quality(scan.stats[number]):
            yield Issue.from_error(
                DataError(what, where=segment.name, hint=mend), location, fatal=False
            )
    if seconds > limits.window_seconds:
        policy = limits.audio_config.long_clips
        what, mend = describe_long_audio(seconds, limits.window_seconds, policy)
        error = DataError(what, where=segment.name, hint=mend)
        yield Issue.from_error(error, location, fatal=policy == "error")


def _summarize_long_segments(scan: AudioScan, limits: _ModelLimits) -> Iterator[Issue]:
    """How many sounds are longer than the base hears at once, and what becomes of them."""
    lasting = [scan.get_seconds(number) for number in range(len(scan.num_samples))]
    told = summarize_long_audio(lasting, limits.window_seconds, limits.audio_config.long_clips)
    if told is not None:
        yield Issue("training.audio.long_clips", *told, fatal=False)

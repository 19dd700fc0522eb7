"""Validating examples against a model of 16 kHz and a window of 30 seconds."""

from dlm.config.data_schema import AudioConfig
from dlm.data.load import LoadedData
from dlm.data.types import Example, Issue
from dlm.data.validate import ValidationReport, validate_examples
from tests.data.recordings import RATE


def validate(*examples: Example, **options: object) -> ValidationReport:
    """Validate examples; options of `training.audio` may be among `options`."""
    audio = {name: options.pop(name) for name in AudioConfig.model_fields if name in options}
    defaults = {"sample_rate": RATE, "window_seconds": 30.0, "audio_config": AudioConfig(**audio)}
    return validate_examples(LoadedData(examples, (), ()), **(defaults | options))


def list_issues(*examples: Example, fatal: bool = False, **options: object) -> list[Issue]:
    """The issues of examples, each of one line, all of them fatal or none."""
    issues = list(validate(*examples, **options).issues)
    assert all(issue.fatal is fatal and issue.code and issue.hint for issue in issues), issues
    assert not any("\n" in str(issue) for issue in issues)
    return issues


def list_codes(*examples: Example, fatal: bool = False, **options: object) -> list[tuple[str, str]]:
    """Location and code of each issue."""
    issues = list_issues(*examples, fatal=fatal, **options)
    return [(issue.where, issue.code) for issue in issues]

"""What HTML pages share: rendering of templates, embedded audio and images, the extra they need.

    page.html                          head, security policy, style, macros
    ├── data_report.html               `dlm check --page`
    └── insight.html                   `dlm insight`

A page is one file that loads nothing from a network and runs no script; all text is escaped.
"""

import io
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.util import find_spec

import soundfile

from dlm.data.audio_io import load_audio
from dlm.data.types import AudioSegment
from dlm.errors import MissingExtra

AUDIO_SUBTYPES = {"flac": "PCM_16", "ogg": "VORBIS"}  # by format


@dataclass(frozen=True)
class AudioPlayer:
    """A player on a page.

    Attributes:
        url: of the audio: data within the page, or a path relative to it.
        caption: which part is played; empty for all of it.
        is_embedded: whether the page holds the audio.
    """

    url: str
    caption: str = ""
    is_embedded: bool = False


def require_report_extra(packages: Iterable[str]) -> None:
    """Raise MissingExtra before any work is done where a page could not be written."""
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtra(package, "insight")


def render_page(template_name: str, **variables: object) -> str:
    """Render a template of this package; a variable that it lacks is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("dlm.reports", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = make_data_uri
    return environment.get_template(template_name).render(variables)


def make_data_uri(data: bytes, mime_type: str) -> str:
    """Make a URL that holds its data."""
    return f"data:{mime_type};base64,{b64encode(data).decode()}"


def make_embedded_player(
    segment: AudioSegment,
    total_seconds: float,
    *,
    max_seconds: float,
    sample_rate: int,
    audio_format: str,
) -> AudioPlayer:
    """Make a player that holds the beginning of an audio segment.

    Args:
        segment: what is played.
        total_seconds: its duration.
        max_seconds: of which so much is played.
        sample_rate: of what is played.
        audio_format: "flac" or "ogg".

    Raises:
        AudioError: it cannot be decoded (`audio.*`).
    """
    caption = ""
    if total_seconds > max_seconds:
        caption = f"the first {max_seconds:.0f} s of {total_seconds:.1f} s"
        segment = replace(segment, end=(segment.start or 0.0) + max_seconds)
    waveform = load_audio(segment, sample_rate=sample_rate, resample=True)
    file, subtype = io.BytesIO(), AUDIO_SUBTYPES[audio_format]
    soundfile.write(file, waveform, sample_rate, format=audio_format, subtype=subtype)
    data_uri = make_data_uri(file.getvalue(), f"audio/{audio_format}")
    return AudioPlayer(data_uri, caption, is_embedded=True)

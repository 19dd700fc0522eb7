"""Recordings and documents that tests are made of: noise in any format, examples, documents."""

from pathlib import Path

import numpy as np
import soundfile

from dlm.config.parser import Document, read_document
from dlm.data.types import AudioSegment, Example, Message

RATE = 16000
HEAD = "---\ndlm_id: 01J9Z3K4M5N6P7Q8R9S0T1V2W3\ndlm_version: 11\nbase_model: sparrow\n"


def make_noise(
    seconds: float = 1.0, *, rate: int = RATE, channels: int = 1, seed: int = 0
) -> np.ndarray:
    """Pink-ish noise at a speaking level: (samples, channels)."""
    wave = np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))
    return (0.05 * wave + 0.02 * np.roll(wave, 1, axis=0)).astype(np.float32)


def save_audio(
    path: Path, wave: np.ndarray | None = None, *, rate: int = RATE, **format_options: str
) -> Path:
    """Write a recording; its suffix says the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    formats = {".ogg": ("OGG", "VORBIS"), ".opus": ("OGG", "OPUS"), ".mp3": ("MP3", None)}
    container, subtype = formats.get(path.suffix.lower(), (path.suffix[1:].upper(), None))
    options = {"format": container, "subtype": subtype, **format_options}
    soundfile.write(path, make_noise() if wave is None else wave, rate, **options)
    return path


def save_with_transcript(
    path: Path, transcript: str | bytes, wave: np.ndarray | None = None
) -> Path:
    """Write a recording and the transcript beside it."""
    content = transcript if isinstance(transcript, bytes) else transcript.encode()
    save_audio(path, wave).with_suffix(".txt").write_bytes(content)
    return path


def create_document(folder: Path, body: str = "", *, head: str = "") -> Document:
    """Write and read `my.dlm` in `folder`; `head` are further lines of its frontmatter."""
    path = folder / "my.dlm"
    path.write_text(f"{HEAD}{head}---\n{body}", encoding="utf-8")
    return read_document(path)


def make_audio_example(path: Path, text: str = "hello there my friend", **span: float) -> Example:
    """A clip that transcribes `path`."""
    segment = AudioSegment(path, display_path=path.name, **span)
    return Example(
        (Message("user", (segment,)), Message("assistant", (text,))), path.name, "transcribe"
    )


# codec, sample rate, muxer, options of the muxer; by file name, else by suffix
CONTAINER_CODECS: dict[str, tuple[str, int, str, dict[str, str]]] = {
    "alac.m4a": ("alac", RATE, "ipod", {}),
    "phone.m4a": ("aac", 44_100, "ipod", {}),
    "live.webm": ("libopus", 48_000, "webm", {"live": "1"}),
    "fragmented.mp4": ("aac", RATE, "mp4", {"movflags": "+frag_keyframe+empty_moov"}),
    ".m4a": ("aac", RATE, "ipod", {}),
    ".mp4": ("aac", RATE, "mp4", {}),
    ".mov": ("aac", RATE, "mov", {}),
    ".aac": ("aac", RATE, "adts", {}),
    ".ts": ("aac", RATE, "mpegts", {}),
    ".flv": ("aac", 44_100, "flv", {}),
    ".webm": ("libopus", 48_000, "webm", {}),
    ".mkv": ("flac", RATE, "matroska", {}),
    ".wma": ("wmav2", RATE, "asf", {}),
    ".avi": ("mp2", RATE, "avi", {}),
    ".wv": ("wavpack", RATE, "wv", {}),
}


def save_container(path: Path, wave: np.ndarray | None = None, **options: str) -> Path:
    """Write mono audio at RATE in the container its name asks for, with PyAV's encoders.

    `phone.m4a` gets it on both channels.
    """
    import av

    layout = "stereo" if path.name == "phone.m4a" else "mono"

    codec, rate, muxer, defaults = CONTAINER_CODECS.get(path.name) or CONTAINER_CODECS[path.suffix]
    samples = np.ascontiguousarray((make_noise() if wave is None else wave).reshape(1, -1))
    source = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
    source.sample_rate, source.pts = RATE, 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w", format=muxer, options={**defaults, **options}) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 96_000
        if codec in ("alac", "wavpack"):
            stream.format = "s16p"
        resampler = av.AudioResampler(
            stream.codec_context.format.name,
            layout=layout,
            rate=rate,
            frame_size=stream.codec_context.frame_size or 1024,
        )
        for frame in [*resampler.resample(source), *resampler.resample(None), None]:
            container.mux(stream.encode(frame))
    return path

"""What a recording says of its length, where libsndfile reads less or more than is there.

    sizes in headers     wav, RF64, BW64, w64, aiff, caf, au, sph, wma: compared with the file
    pages                ogg: an incomplete last page is a cut file; each chained stream is a part
    frames               mp3 without a length, or with another mp3 behind it: counted

libsndfile reads what is left of a cut file without an error, one stream of a chained file, and
guesses the length of an mp3 from its first frame. `find_parts` says what it shall open instead.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from dlm.data.audio_file import (
    BinaryFile,
    FileSlice,
    make_damaged_audio_error,
    make_mixed_streams_error,
    make_truncated_audio_error,
)

MIN_STREAMED_WAV_BYTES = 0x7FFFF000  # a wav written to a pipe promises this much or more
UNKNOWN_SIZE_64 = 1 << 62  # so does an RF64, of 64 bits
READ_BYTES = 1 << 16  # at once; headers are shorter

MAX_OGG_STREAMS = 256  # one behind the other; each has a decoder

ByteOrder = Literal["little", "big"]

# How chunked files are written: first bytes, type, byte order of sizes, name of the audio chunk.
CHUNK_FORMATS: dict[bytes, tuple[tuple[bytes, ...], ByteOrder, bytes]] = {
    b"RIFF": ((b"WAVE",), "little", b"data"),
    b"RF64": ((b"WAVE",), "little", b"data"),
    b"BW64": ((b"WAVE",), "little", b"data"),
    b"FORM": ((b"AIFF", b"AIFC"), "big", b"SSND"),
}
OTHER_WAV_CHUNKS = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"fact", b"cue ", b"smpl", b"PAD ", b"junk")
SIZE_IN_DS64 = b"\xff\xff\xff\xff"
FLAC_STREAM_INFO = b"fLaC\0\0\0\x22"  # a flac begins with it
ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def find_parts(file: BinaryFile, name: str) -> list[BinaryFile]:
    """Return what libsndfile shall open, in order: the file, its chained streams, or a mended copy.

    Raises:
        AudioError: it holds less than its header promises (`audio.truncated`), or is damaged.
    """
    num_bytes = file.seek(0, 2)
    file.seek(0)
    head = file.read(12) or b""
    parts: list[BinaryFile] = [file]
    if head[:4] in CHUNK_FORMATS:
        parts = [_check_chunks(file, head, num_bytes, name)]
    elif head[:4] == b"OggS":
        parts = _find_ogg_streams(file, num_bytes, name)
    elif head[:3] == b"ID3" or (head[:1] == b"\xff" and len(head) > 1 and head[1] >= 0xE0):
        parts = [_count_mp3_frames(file, num_bytes, name)]
    else:
        _check_promised_bytes(file, head, num_bytes, name)
    file.seek(0)
    return parts


def _check_chunks(file: BinaryFile, head: bytes, num_bytes: int, name: str) -> BinaryFile:
    """Compare the sizes of chunks with the file; one whose writer left them open is mended."""
    magic = head[:4]
    types, byte_order, audio_chunk = CHUNK_FORMATS[magic]
    if head[8:12] not in types:
        return file
    size_in_ds64 = 0
    while len(chunk := file.read(8) or b"") == 8:
        promised, left = int.from_bytes(chunk[4:], byte_order), num_bytes - file.tell()
        if chunk[:4] == audio_chunk:
            break
        if promised > left:
            return file
        if chunk[:4] == b"ds64" and promised >= 16:
            size_in_ds64 = int.from_bytes((file.read(16) or b"")[8:], "little")
            promised -= 16
        file.seek(promised + promised % 2, 1)
    else:
        return file
    is_open = promised >= MIN_STREAMED_WAV_BYTES
    if magic != b"RIFF" and chunk[4:] == SIZE_IN_DS64:
        promised = size_in_ds64
        is_open = not 0 < promised < UNKNOWN_SIZE_64
    if left < promised and not is_open:
        raise make_truncated_audio_error(name, f"{promised} bytes of audio", f"{left}")
    is_unwritten = audio_chunk == b"data" and promised == 0 and left > 0
    if is_unwritten and (file.read(4) or b"") in OTHER_WAV_CHUNKS:
        return file
    is_mended = is_unwritten or magic == b"BW64" or (magic == b"RF64" and is_open)
    if not is_mended or left >> 32:
        return file
    size = left if is_open or is_unwritten else promised
    file.seek(12)
    chunks = file.read(min(num_bytes - left - 20, READ_BYTES)) or b""
    body = b"WAVE" + chunks + b"data" + size.to_bytes(4, "little")
    prefix = b"RIFF" + (len(body) + size).to_bytes(4, "little") + body
    return _make_slice(file, num_bytes - left, size, prefix)


def _make_slice(file: BinaryFile, offset: int, size: int, prefix: bytes = b"") -> FileSlice:
    """Some bytes of the recording, after others that stand for its header."""
    if isinstance(file, FileSlice):
        return file.make_slice(offset, size, prefix)
    return FileSlice(file, offset, size, prefix)


def _check_promised_bytes(file: BinaryFile, head: bytes, num_bytes: int, name: str) -> None:
    """Compare the size a header promises with the file, in formats of one header."""
    file.seek(0)
    promised = left = 0
    if head[:4] in (b".snd", b"dns."):
        byte_order: ByteOrder = "big" if head[:4] == b".snd" else "little"
        promised = int.from_bytes(head[8:12], byte_order)
        left = num_bytes - int.from_bytes(head[4:8], byte_order)
        promised = 0 if promised == 0xFFFFFFFF else promised
    elif head[:4] == b"riff":
        promised, left = _find_wide_chunk(file, num_bytes, 40, "little", 16)
    elif head[:4] == b"caff":
        promised, left = _find_wide_chunk(file, num_bytes, 8, "big", 4)
    elif head[:8] == b"NIST_1A\n":
        promised, left = _read_sphere_header(file, num_bytes)
    elif head[:4] == b"0&\xb2u":
        header = file.read(READ_BYTES) or b""
        start = header.find(ASF_FILE_PROPERTIES)
        flags = int.from_bytes(header[start + 88 : start + 92], "little")
        if start >= 0 and not flags & 1:  # 1: a broadcast, whose size is not known
            promised = int.from_bytes(header[start + 40 : start + 48], "little")
            left = num_bytes
    if left < promised:
        raise make_truncated_audio_error(name, f"{promised} bytes", f"{max(left, 0)}")


def _find_wide_chunk(
    file: BinaryFile, num_bytes: int, position: int, byte_order: ByteOrder, name_size: int
) -> tuple[int, int]:
    """The bytes that the audio chunk of a w64 or caf promises, and those that are left for it."""
    is_w64 = name_size == 16
    while True:
        file.seek(position)
        chunk = file.read(name_size + 8) or b""
        if len(chunk) < name_size + 8:
            return 0, 0
        promised = int.from_bytes(chunk[name_size:], byte_order) - (len(chunk) if is_w64 else 0)
        start = position + len(chunk)
        if chunk[:4] == b"data":
            return (promised if 0 < promised < UNKNOWN_SIZE_64 else 0), num_bytes - start
        if promised < 0 or start + promised > num_bytes:
            return 0, 0
        position = start + promised + (-promised % 8 if is_w64 else 0)


def _read_sphere_header(file: BinaryFile, num_bytes: int) -> tuple[int, int]:
    """The bytes of audio that a NIST Sphere header promises, and those that are left for them."""
    header = file.read(READ_BYTES) or b""
    fields = dict(re.findall(rb"^(\w+) -\w+ (\S+)", header.partition(b"end_head")[0], re.MULTILINE))
    header_size = header[8:16].strip()
    numbers = [fields.get(b"sample_" + key, b"") for key in (b"count", b"n_bytes")]
    numbers += [fields.get(b"channel_count", b"1"), header_size]
    is_packed = b"," in fields.get(b"sample_coding", b"")  # pcm,embedded-shorten
    if is_packed or not all(number.isdigit() for number in numbers):
        return 0, 0
    count, sample_bytes, num_channels, start = map(int, numbers)
    return count * sample_bytes * num_channels, num_bytes - start


def _find_ogg_streams(file: BinaryFile, num_bytes: int, name: str) -> list[BinaryFile]:
    """The streams of an ogg that follow each other: each begins with pages marked as beginnings."""
    starts, position, was_beginning, was_end = [0], 0, True, False
    while position < num_bytes:
        file.seek(position)
        header = file.read(27) or b""
        if not header.startswith(b"OggS"):
            if not was_end and b"OggS".startswith(header[:4]):
                raise make_truncated_audio_error(name, "another page", f"{num_bytes} bytes")
            position = _find_next_stream(file, position)
            if position < 0 and not was_end:
                raise make_damaged_audio_error(name)
            if position < 0:
                break
            continue
        lacing = (file.read(header[26]) if len(header) == 27 else b"") or b""
        size = 27 + len(lacing) + sum(lacing)
        if len(header) < 27 or len(lacing) < header[26] or position + size > num_bytes:
            page = f"a page of {size} bytes" if len(header) == 27 else "another page"
            raise make_truncated_audio_error(name, page, f"{num_bytes - position}")
        is_beginning, was_end = bool(header[5] & 2), bool(header[5] & 4)
        if is_beginning and not was_beginning:
            starts.append(position)
        if len(starts) > MAX_OGG_STREAMS:
            raise make_mixed_streams_error(name, f"over {MAX_OGG_STREAMS} streams are in it")
        was_beginning = is_beginning
        position += size
    if len(starts) == 1:
        return [file]
    ends = [*starts[1:], num_bytes]
    return [_make_slice(file, start, end - start) for start, end in zip(starts, ends, strict=True)]


def _find_next_stream(file: BinaryFile, position: int) -> int:
    """The next page that begins a stream, behind bytes that are no page; -1 where there is none."""
    file.seek(position)
    tail = b""
    while block := file.read(READ_BYTES):
        found = (tail + block).find(b"OggS\0\2")
        if found >= 0:
            return position - len(tail) + found
        position += len(block)
        tail = block[-5:]
    return -1


# kbit/s of layer III by the index in a frame's header: MPEG 1, MPEG 2 and 2.5
MP3_BITRATES = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
MP3_RATES = (44_100, 48_000, 32_000)
MP3_MPEG_1 = 3
MAX_JUNK_BYTES = 1 << 18  # between the frames of an mp3, tags not counted
MAX_MISSING_MP3_FRAMES = 2  # headers are that vague
MAX_XING_ERROR_BYTES = 4096  # a tag behind an mp3, or two frames


@dataclass(frozen=True)
class _Mp3Frame:
    """The header of a frame of layer III: its bytes, sample rate in Hz, and the frame's size."""

    header: bytes
    sample_rate: int
    num_bytes: int

    @property
    def is_mpeg_1(self) -> bool:
        return self.header[1] >> 3 & 3 == MP3_MPEG_1

    @property
    def side_info_bytes(self) -> int:
        is_mono = self.header[3] >> 6 == 3
        return (17 if is_mono else 32) if self.is_mpeg_1 else (9 if is_mono else 17)


def _parse_mp3_frame(header: bytes) -> _Mp3Frame | None:
    """Read four bytes as the header of a frame of layer III; None for anything else."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return None
    version, bitrate, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or rate == 3 or not 0 < bitrate < 15:
        return None
    is_mpeg_1 = version == MP3_MPEG_1
    sample_rate = MP3_RATES[rate] >> (0 if is_mpeg_1 else 1 if version == 2 else 2)
    scale = 144_000 if is_mpeg_1 else 72_000
    size = scale * MP3_BITRATES[not is_mpeg_1][bitrate] // sample_rate + (header[2] >> 1 & 1)
    return _Mp3Frame(header, sample_rate, size)


class _Mp3Walker:
    """The frames of an mp3, read in blocks."""

    def __init__(self, file: BinaryFile, num_bytes: int, name: str) -> None:
        self._file, self.num_bytes, self._name = file, num_bytes, name
        self._block, self._block_start = b"", 0

    def read(self, position: int, num_bytes: int) -> bytes:
        """Read up to `num_bytes` from `position` on."""
        offset = position - self._block_start
        if not 0 <= offset <= len(self._block) - num_bytes:
            self._file.seek(position)
            self._block = self._file.read(max(READ_BYTES, num_bytes)) or b""
            self._block_start, offset = position, 0
        return self._block[offset : offset + num_bytes]

    def iter_frames(self) -> Iterator[tuple[int, _Mp3Frame]]:
        """Position and header of each whole frame; tags and what is no frame are passed over."""
        position, is_in_step, max_position, num_junk = 0, False, READ_BYTES, 0
        while position < min(self.num_bytes - 4, max_position):
            header = self.read(position, 10)
            frame = _parse_mp3_frame(header[:4])
            if frame and (is_in_step or self._is_followed(position, frame)):
                is_in_step, max_position = True, self.num_bytes
                if position + frame.num_bytes > self.num_bytes:
                    return
                yield position, frame
                position += frame.num_bytes
                continue
            is_in_step = False
            if header.startswith(b"ID3") and len(header) == 10:
                size = sum((byte & 127) << 7 * (3 - i) for i, byte in enumerate(header[6:10]))
                position += 10 + size + (10 if header[5] & 16 else 0)
                max_position = max(max_position, position + READ_BYTES)
                continue
            if header.startswith(b"APETAGEX"):
                position += 32 + int.from_bytes(self.read(position + 12, 4), "little")
                continue
            next_sync = self._find_sync(position + 1)
            num_junk += next_sync - position
            if num_junk > MAX_JUNK_BYTES:
                raise make_damaged_audio_error(self._name)
            position = next_sync

    def _find_sync(self, position: int) -> int:
        """Where the next frame may begin, or the end of what is held."""
        self.read(position, 1)
        found = self._block.find(b"\xff", position - self._block_start)
        end = self._block_start + len(self._block)
        return self._block_start + found if found >= 0 else max(end, position + 1)

    def _is_followed(self, position: int, frame: _Mp3Frame) -> bool:
        """Whether another frame, a tag or the end follows: three bytes alone may be chance."""
        following = position + frame.num_bytes
        if following >= self.num_bytes - 4:
            return following <= self.num_bytes
        head = self.read(following, 4)
        if head[:3] in (b"TAG", b"ID3", b"APE"):
            return True
        next_frame = _parse_mp3_frame(head)
        return next_frame is not None and next_frame.sample_rate == frame.sample_rate


def _count_mp3_frames(file: BinaryFile, num_bytes: int, name: str) -> BinaryFile:
    """An mp3 whose first frame gives its length: where it does not, frames are counted.

    Without one, libsndfile takes the bitrate of the first frame for that of all.
    """
    walker = _Mp3Walker(file, num_bytes, name)
    frames = walker.iter_frames()
    first_position, first = next(frames, (0, None))
    if first is None:
        return file
    xing_position = first_position + 4 + first.side_info_bytes
    xing = walker.read(xing_position, 16)
    has_xing = xing[:4] in (b"Xing", b"Info")
    if has_xing and xing[7] & 3 == 3:
        xing_end = first_position + int.from_bytes(xing[12:16], "big")
        if abs(num_bytes - xing_end) <= MAX_XING_ERROR_BYTES:
            return file
    num_frames = 0 if has_xing else 1
    for _, frame in frames:
        if frame.sample_rate != first.sample_rate:
            what = f"an mp3 at {frame.sample_rate} Hz follows one at {first.sample_rate} Hz in it"
            raise make_mixed_streams_error(name, what)
        num_frames += 1
    num_promised = int.from_bytes(xing[8:12], "big") if has_xing and xing[7] & 1 else 0
    if num_frames + MAX_MISSING_MP3_FRAMES < num_promised:
        raise make_truncated_audio_error(name, f"{num_promised} frames", f"{num_frames}")
    if num_frames <= num_promised + MAX_MISSING_MP3_FRAMES:
        return file
    start = first_position + first.num_bytes if has_xing else first_position
    size = num_bytes - start
    return _make_slice(file, start, size, _make_xing_frame(first, num_frames, size))


def _make_xing_frame(first: _Mp3Frame, num_frames: int, num_bytes: int) -> bytes:
    """A frame without sound that gives the number of frames and bytes behind it."""
    header = bytearray(first.header[:4])
    header[1] |= 1  # no checksum
    header[2] = header[2] & 0x0C | (9 if first.is_mpeg_1 else 12) << 4  # 128 kbit/s
    frame = _parse_mp3_frame(bytes(header)) or first
    content = bytes(header) + bytes(frame.side_info_bytes) + b"Xing\0\0\0\3"
    content += num_frames.to_bytes(4, "big") + (num_bytes + frame.num_bytes).to_bytes(4, "big")
    return content.ljust(frame.num_bytes, b"\0")


def has_another_flac(file: BinaryFile) -> bool:
    """Return whether another flac follows where libsndfile stopped reading a whole one."""
    file.seek(max(file.tell() - 2 * READ_BYTES, len(FLAC_STREAM_INFO)))
    tail = b""
    while block := file.read(READ_BYTES):
        tail = tail[-len(FLAC_STREAM_INFO) :] + block
        if FLAC_STREAM_INFO in tail:
            return True
    return False

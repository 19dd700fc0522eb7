"""Random mutations of text, bytes and JSON: what mistakes, broken tools or attackers may write."""

import json
from random import Random
from typing import Any

PIECES = [
    *("\n", "\r\n", "\r", "\t", " ", "\0", "\ufeff", "\u2028", "\u202e", "é", "\x85", "\x1b[31m"),
    *("---\n", "---", "...\n", "%YAML 1.2\n", "? ", "- ", ": ", "&a ", "*a", "!!python/object:x "),
    *("{", "}", "[", "]", '"', "'", "\\", "\\u0000", "\\ud800", "|\n", ">-\n", "#", ",", ";"),
    *("::", "::audio ", "::Audio::", 'path="a.wav" ', 'transcript="x"::', "::instruction::\n"),
    *(
        "### Q\n",
        "### A\n",
        "### User\n",
        "### Assistant\n",
        "::conversation::\n",
        "```\n",
        "~~~\n",
    ),
    *("<!--", "-->", "<audio>", "</audio>", "<audio>a.wav</audio>", "`", "<v Ann>", "{\\an8}"),
    *("null", "true", "NaN", "Infinity", "-1", "0", "1e400", "9" * 400, "0x10", "1_000", "٣"),
    *("../" * 6 + "etc/passwd", "/etc/passwd", "/dev/zero", "~root/x", "pipe", "loop", "cat x |"),
    *(
        "http://x/a.wav",
        "file:///etc/passwd",
        "a" * 300,
        "a" * 5000,
        "[" * 2000,
        "{" * 300,
        "(" * 99,
    ),
    *("00:00:01,000 --> 00:00:00,500\n", "99:99:99.999 --> \n", "WEBVTT\n\n", "NOTE x\n"),
]
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 1e308, -0.0, float("nan"), float("inf"), 10**400, 10**30),
    *("", " ", "\0", "\ud800", "a\nb", "é", "\u202e", "x" * 300, "x" * 70_000, "1", "nan", "1e400"),
    *(
        "a.wav",
        "../a.wav",
        "../../../../etc/passwd",
        "/etc/passwd",
        "/dev/zero",
        "pipe",
        "loop",
        ".",
    ),
    *(
        "http://x/a.wav",
        "data:audio/wav;base64,AAAA",
        "cat a.wav |",
        "~root",
        "a.wav\0",
        "C:\\a.wav",
    ),
    *([], {}, [[]], [None], [1, "a"], {"a": 1}, ["a.wav", "a.wav"], {"url": "a.wav"}, [{}] * 3),
    *({"type": "text", "text": "<audio>"}, [{"role": "user"}], [{"from": "user", "value": 3}]),
    *("<audio>", "<audio>a.wav</audio>", "<audio></audio>", "transcribe", "fr", "french", "test"),
]


def mutate_text(text: str, random: Random, pieces: list[str] = PIECES) -> str:
    """Return the text with characters, pieces or lines inserted, removed, repeated or shuffled."""
    for _ in range(random.randint(1, 4)):
        start, end = sorted((random.randint(0, len(text)), random.randint(0, len(text))))
        end = min(end, start + random.choice((0, 1, 3, 30, 300)))
        match random.randrange(6):
            case 0:
                text = text[:start] + text[end:]
            case 1:
                text = text[:end] + text[start:end] + text[end:]
            case 2:
                text = text[:start]
            case 3:
                lines = text.split("\n")
                random.shuffle(lines)
                text = "\n".join(lines)
            case _:
                text = text[:start] + random.choice(pieces) + text[random.choice((start, end)) :]
    return text


def mutate_bytes(data: bytes, random: Random) -> bytes:
    """Return the bytes with a few of them changed, removed or repeated."""
    for _ in range(random.randint(1, 4)):
        offset = random.randint(0, len(data))
        match random.randrange(4):
            case 0:
                data = data[:offset]
            case 1:
                data = data[:offset] + data[offset + random.randint(1, 64) :]
            case 2:
                data = data[:offset] + data[max(0, offset - 64) :]
            case _:
                data = data[:offset] + random.randbytes(random.choice((1, 4))) + data[offset + 1 :]
    return data


def mutate_value(value: Any, random: Random) -> Any:
    """Return a value of JSON with items changed, repeated or removed."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = random.choice(list(value))
        match random.randrange(8):
            case 0:
                return {name: item for name, item in value.items() if name != key}
            case 1:
                return {**value, random.choice((key.upper(), "", "text", "audio")): value[key]}
            case _:
                return {**value, key: mutate_value(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.8:
        index = random.randrange(len(value))
        if random.random() < 0.2:
            return value[:index] + value[index + 1 :]
        if random.random() < 0.2:
            return [*value, value[index]]
        return [*value[:index], mutate_value(value[index], random), *value[index + 1 :]]
    if isinstance(value, str) and random.random() < 0.3:
        return mutate_text(value, random)
    return random.choice(VALUES)


def mutate_json_lines(text: str, random: Random) -> str:
    """Return lines of JSON with some of their values mutated."""
    lines = text.split("\n")
    for _ in range(random.randint(1, 3)):
        index = random.randrange(len(lines))
        try:
            value = json.loads(lines[index])
        except (ValueError, RecursionError):
            lines[index] = mutate_text(lines[index], random)
            continue
        try:
            lines[index] = json.dumps(mutate_value(value, random))
        except ValueError:  # a whole number too long to be written
            lines[index] = mutate_text(lines[index], random)
    return "\n".join(lines)

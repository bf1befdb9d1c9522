"""Mutations of an input: bytes, numbers in text, whole lines, and, where a part is JSON, its values."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

_NUMBERS = (b"-1", b"0", b"1", b"255", b"65536", b"2147483648", b"-2147483649", b"4611686018427387904",
            b"18446744073709551616", b"1e999", b"1e-400", b"NaN", b"-Infinity", b"9" * 400)  # fmt: skip
_BYTES = (b"\0", b"\xff", b"\r\n", b"\n", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x80", b"\xf0\x9f\x98\x80",
          b"\xed\xa0\x80", b"[" * 2000, b"{\"a\":" * 500, b"%00", b"../", b"\x7f\xff\xff\xff")  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**30, 10**400, 0.5, 1e308, float("nan"), float("inf"),
    "", "a", "1", "NaN", "\0", "\ud800", "x" * 300, "../../etc/passwd", [], [[]], {}, [None], [0] * 300, {"a": 1},
)  # fmt: skip
_MAX_NESTING = 3000


def mutate(data: bytes, rng: random.Random, words: Sequence[bytes] = (), others: Sequence[bytes] = ()) -> bytes:
    """One to four changes.

    Args:
        words: byte strings that mean something to the parser.
        others: inputs to take pieces from.
    """
    for _ in range(1 + min(3, int(rng.expovariate(1.0)))):
        data = _one(data, rng, words, others)
    return data


def _one(data: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    kind = rng.random()
    if kind < 0.4:
        changed = _json_part(data, rng)
        if changed is not None:
            return changed
    if kind < 0.5 and others:
        return _spliced(data, rng.choice(others), rng)
    if kind < 0.6:
        return _lines(data, rng)
    if kind < 0.7:
        return _number(data, rng)
    return _bytes(data, rng, words)


def _bytes(data: bytes, rng: random.Random, words: Sequence[bytes]) -> bytes:
    at, end = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
    kind = rng.randrange(6)
    if kind == 0 and data:
        changed = bytearray(data)
        changed[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if kind == 1:
        return data[:at] + data[min(end, at + rng.randint(1, 64)) :]
    if kind == 2:
        return data[:at]
    if kind == 3:
        return data[:end] + data[at:end] + data[end:]
    new = rng.choice([*_BYTES, *_NUMBERS, *words, *words, rng.randbytes(rng.randint(1, 8))])
    return data[:at] + new + data[at + (len(new) if kind == 4 else 0) :]


def _spliced(data: bytes, other: bytes, rng: random.Random) -> bytes:
    return data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]


def _lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    kind = rng.randrange(3)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(rng.randint(0, len(lines)), lines[at])
    else:
        other = rng.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    return b"\n".join(lines)


def _number(data: bytes, rng: random.Random) -> bytes:
    """Another number in the place of a run of digits."""
    places = [i for i in range(len(data)) if 48 <= data[i] <= 57 and (i == 0 or not 48 <= data[i - 1] <= 57)]
    if not places:
        return data
    at = end = rng.choice(places)
    while end < len(data) and 48 <= data[end] <= 57:
        end += 1
    return data[:at] + rng.choice(_NUMBERS) + data[end:]


def _json_part(data: bytes, rng: random.Random) -> bytes | None:
    """The last part of the input that is JSON, with one value changed; None where there is none."""
    start = data.find(b"{")
    if start < 0:
        return None
    try:
        document, end = json.JSONDecoder().raw_decode(data[start:].decode("latin-1"))
    except (ValueError, RecursionError):
        return None
    changed = _changed(document, rng)
    try:
        text = json.dumps(changed)
    except (ValueError, RecursionError):
        return None
    if rng.random() < 0.03:
        text = text[:-1] + ', "deep": ' + "[" * _MAX_NESTING + "]" * _MAX_NESTING + "}"
    return data[:start] + text.encode("latin-1", "replace") + data[start + end :]


def _changed(document: Any, rng: random.Random) -> Any:
    """A copy in which one value, anywhere, is another."""
    if isinstance(document, dict) and document and rng.random() < 0.85:
        name = rng.choice(list(document))
        kind = rng.random()
        if kind < 0.08:
            return {key: value for key, value in document.items() if key != name}
        if kind < 0.12:
            return document | {rng.choice(["", "x", name + "x", "__class__"]): rng.choice(_VALUES)}
        return document | {name: _changed(document[name], rng)}
    if isinstance(document, list) and document and rng.random() < 0.75:
        at = rng.randrange(len(document))
        kind = rng.random()
        if kind < 0.1:
            return document[:at] + document[at + 1 :]
        if kind < 0.2:
            return [*document, document[at]]
        return [*document[:at], _changed(document[at], rng), *document[at + 1 :]]
    return [document] if rng.random() < 0.1 else rng.choice(_VALUES)

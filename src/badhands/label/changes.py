"""What the page may send: one change of one label, checked field by field before anything is written."""

import json
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from badhands.study.classes import GLOBAL, NOT_HAND
from badhands.study.labels import VERDICTS, LabelRecord, decode_runs
from badhands.study.manifest import ImageEntry

MAX_BODY = 1 << 20
"""Bytes. The longest honest change, a checkerboard of 128 x 128 tokens with kinds, takes a fifth of it."""
MAX_NOTE = 2000
MAX_OWN = 1000
JUDGE = "judge"
"""The annotator name of the machine; nobody may label under it."""

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_CHANGE = re.compile(r"[A-Za-z0-9-]{8,64}")
_FIELDS = frozenset(
    [
        "study",
        "annotator",
        "image_id",
        "repeat",
        "base",
        "own",
        "change",
        "classes",
        "kinds",
        "verdict",
        "note",
        "accepted_proposal",
        "seconds",
    ]
)


class WrongSizeError(ValueError):
    """The mask does not fit the token grid of its image."""


@dataclass(frozen=True)
class Change:
    """One label as the page sends it, and what it was made from."""

    record: LabelRecord
    study: str
    """Which study the page believes to be labelling (`Desk.study_id`)."""
    base: int
    """The revision that the page saw."""
    own: tuple[str, ...]
    """Changes sent since then without an answer."""


def annotator_name(value: object) -> str:
    """A person's name, which becomes part of exported file names.

    Raises:
        ValueError: it cannot be one.
    """
    if not isinstance(value, str) or _NAME.fullmatch(value) is None or value == JUDGE:
        raise ValueError("annotator must be 1 to 64 of A-Z a-z 0-9 . _ -, without a leading dot, and not 'judge'")
    return value


def read_json(body: bytes) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        ValueError: it is none; NaN and infinities are no JSON.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON number")

    try:
        value = json.loads(body.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("the body must be a JSON object")
    return value


def read_change(fields: dict[str, Any], entry: ImageEntry, time: str) -> Change:
    """Check every field of a change of this image.

    Args:
        time: when the server received it, ISO 8601 UTC.

    Raises:
        WrongSizeError: the runs do not fill the image's token grid.
        ValueError: any other field is missing, unknown or wrong.
    """
    if set(fields) != _FIELDS:
        wrong = ", ".join(sorted(set(fields) ^ _FIELDS))
        raise ValueError(f"fields missing or unknown: {wrong[:200]}")
    if fields["image_id"] != entry.id:
        raise ValueError("image_id is not that of the address")
    repeat = _integer(fields, "repeat", 0, 1)
    base = _integer(fields, "base", 0, 1 << 31)
    own, change = fields["own"], fields["change"]
    if not isinstance(own, list) or len(own) > MAX_OWN or not all(_is_change(name) for name in own):
        raise ValueError(f"own must be a list of at most {MAX_OWN} change names")
    if not _is_change(change):
        raise ValueError("change must be a name of 8 to 64 letters, digits and dashes")
    if not isinstance(fields["study"], str):
        raise ValueError("study must be a text")
    verdict, note, seconds = fields["verdict"], fields["note"], fields["seconds"]
    if verdict is not None and not (isinstance(verdict, str) and verdict in VERDICTS):
        raise ValueError(f"verdict must be null or one of {', '.join(VERDICTS)}")
    if not isinstance(note, str) or len(note) > MAX_NOTE or not _is_text(note):
        raise ValueError(f"note must be a text of at most {MAX_NOTE} characters")
    if type(seconds) not in (int, float) or not 0 <= seconds <= 1e7 or not math.isfinite(seconds):
        raise ValueError("seconds must be a number from 0 to ten million")
    if type(fields["accepted_proposal"]) is not bool:
        raise ValueError("accepted_proposal must be true or false")
    classes = _mask(fields["classes"], entry.grid, NOT_HAND)
    record = LabelRecord(
        image_id=entry.id,
        annotator=annotator_name(fields["annotator"]),
        time=time,
        seconds=float(seconds),
        classes=classes,
        kinds=None if fields["kinds"] is None else _mask(fields["kinds"], entry.grid, GLOBAL),
        verdict=verdict,  # pyright: ignore[reportArgumentType]
        note=note,
        accepted_proposal=fields["accepted_proposal"],
        repeat=repeat,
        change=change,
    )
    return Change(record, fields["study"], base, tuple(own))


def _mask(runs: object, grid: tuple[int, int], highest: int) -> np.ndarray:
    if not isinstance(runs, list) or not all(isinstance(run, list) and len(run) == 2 for run in runs):
        raise ValueError("a mask must be a list of [value, length] runs")
    if not all(type(value) is int and type(length) is int for value, length in runs):
        raise ValueError("a run must be two integers")
    if any(not 0 <= value <= highest or length < 1 for value, length in runs):
        raise ValueError(f"a run must be [0..{highest}, length >= 1]")
    total = sum(length for _, length in runs)
    if total != grid[0] * grid[1]:
        raise WrongSizeError(f"the mask has {total} tokens; this image has {grid[0]} x {grid[1]}")
    return decode_runs(runs, grid, highest)


def _integer(fields: dict[str, Any], name: str, low: int, high: int) -> int:
    value = fields[name]
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} must be an integer from {low} to {high}")
    return value


def _is_change(value: object) -> bool:
    return isinstance(value, str) and _CHANGE.fullmatch(value) is not None


def _is_text(value: str) -> bool:
    """Lone surrogates are legal in JSON but are no text: they cannot be written as UTF-8."""
    return not any(0xD800 <= ord(character) <= 0xDFFF for character in value)

"""Token labels: good hand, bad hand, no hand; who said so and when."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from badhands.study.classes import BAD, GLOBAL, GOOD, NOT_HAND

Verdict = Literal["good", "bad", "no_hand", "skip"]
VERDICTS: tuple[str, ...] = get_args(Verdict)


def encode_runs(values: NDArray[np.uint8]) -> list[list[int]]:
    """Run lengths `[[value, run], ...]` of a grid, row-major."""
    flat = np.asarray(values).ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=flat[:1] + np.uint8(1)))
    lengths = np.diff(starts, append=flat.size)
    return [[int(flat[start]), int(length)] for start, length in zip(starts, lengths, strict=True)]


def decode_runs(runs: Sequence[Sequence[int]], grid: tuple[int, int], highest: int = NOT_HAND) -> NDArray[np.uint8]:
    """Inverse of `encode_runs`: uint8[h, w].

    Raises:
        ValueError: a run is malformed, a value is above `highest`, or the runs do not fill the grid exactly.
    """
    height, width = grid
    total = 0
    for run in runs:
        if len(run) != 2 or not all(type(x) is int for x in run) or not 0 <= run[0] <= highest or run[1] < 1:
            raise ValueError(f"{run!r} is not a run: write [value 0..{highest}, length >= 1]")
        total += run[1]
    if height < 1 or width < 1 or total != height * width:
        raise ValueError(f"the runs cover {total} tokens, but the grid is {height} x {width} = {height * width}")
    if not runs:
        return np.zeros(grid, np.uint8)
    values, lengths = zip(*runs, strict=True)
    return np.repeat(np.array(values, np.uint8), lengths).reshape(height, width)


@dataclass(frozen=True, eq=False)
class LabelRecord:
    """What one annotator (or judge) said of one image. Compare records by `to_json()`."""

    image_id: str
    annotator: str
    time: str
    """ISO 8601, UTC; empty for a judge, whose label is a function of the pixels."""
    seconds: float
    """Time spent on the image."""
    classes: NDArray[np.uint8]
    """[h, w], values UNLABELLED, GOOD, BAD, NOT_HAND."""
    kinds: NDArray[np.uint8] | None = None
    """[h, w], values UNKNOWN_KIND, LOCAL, GLOBAL; only bad tokens may carry one."""
    verdict: Verdict | None = None
    note: str = ""
    accepted_proposal: bool = False
    """The mask began as a machine's proposal and was accepted."""
    confidence: float | None = None
    """The judge's, 0..1."""
    repeat: int = 0
    """1: the same annotator's second, independent labelling, made for self-agreement. It never counts as the label."""
    change: str = ""
    """The labelling page's name for this change, so that a change sent twice is stored once."""

    def __post_init__(self) -> None:
        where = f"label of {self.image_id!r} by {self.annotator!r}"
        if not self.image_id or not self.annotator:
            raise ValueError(f"{where}: image id and annotator must be named")
        if self.classes.ndim != 2 or self.classes.dtype != np.uint8 or self.classes.size == 0:
            raise ValueError(f"{where}: classes must be uint8[h, w], not {self.classes.dtype}{self.classes.shape}")
        if self.classes.max() > NOT_HAND:
            raise ValueError(f"{where}: token class {self.classes.max()} is none of 0..{NOT_HAND}")
        if self.kinds is not None:
            if self.kinds.shape != self.classes.shape or self.kinds.dtype != np.uint8:
                raise ValueError(f"{where}: kinds must be uint8 on the same grid as classes")
            if self.kinds.max() > GLOBAL or np.any(self.kinds[self.classes != BAD]):
                raise ValueError(f"{where}: a kind of error is 0..{GLOBAL} and stands on bad tokens only")
        if self.repeat < 0:
            raise ValueError(f"{where}: repeat must be 0 (the label) or the number of the repetition")
        if self.verdict is not None and self.verdict not in VERDICTS:
            raise ValueError(f"{where}: verdict {self.verdict!r} is none of {', '.join(VERDICTS)}")

    @property
    def grid(self) -> tuple[int, int]:
        return (self.classes.shape[0], self.classes.shape[1])

    @property
    def hand_verdict(self) -> Verdict | None:
        """The painted tokens decide: bad if any token is bad, good if any is good; without hand tokens, `verdict`."""
        if np.any(self.classes == BAD):
            return "bad"
        if np.any(self.classes == GOOD):
            return "good"
        return self.verdict

    @property
    def painted(self) -> bool:
        """Whether hand tokens are marked, so that there is something to extract."""
        return bool(np.any((self.classes == GOOD) | (self.classes == BAD)))

    @property
    def digest(self) -> str:
        """12 hex digits of grid, classes and kinds: equal labels, equal digest."""
        kinds = np.zeros_like(self.classes) if self.kinds is None else self.kinds
        parts = (repr(self.grid).encode(), self.classes.tobytes(), kinds.tobytes())
        return hashlib.sha256(b"".join(parts)).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        extra = {name: value for name in ("repeat", "change") if (value := getattr(self, name))}
        return {
            "image_id": self.image_id,
            "annotator": self.annotator,
            "time": self.time,
            "seconds": self.seconds,
            "grid": list(self.grid),
            "classes": encode_runs(self.classes),
            "kinds": None if self.kinds is None else encode_runs(self.kinds),
            "verdict": self.verdict,
            "note": self.note,
            "accepted_proposal": self.accepted_proposal,
            "confidence": self.confidence,
            **extra,
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "LabelRecord":
        """Inverse of `to_json`.

        Raises:
            ValueError: a field is missing or does not fit; the image is named.
        """
        try:
            height, width = row["grid"]
            grid = (int(height), int(width))
            classes = decode_runs(row["classes"], grid)
            kinds = None if row.get("kinds") is None else decode_runs(row["kinds"], grid, highest=GLOBAL)
            return cls(
                image_id=str(row["image_id"]),
                annotator=str(row["annotator"]),
                time=str(row.get("time", "")),
                seconds=float(row.get("seconds", 0.0)),
                classes=classes,
                kinds=kinds,
                verdict=row.get("verdict"),
                note=str(row.get("note", "")),
                accepted_proposal=bool(row.get("accepted_proposal", False)),
                confidence=None if row.get("confidence") is None else float(row["confidence"]),
                repeat=int(row.get("repeat", 0)),
                change=str(row.get("change", "")),
            )
        except KeyError as missing:
            raise ValueError(f"label of {row.get('image_id')!r}: the field {missing} is missing") from None
        except (TypeError, ValueError) as error:
            raise ValueError(f"label of {row.get('image_id')!r}: {error}") from None


def choose_balanced(
    verdicts: Mapping[str, str | None], seed: int, strata: Mapping[str, str] | None = None
) -> list[str]:
    """All bad images and as many good ones (the other way round where good ones are rarer), in the order given.

    The choice is by a hash of (seed, id): images added later change it as little as possible. With `strata` (image id
    -> group) the balance holds inside every group, so that what defines the groups can't tell good from bad.
    """
    if strata is not None:
        groups: dict[str, dict[str, str | None]] = {}
        for image_id, verdict in verdicts.items():
            groups.setdefault(strata[image_id], {})[image_id] = verdict
        kept = {image_id for group in groups.values() for image_id in choose_balanced(group, seed)}
        return [image_id for image_id in verdicts if image_id in kept]

    def some(kind: str, count: int) -> set[str]:
        ids = [image_id for image_id, verdict in verdicts.items() if verdict == kind]
        return set(sorted(ids, key=lambda image_id: _hash(seed, image_id))[:count])

    count = min(sum(v == kind for v in verdicts.values()) for kind in ("bad", "good"))
    chosen = some("bad", count) | some("good", count)
    return [image_id for image_id in verdicts if image_id in chosen]


def token_rows(record: LabelRecord, not_hand_sample: int, seed: int, image_id: str) -> NDArray[np.int32]:
    """Tokens to capture: all good and bad ones, up to `not_hand_sample` that are no hand; int32, ascending."""
    flat = record.classes.ravel()
    hand = np.flatnonzero((flat == GOOD) | (flat == BAD))
    rest = np.flatnonzero(flat == NOT_HAND)
    rng = np.random.default_rng(int(_hash(seed, image_id)[:16], 16))
    sample = rng.permutation(rest)[:not_hand_sample]
    return np.sort(np.concatenate([hand, sample])).astype(np.int32)


def _hash(seed: int, image_id: str) -> str:
    return hashlib.sha256(f"{seed}:{image_id}".encode()).hexdigest()

"""Between tokens and pixels, and the parts of a record that a picture cannot hold."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from einops import rearrange, reduce, repeat
from numpy.typing import NDArray

from badhands.study.classes import BAD, GLOBAL, GOOD, LOCAL, NOT_HAND, UNKNOWN_KIND
from badhands.study.labels import LabelRecord
from badhands.study.manifest import ImageEntry, check_id

LAYERS: dict[str, tuple[int, int]] = {
    "good_hand": (GOOD, UNKNOWN_KIND),
    "bad_hand": (BAD, UNKNOWN_KIND),
    "bad_hand_local": (BAD, LOCAL),
    "bad_hand_global": (BAD, GLOBAL),
    "not_hand": (NOT_HAND, UNKNOWN_KIND),
}
"""Names of the masks of one image, and the class and kind of error that each stands for."""

_PLAIN = ("time", "seconds", "verdict", "note", "accepted_proposal", "confidence", "repeat", "change")


@dataclass
class TokenMask:
    """Classes and kinds of one image under construction."""

    classes: NDArray[np.uint8]
    """[h, w]"""
    kinds: NDArray[np.uint8]
    """[h, w]"""

    @classmethod
    def empty(cls, grid: tuple[int, int]) -> "TokenMask":
        return cls(np.zeros(grid, np.uint8), np.zeros(grid, np.uint8))

    def add(self, layer: str, covered: NDArray[np.bool_]) -> None:
        """Set the covered tokens, bool[h, w], to the class and kind of a layer."""
        self.classes[covered], self.kinds[covered] = LAYERS[layer]

    def record(self, image_id: str, annotator: str, extra: dict[str, Any]) -> LabelRecord:
        """The record of this mask, with the fields that `extra_fields` kept; a missing verdict is read off the mask."""
        fields = {name: extra[name] for name in _PLAIN if name in extra}
        fields.setdefault("verdict", self._verdict())
        kinds = self.kinds if self.kinds.any() else None
        return LabelRecord(
            image_id,
            check_id(annotator),  # it names a folder when it is exported again
            fields.pop("time", ""),
            float(fields.pop("seconds", 0.0)),
            self.classes,
            kinds,
            **fields,
        )

    def _verdict(self) -> str | None:
        if np.any(self.classes == BAD):
            return "bad"
        if np.any(self.classes == GOOD):
            return "good"
        return "no_hand" if np.any(self.classes == NOT_HAND) else None


def layers(record: LabelRecord) -> dict[str, NDArray[np.bool_]]:
    """The non-empty masks of a record, bool[h, w], by name."""
    kinds = np.zeros_like(record.classes) if record.kinds is None else record.kinds
    found = {name: (record.classes == value) & (kinds == kind) for name, (value, kind) in LAYERS.items()}
    return {name: mask for name, mask in found.items() if mask.any()}


def extra_fields(record: LabelRecord) -> dict[str, Any]:
    """Everything of a record but the mask, the image and the annotator."""
    return {name: value for name in _PLAIN if (value := getattr(record, name)) not in (None, "")}


def to_pixels(mask: NDArray[Any], entry: ImageEntry) -> NDArray[Any]:
    """Tokens [h, w] to pixels [H, W]: each token becomes its rectangle."""
    down, right = _patch(entry)
    return repeat(mask, "h w -> (h dy) (w dx)", dy=down, dx=right)


def to_tokens(mask: NDArray[np.bool_], entry: ImageEntry) -> NDArray[np.bool_]:
    """Pixels bool[H, W] to tokens bool[h, w]: those that are covered by more than half.

    Raises:
        ValueError: the mask has neither the size of the image nor that of its token grid.
    """
    if mask.shape == entry.grid and mask.shape != (entry.height, entry.width):
        return mask
    if mask.shape != (entry.height, entry.width):
        raise ValueError(
            f"image {entry.id}: a mask of {mask.shape[1]} x {mask.shape[0]} does not fit; "
            f"it must be {entry.width} x {entry.height} pixels"
        )
    down, right = _patch(entry)
    share = reduce(mask.astype(np.float32), "(h dy) (w dx) -> h w", "mean", dy=down, dx=right)
    return share > 0.5


def most_common(values: NDArray[np.uint8], entry: ImageEntry) -> NDArray[np.uint8]:
    """Pixels uint8[H, W] to tokens uint8[h, w]: the value that more than half of a token's pixels have, else 0."""
    out = np.zeros(entry.grid, np.uint8)
    for value in np.unique(values):
        if value:
            out[to_tokens(values == value, entry)] = value
    return out


def _patch(entry: ImageEntry) -> tuple[int, int]:
    return entry.height // entry.grid[0], entry.width // entry.grid[1]


def columns(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[H, W] to [(W H)]: COCO counts down the columns."""
    return rearrange(mask, "y x -> (x y)")

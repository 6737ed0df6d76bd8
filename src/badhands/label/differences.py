"""Who labelled an image otherwise, kept ready: a few bits of each label instead of a comparison of all with all."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from badhands.study.classes import BAD
from badhands.study.label_log import Key, LabelLog
from badhands.study.labels import LabelRecord

DIFFERENT_BELOW = 0.5
"""Bad masks that overlap less than this (IoU) are listed as a disagreement."""


def iou(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two boolean masks; NaN if both are empty."""
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else float("nan")


class _Gist(NamedTuple):
    """What a comparison of two labels needs."""

    verdict: str | None
    painted: bool
    grid: tuple[int, int]
    bad: NDArray[np.uint8]
    """One bit a token."""


def gist(record: LabelRecord) -> _Gist:
    bad = np.packbits(record.classes == BAD) if record.painted else np.zeros(0, np.uint8)
    return _Gist(record.hand_verdict, record.painted, record.grid, bad)


def disagree(a: _Gist, b: _Gist) -> bool:
    if a.verdict is None or b.verdict is None or a.verdict != b.verdict:
        return a.verdict is not None and b.verdict is not None
    comparable = a.painted and b.painted and a.grid == b.grid
    return comparable and iou(np.unpackbits(a.bad) > 0, np.unpackbits(b.bad) > 0) < DIFFERENT_BELOW


class Differences:
    """The label log's disagreements. Each record is read once; not thread-safe."""

    def __init__(self, log: LabelLog):
        self._log = log
        self._known: dict[Key, tuple[tuple[int, int], _Gist]] = {}
        self._images: dict[str, list[Key]] = {}

    def refresh(self) -> None:
        """Read what is new.

        Raises:
            ValueError: a record that counts is malformed; it is named.
        """
        lines = self._log.lines()
        if any(key not in lines for key in self._known):  # another file
            self._known, self._images = {}, {}
        new = [key for key, line in lines.items() if key not in self._known or self._known[key][0] != line[:2]]
        for begin in range(0, len(new), 500):  # records are large: not all of them at once
            for key, record in self._log.read(new[begin : begin + 500]).items():
                if key not in self._known:
                    self._images.setdefault(key[0], []).append(key)
                self._known[key] = (lines[key][:2], gist(record))

    def of(self, image_id: str, annotator: str) -> list[str]:
        """Names of those who labelled this image otherwise; "yourself" for the annotator's own repetition."""
        mine = self._known.get((image_id, annotator, 0))
        if mine is None:
            return []
        others = sorted(key for key in self._images[image_id] if key != (image_id, annotator, 0))
        return [
            "yourself" if name == annotator else name
            for _, name, repeat in others
            if (repeat == 0 or name == annotator) and disagree(mine[1], self._known[image_id, name, repeat][1])
        ]

    def all(self, annotator: str, images: Iterable[str]) -> dict[str, list[str]]:
        """The images that somebody labelled otherwise, with their names."""
        return {image_id: names for image_id in images if (names := self.of(image_id, annotator))}

    def painted(self, annotator: str) -> list[str]:
        """Images on which this annotator has marked hands, the newest label last."""
        mine = [
            (where, key[0])
            for key, (where, gist) in self._known.items()
            if key[1] == annotator and key[2] == 0 and gist.painted
        ]
        return [image_id for _, image_id in sorted(mine)]

"""`labels.jsonl`: every label record ever made. In memory stands where each line lies, not what it says."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from badhands.study.journal import Journal
from badhands.study.labels import LabelRecord

Key = tuple[str, str, int]
"""Image id, annotator, repeat."""


class Line(NamedTuple):
    """The line that counts for a key."""

    start: int
    """Byte in the file; a later line has a larger one, whatever the records' clocks say."""
    size: int
    revision: int
    """How many lines the key has."""
    change: str


class _Index(Journal):
    def _forget(self) -> None:
        self.lines: dict[Key, Line] = {}
        self.people = False

    def _take(self, row: dict[str, Any], start: int, size: int) -> None:
        key = _key(row)
        before = self.lines.pop(key, None)  # popped, so that the order is that of the lines that count
        self.lines[key] = Line(start, size, before.revision + 1 if before else 1, str(row.get("change") or ""))
        self.people = self.people or row.get("time") != ""

    def text(self, keys: Iterable[Key]) -> list[bytes]:
        """The lines that count, without their newlines."""
        with self._opened() as handle:
            return [os.pread(handle, line.size, line.start).strip() for line in map(self.lines.__getitem__, keys)]


@dataclass
class LabelLog:
    """Append-only; the last record of an image and annotator counts. All answers are in the order of the file."""

    path: Path
    _index: _Index = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.path = Path(self.path)
        self._index = _Index(self.path)

    def append(self, record: LabelRecord) -> None:
        """Add a record; it is on disk (fsync, under an exclusive lock) when this returns."""
        self._index.append(record.to_json())

    def append_if_first(self, record: LabelRecord) -> bool:
        """Add the record unless this annotator has labelled this image already; for workers whose shares overlap."""
        return self._index.append(record.to_json(), unless=lambda: record_key(record) in self._index.lines)

    def records(self) -> list[LabelRecord]:
        """Every record, oldest first."""
        return [LabelRecord.from_json(row) for row in Journal(self.path).rows()]

    def lines(self) -> dict[Key, Line]:
        """Where the record that counts stands, by (image id, annotator, repeat), the newest last."""
        self._index.refresh()
        return dict(self._index.lines)

    def text(self, keys: Sequence[Key]) -> list[bytes]:
        """The JSON of these keys' records as it stands in the file, unchecked."""
        return self._index.text(keys) if keys else []

    def read(self, keys: Iterable[Key]) -> dict[Key, LabelRecord]:
        """The records that count of these keys, in the order of the file; keys without one are left out."""
        self._index.refresh()
        found = [key for key in keys if key in self._index.lines]
        found.sort(key=lambda key: self._index.lines[key].start)
        texts = self.text(found)
        return {key: LabelRecord.from_json(json.loads(text)) for key, text in zip(found, texts, strict=True)}

    def latest_of_all(self) -> dict[Key, LabelRecord]:
        """The record that counts, by (image id, annotator, repeat)."""
        return self.read(self.lines())

    def latest(self) -> dict[tuple[str, str], LabelRecord]:
        """The same without the repetitions, by (image id, annotator)."""
        return {key[:2]: record for key, record in self.read(key for key in self.lines() if key[2] == 0).items()}

    def revision(self, image_id: str, annotator: str, repeat: int = 0) -> int:
        """How many records this annotator has made of this image."""
        self._index.refresh()
        line = self._index.lines.get((image_id, annotator, repeat))
        return line.revision if line else 0

    def append_after(self, record: LabelRecord, base: int, own: Sequence[str] = ()) -> bool:
        """Add the record if nobody has changed the label since the writer saw it; checked under the file lock.

        Args:
            base: the revision that the record was made from.
            own: names of changes that the writer sent after `base` and saw no answer to; they may have arrived.

        Returns:
            Whether this change is on disk now, also when an earlier sending had put it there already.
        """
        arrived = False

        def changed_or_known() -> bool:
            nonlocal arrived
            line = self._index.lines.get(record_key(record))
            revision, last = (line.revision, line.change) if line else (0, "")
            arrived = bool(last) and last == record.change
            return arrived or not (revision == base or (bool(last) and last in own))

        if self._index.append(record.to_json(), unless=changed_or_known):
            return True
        if arrived:  # its first writer may have been killed between writing and syncing
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
        return arrived

    def sort_machine_labels(self, order: Mapping[str, int]) -> None:
        """Bring a log that holds judges' records alone into the order of the images; people's records stay as made."""
        self._index.refresh()
        if not self._index.people:
            self._index.sort(key=lambda row: order.get(row["image_id"], len(order)))


def record_key(record: LabelRecord) -> Key:
    return (record.image_id, record.annotator, record.repeat)


def _key(row: Mapping[str, Any]) -> Key:
    repeat = row.get("repeat")  # whatever else is wrong with a line is told when it is read
    return (str(row.get("image_id")), str(row.get("annotator")), repeat if type(repeat) is int else 0)

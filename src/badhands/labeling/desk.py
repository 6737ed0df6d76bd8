"""The desk: one study as the labelling page sees it. Reads images and labels, and writes each change at once."""

import hashlib
import io
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from PIL import Image

from badhands.labeling.agreement import disagree
from badhands.labeling.changes import JUDGE, Change, annotator_name, read_change
from badhands.labeling.proposals import proposals
from badhands.study.labels import LabelRecord, encode_runs
from badhands.study.manifest import ImageEntry
from badhands.study.study import Study

THUMBNAIL = 112
"""Longest side in pixels: twice the size shown, for sharp screens."""
REPEAT_EVERY = 10


class UnknownImageError(LookupError):
    """The study has no image of this id."""


@dataclass(frozen=True)
class Conflict:
    """Somebody else changed the label since the page saw it; nothing was written."""

    label: dict[str, Any] | None


class Desk:
    """Thread-safe: one lock round everything that touches the label log."""

    def __init__(self, study: Study):
        self.study = study
        self.study_id = f"{study.name}-{hashlib.sha256(str(study.root.resolve()).encode()).hexdigest()[:8]}"
        self._lock = threading.Lock()
        self._entries: dict[str, ImageEntry] = {}
        self._thumbnails: dict[str, bytes] = {}
        self._verified: set[str] = set()
        self.reload()
        if not self._entries:
            raise ValueError(f"study {study.name} has no images yet: make them with `python extract.py`")
        with self._lock:
            self.study.labels.records()  # a broken line is told now, not at the first save

    def reload(self) -> None:
        """Read the manifest again: extraction may have added images since."""
        self._entries = self.study.manifest.by_id

    def entry(self, image_id: str) -> ImageEntry:
        """Raises UnknownImageError."""
        try:
            return self._entries[image_id]
        except KeyError:
            raise UnknownImageError(f"study {self.study.name} has no image {image_id[:64]!r}") from None

    # Reading -----------------------------------------------------------------------------------------------------

    def overview(self, annotator: str) -> dict[str, Any]:
        """Everything the page needs at its start: images in labelling order, and this annotator's labels."""
        annotator_name(annotator)
        self.reload()
        order = labelling_order(self._entries)
        with self._lock:
            latest, revisions = self.study.labels.latest_of_all(), self.study.labels.revisions()
        own = {key: record for key, record in latest.items() if key[1] == annotator and key[0] in self._entries}
        last = max(own.values(), key=lambda record: record.time, default=None)
        return {
            "study": {"id": self.study_id, "name": self.study.name},
            "annotator": annotator,
            "images": [_image(self._entries[image_id]) for image_id in order],
            "again": order[REPEAT_EVERY - 1 :: REPEAT_EVERY],
            "labels": [_label(record, revisions[key]) for key, record in own.items()],
            "disagreements": {image_id: names for image_id in order if (names := _others(latest, image_id, annotator))},
            "last": None if last is None else {"id": last.image_id, "repeat": last.repeat},
        }

    def label(self, image_id: str, annotator: str, repeat: int) -> dict[str, Any] | None:
        """One label with its revision, None if there is none yet."""
        key = (self.entry(image_id).id, annotator_name(annotator), repeat)
        with self._lock:
            record = self.study.labels.latest_of_all().get(key)
            return None if record is None else _label(record, self.study.labels.revision(*key))

    def proposals(self, image_id: str) -> list[dict[str, Any]]:
        """Masks that machines offer for this image."""
        entry = self.entry(image_id)
        with self._lock:
            judged = self.study.labels.latest().get((image_id, JUDGE))
        return [
            {
                "source": one.source,
                "classes": encode_runs(one.classes),
                "kinds": encode_runs(one.kinds),
                "quality": one.quality,
            }
            for one in proposals(self.study, entry, judged)
        ]

    def picture(self, image_id: str) -> bytes:
        """The PNG of an image, its pixels checked against the manifest once.

        Raises:
            ValueError: the file is missing, changed, or a link out of the study.
        """
        path = self.study.image_path(self.entry(image_id).id)
        if not path.resolve().is_relative_to(self.study.root.resolve()):
            raise ValueError(f"image {image_id} is a link to outside of the study")
        if image_id not in self._verified:
            self.study.image(image_id)
            self._verified.add(image_id)
        return path.read_bytes()

    def thumbnail(self, image_id: str) -> bytes:
        """A small JPEG."""
        if image_id not in self._thumbnails:
            with Image.open(io.BytesIO(self.picture(image_id))) as image:
                small = image.convert("RGB")
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=85)
            self._thumbnails[image_id] = buffer.getvalue()
        return self._thumbnails[image_id]

    # Writing -----------------------------------------------------------------------------------------------------

    def save(self, image_id: str, fields: dict[str, Any]) -> dict[str, Any] | Conflict:
        """Append a change to the label log; it is on disk when this returns.

        Raises:
            UnknownImageError, WrongSizeError, ValueError: nothing was written.
        """
        entry = self.entry(image_id)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        change: Change = read_change(fields, entry, now)
        record = change.record
        if change.study != self.study_id:
            return Conflict(None)
        key = (record.image_id, record.annotator, record.repeat)
        with self._lock:
            if not self.study.labels.append_after(record, change.base, change.own):
                current = self.study.labels.latest_of_all().get(key)
                empty = LabelRecord(image_id, record.annotator, "", 0.0, record.classes * 0, repeat=record.repeat)
                return Conflict(_label(current or empty, self.study.labels.revision(*key)))
            revision = self.study.labels.revision(*key)
            latest = self.study.labels.latest_of_image(image_id)
        return {"revision": revision, "time": now, "disagrees": _others(latest, image_id, record.annotator)}


def labelling_order(ids: Any) -> list[str]:
    """Ids by their hash: neighbours share neither prompt nor seed, and the order stays when images are added."""
    return sorted(ids, key=lambda image_id: hashlib.sha256(image_id.encode()).digest())


def _image(entry: ImageEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "width": entry.width,
        "height": entry.height,
        "grid": list(entry.grid),
        "prompt": entry.prompt,
        "seed": entry.seed,
    }


def _label(record: LabelRecord, revision: int) -> dict[str, Any]:
    return {"kinds": None, **record.to_json(), "repeat": record.repeat, "revision": revision}


def _others(latest: dict[tuple[str, str, int], LabelRecord], image_id: str, annotator: str) -> list[str]:
    """Who labelled this image otherwise; "yourself" for the annotator's own repetition."""
    mine = latest.get((image_id, annotator, 0))
    if mine is None:
        return []
    names = []
    for (other_id, name, repeat), record in sorted(latest.items(), key=lambda item: item[0]):
        compared = other_id == image_id and record is not mine and (repeat == 0 or name == annotator)
        if compared and disagree(mine, record):
            names.append("yourself" if name == annotator else name)
    return names

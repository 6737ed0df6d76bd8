"""The desk: one study as the labelling page sees it. Reads images and labels, and writes each change at once."""

import hashlib
import io
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from PIL import Image

from badhands.label.changes import JUDGE, Change, annotator_name, read_change
from badhands.label.differences import Differences
from badhands.label.learned import EVERY, LearnedMasks
from badhands.label.proposals import proposals
from badhands.study.label_log import record_key
from badhands.study.labels import LabelRecord, encode_runs
from badhands.study.manifest import ImageEntry
from badhands.study.study import Study

THUMBNAIL = 112
"""Longest side in pixels: twice the size shown, for sharp screens."""
THUMBNAILS = 4000
"""Kept in memory, about 4 KB each."""
REPEAT_EVERY = 10
REPEAT_AFTER = 50
"""Images between a first and a second showing: after fewer one remembers the verdict."""


class UnknownImageError(LookupError):
    """The study has no image of this id."""


@dataclass(frozen=True)
class Conflict:
    """Somebody else changed the label since the page saw it; nothing was written."""

    label: dict[str, Any] | None


class Desk:
    """Thread-safe: one lock round everything that touches the manifest and the label log."""

    def __init__(self, study: Study):
        self.study = study
        self.study_id = f"{study.name}-{hashlib.sha256(str(study.root.resolve()).encode()).hexdigest()[:8]}"
        self._lock = threading.Lock()
        self._entries: Mapping[str, ImageEntry] = {}
        self._thumbnails: OrderedDict[str, bytes] = OrderedDict()
        self._verified: set[str] = set()
        self._differences = Differences(study.labels)
        self._learned = LearnedMasks(study)
        with self._lock:
            self._reload()
            if not self._entries:
                raise ValueError(f"study {study.name} has no images yet: make them with `python extract.py`")
            self._differences.refresh()  # a broken line is told now, not at the first save

    def _reload(self) -> None:
        """Read the manifest again: extraction may have added images since. The caller holds the lock."""
        self._entries = self.study.manifest.by_id

    def entry(self, image_id: str) -> ImageEntry:
        """Raises UnknownImageError."""
        try:
            return self._entries[image_id]
        except KeyError:
            raise UnknownImageError(f"study {self.study.name} has no image {image_id[:64]!r}") from None

    # Reading -----------------------------------------------------------------------------------------------------

    def overview(self, annotator: str) -> bytes:
        """Everything the page needs at its start, as JSON: images in labelling order, and this annotator's labels."""
        annotator_name(annotator)
        log = self.study.labels
        with self._lock:
            self._reload()
            order = labelling_order(self._entries)
            self._differences.refresh()
            lines = {key: line for key, line in log.lines().items() if key[1] == annotator and key[0] in self._entries}
            labels = [
                _with_revision(text, line.revision)
                for text, line in zip(log.text([*lines]), lines.values(), strict=True)
            ]
            differences = self._differences.all(annotator, order)
            painted = self._differences.painted(annotator)
        last = next(reversed(lines), None)  # the newest in the file
        rest = {
            "study": {"id": self.study_id, "name": self.study.name},
            "annotator": annotator,
            "images": [_image(self._entries[image_id]) for image_id in order],
            "again": order[REPEAT_EVERY - 1 :: REPEAT_EVERY],
            "lag": REPEAT_AFTER,
            "masks": len(painted) // EVERY,
            "disagreements": differences,
            "last": None if last is None else {"id": last[0], "repeat": last[2]},
        }
        return json.dumps(rest, separators=(",", ":")).encode()[:-1] + b',"labels":[' + b",".join(labels) + b"]}"

    def label(self, image_id: str, annotator: str, repeat: int) -> dict[str, Any] | None:
        """One label with its revision, None if there is none yet."""
        key = (self.entry(image_id).id, annotator_name(annotator), repeat)
        with self._lock:
            record = self.study.labels.read([key]).get(key)
            return None if record is None else _label(record, self.study.labels.revision(*key))

    def proposals(self, image_id: str, annotator: str = "") -> list[dict[str, Any]]:
        """Masks that machines offer for this image; the one learned from this annotator's own first."""
        entry = self.entry(image_id)
        with self._lock:
            judged = self.study.labels.read([(image_id, JUDGE, 0)]).get((image_id, JUDGE, 0))
            painted = self._differences.painted(annotator)
        learned = self._learned.chances(entry, annotator, painted)
        offered: list[dict[str, Any]] = []
        if learned is not None:
            percent = np.rint(100 * learned[1]).astype(int).tolist()
            offered.append({"source": "learned", "images": learned[0], "chance": percent, "quality": False})
        return offered + [
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
        try:
            inside = path.resolve().is_relative_to(self.study.root.resolve())
        except (OSError, RuntimeError):  # a loop of links
            inside = False
        if not inside:
            raise ValueError(f"image {image_id} is a link that leads nowhere or out of the study: remove it")
        if image_id not in self._verified or not path.is_file():
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
            if len(self._thumbnails) > THUMBNAILS:
                self._thumbnails.popitem(last=False)
            return buffer.getvalue()
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
        key = record_key(record)
        labels = self.study.labels
        with self._lock:
            if not labels.append_after(record, change.base, change.own):
                current = labels.read([key]).get(key)
                empty = LabelRecord(image_id, record.annotator, "", 0.0, record.classes * 0, repeat=record.repeat)
                return Conflict(_label(current or empty, labels.revision(*key)))
            self._differences.refresh()
            disagrees = self._differences.of(image_id, record.annotator)
            masks = len(self._differences.painted(record.annotator)) // EVERY
            return {"revision": labels.revision(*key), "time": now, "disagrees": disagrees, "masks": masks}


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


def _with_revision(text: bytes, revision: int) -> bytes:
    """A JSON object of the label log, with one field more."""
    return text[:-1] + b',"revision":%d}' % revision

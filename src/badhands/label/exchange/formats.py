"""The three formats by name, as the command line knows them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from badhands.label.exchange.coco import from_coco, to_coco
from badhands.label.exchange.label_studio import CONFIG, from_label_studio, to_label_studio
from badhands.label.exchange.png_masks import read_masks, write_masks
from badhands.study.journal import write_whole
from badhands.study.labels import LabelRecord
from badhands.study.study import Study

FORMATS = ("coco", "png", "label_studio")


def export_labels(study: Study, records: Sequence[LabelRecord], form: str, path: Path) -> int:
    """Write records to a JSON file, or for PNG masks to a folder. Returns how many labels were written."""
    entries = study.manifest.by_id
    unknown = sorted({record.image_id for record in records} - entries.keys())
    if unknown:
        raise ValueError(f"{unknown[0]} is labelled, but the manifest has no such image: run the study's check")
    if form == "png":
        return write_masks(path, entries, records)
    if form == "coco":
        content: Any = to_coco(entries.values(), records, study.name)
    elif form == "label_studio":
        content = to_label_studio(entries, records, "/data/local-files/?d=images/{id}.png")
        write_whole(path.with_suffix(".interface.xml"), CONFIG.encode())
    else:
        raise ValueError(f"format {form!r} is unknown: choose one of {', '.join(FORMATS)}")
    write_whole(path, json.dumps(content).encode())
    return len(records)


def import_labels(study: Study, form: str, path: Path, annotator: str) -> list[LabelRecord]:
    """Read labels and append those that differ from what the study has; all or, if one is wrong, none.

    Args:
        annotator: whose labels they are where the file does not say.

    Returns:
        The records that were appended.

    Raises:
        ValueError: the file does not fit this study.
    """
    entries = study.manifest.by_id
    try:
        if form == "png":
            if not path.is_dir():
                raise ValueError(f"{path} is not a folder of PNG masks")
            records = read_masks(path, entries, annotator)
        elif form in ("coco", "label_studio"):
            content = json.loads(path.read_text())
            records = (from_coco if form == "coco" else from_label_studio)(content, entries, annotator)
        else:
            raise ValueError(f"format {form!r} is unknown: choose one of {', '.join(FORMATS)}")
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{path} is not a {form} file of this shape: {error!r} is missing or wrong") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    latest, now = study.labels.latest_of_all(), datetime.now(UTC).isoformat(timespec="milliseconds")
    added = []
    for record in records:
        known = latest.get((record.image_id, record.annotator, record.repeat))
        if known is None or (known.digest, known.verdict, known.note) != (record.digest, record.verdict, record.note):
            added.append(record if record.time else replace(record, time=now))
    for record in added:
        study.labels.append(record)
    return added

"""PNG masks: one palette picture for each label, of the image's size, in a folder for each annotator.

Value of a pixel: 0 unlabelled, 1 good, 2 bad, 3 not hand, 4 bad with a local error, 5 bad with a global error. The text
chunk `badhands` holds verdict, note and the rest as JSON. A folder of masks that somebody else wrote needs only the
values 0 to 3.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from badhands.label.exchange.tokens import LAYERS, TokenMask, extra_fields, layers, most_common, to_pixels
from badhands.study.labels import LabelRecord
from badhands.study.manifest import ImageEntry, check_id

VALUES = {"good_hand": 1, "bad_hand": 2, "not_hand": 3, "bad_hand_local": 4, "bad_hand_global": 5}
_PALETTE = [0, 0, 0, 0, 114, 178, 213, 94, 0, 140, 140, 140, 230, 140, 60, 170, 60, 0]
_CHUNK = "badhands"
_REPEAT = ".repeat"


def write_masks(folder: Path, entries: Mapping[str, ImageEntry], records: Iterable[LabelRecord]) -> int:
    """Write `<folder>/<annotator>/<id>.png` for each record (`<id>.repeat.png` for a repetition); how many."""
    number = 0
    for record in records:
        entry = entries[record.image_id]
        path = folder / check_id(record.annotator) / f"{record.image_id}{_REPEAT if record.repeat else ''}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mask(path, entry, record)
        number += 1
    return number


def write_mask(path: Path, entry: ImageEntry, record: LabelRecord) -> None:
    """One record as one PNG."""
    values = np.zeros(entry.grid, np.uint8)
    for layer, mask in layers(record).items():
        values[mask] = VALUES[layer]
    picture = Image.fromarray(to_pixels(values, entry)).convert("P")
    picture.putpalette(_PALETTE)
    info = PngImagePlugin.PngInfo()
    info.add_itxt(_CHUNK, json.dumps(extra_fields(record), ensure_ascii=False))
    picture.save(path, pnginfo=info, optimize=True)


def read_masks(folder: Path, entries: Mapping[str, ImageEntry], annotator: str) -> list[LabelRecord]:
    """Records of a folder of masks, or of one that holds a folder for each annotator.

    Raises:
        ValueError: a mask has no image in the study, a wrong size or an unknown value.
    """
    records = []
    for path in sorted(folder.rglob("*.png")):
        image_id = path.stem.removesuffix(_REPEAT) if path.stem not in entries else path.stem
        if image_id not in entries:
            raise ValueError(f"{path}: the study has no image {image_id!r}; remove the file or import into its study")
        name = annotator if path.parent == folder else path.parent.name
        mask, extra = _read(path, entries[image_id])
        records.append(mask.record(image_id, name, extra))
    return records


def read_mask(path: Path, entry: ImageEntry) -> TokenMask:
    """Classes and kinds of one PNG mask, of the image's size or one pixel a token.

    Raises:
        ValueError: it is unreadable, or has a wrong size or an unknown value.
    """
    return _read(path, entry)[0]


def _read(path: Path, entry: ImageEntry) -> tuple[TokenMask, dict[str, Any]]:
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("P", "L", "1"):
                raise ValueError(f"{path}: a mask is a palette or grey picture, not {picture.mode}")
            if picture.size not in ((entry.width, entry.height), entry.grid[::-1]):  # told before it is decoded
                raise ValueError(f"{path}: {picture.width} x {picture.height} px, not {entry.width} x {entry.height}")
            values = np.array(picture, np.uint8)
            text = getattr(picture, "text", {}).get(_CHUNK)
        extra = json.loads(text) if text else {}
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not a readable picture ({error})") from None
    if values.max(initial=0) > max(VALUES.values()):
        raise ValueError(f"{path}: values are 0 to {max(VALUES.values())}, not {values.max()}")
    tokens, mask = most_common(values, entry), TokenMask.empty(entry.grid)
    for layer in LAYERS:
        mask.add(layer, tokens == VALUES[layer])
    return mask, extra

"""COCO: RLE masks, compressed or as plain counts.

The run lengths go down the columns and begin with a run of zeros. The compressed text writes each count, from the third
on as its difference to the count two before, in groups of five bits, lowest first, with a continuation bit of 32 and an
offset of 48. Source: the description in pycocotools' mask.py and maskApi.c, github.com/cocodataset/cocoapi.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from badhands.label.exchange.tokens import LAYERS, TokenMask, columns, extra_fields, layers, to_pixels, to_tokens
from badhands.study.labels import LabelRecord
from badhands.study.manifest import ImageEntry

_NAMES = {"good": "good_hand", "bad": "bad_hand", "not hand": "not_hand"}
"""Other names that are understood."""


def counts(mask: NDArray[np.bool_]) -> list[int]:
    """Run lengths of bool[H, W], down the columns, zeros first."""
    flat = columns(np.asarray(mask, bool))
    edges = np.flatnonzero(np.diff(flat, prepend=False))
    return np.diff(np.concatenate([[0], edges, [flat.size]])).tolist() if flat.size else [0]


def from_counts(runs: Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """Inverse of `counts`.

    Raises:
        ValueError: the counts do not fill the picture.
    """
    if any(type(run) is not int or run < 0 for run in runs) or sum(runs) != height * width:
        raise ValueError(f"the RLE counts do not fill {width} x {height} pixels")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def compress(runs: Sequence[int]) -> str:
    """Counts as COCO's compressed text."""
    text = bytearray()
    for position, run in enumerate(runs):
        value = run - runs[position - 2] if position > 2 else run
        while True:
            group = value & 31
            value >>= 5
            more = value != (-1 if group & 16 else 0)
            text.append(group + 48 + (32 if more else 0))
            if not more:
                break
    return text.decode("ascii")


def decompress(text: str) -> list[int]:
    """Inverse of `compress`.

    Raises:
        ValueError: the text is no such.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 60:
            raise ValueError("the compressed RLE text is malformed")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("the compressed RLE text ends within a number")
    return runs


def to_coco(entries: Iterable[ImageEntry], records: Iterable[LabelRecord], name: str) -> dict[str, Any]:
    """A COCO instances file. Verdicts, notes and names of annotators stand under the key `badhands`."""
    numbers: dict[str, int] = {}
    images, annotations, notes = [], [], []
    by_id = {entry.id: entry for entry in entries}
    for entry in by_id.values():
        numbers[entry.id] = len(numbers) + 1
        images.append(
            {"id": numbers[entry.id], "file_name": f"{entry.id}.png", "width": entry.width, "height": entry.height}
        )
    categories = {layer: number for number, layer in enumerate(LAYERS, 1)}
    for number, record in enumerate(records, 1):
        entry = by_id[record.image_id]
        notes.append(
            {"label": number, "image_id": numbers[entry.id], "annotator": record.annotator, **extra_fields(record)}
        )
        for layer, tokens in layers(record).items():
            mask = to_pixels(tokens, entry)
            rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = [cols[0], rows[0], cols[-1] - cols[0] + 1, rows[-1] - rows[0] + 1]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": numbers[entry.id],
                    "category_id": categories[layer],
                    "segmentation": {"size": [entry.height, entry.width], "counts": compress(counts(mask))},
                    "area": int(mask.sum()),
                    "bbox": [int(side) for side in box],
                    "iscrowd": 1,
                    "attributes": {"annotator": record.annotator, "label": number},
                }
            )
    return {
        "info": {"description": f"badhands study {name}"},
        "images": images,
        "categories": [{"id": i, "name": layer, "supercategory": "hand"} for layer, i in categories.items()],
        "annotations": annotations,
        "badhands": notes,
    }


def from_coco(content: dict[str, Any], entries: Mapping[str, ImageEntry], annotator: str) -> list[LabelRecord]:
    """Records of a COCO file, one for each image and label.

    Args:
        annotator: whose labels they are where the file does not say.

    Raises:
        ValueError: a category, an image or a mask is not one of the study.
    """
    files = {
        image["id"]: str(image["file_name"]).rsplit("/", 1)[-1].removesuffix(".png") for image in content["images"]
    }
    names = {category["id"]: str(category["name"]) for category in content["categories"]}
    masks: dict[tuple[int, int | None], TokenMask] = {}
    extras: dict[tuple[int, int | None], dict[str, Any]] = {}
    for note in content.get("badhands", []):
        key = (note["image_id"], note["label"])
        masks[key], extras[key] = TokenMask.empty(_entry(files, entries, key[0]).grid), note
    for annotation in content["annotations"]:
        entry = _entry(files, entries, annotation["image_id"])
        layer = _NAMES.get(names[annotation["category_id"]], names[annotation["category_id"]])
        if layer not in LAYERS:
            raise ValueError(f"COCO category {layer!r} is unknown: rename it to one of {', '.join(LAYERS)}")
        attributes = annotation.get("attributes", {})
        key = (annotation["image_id"], attributes.get("label"))
        mask = masks.setdefault(key, TokenMask.empty(entry.grid))
        extras.setdefault(key, {"annotator": attributes.get("annotator", annotator)})
        mask.add(layer, to_tokens(_pixels(annotation["segmentation"], entry), entry))
    return [mask.record(files[key[0]], extras[key]["annotator"], extras[key]) for key, mask in masks.items()]


def _entry(files: dict[int, str], entries: Mapping[str, ImageEntry], number: int) -> ImageEntry:
    name = files.get(number, "")
    if name not in entries:
        raise ValueError(f"COCO image {number} ({name!r}) is not in this study")
    return entries[name]


def _pixels(segmentation: Any, entry: ImageEntry) -> NDArray[np.bool_]:
    if isinstance(segmentation, list):  # polygons
        picture = Image.new("1", (entry.width, entry.height))
        for polygon in segmentation:
            ImageDraw.Draw(picture).polygon(polygon, fill=1)
        return np.array(picture, bool)
    height, width = segmentation["size"]
    if (height, width) != (entry.height, entry.width):
        raise ValueError(f"image {entry.id}: an RLE mask of {width} x {height} pixels does not fit the image")
    runs = segmentation["counts"]
    return from_counts(decompress(runs) if isinstance(runs, str) else runs, height, width)

"""Label Studio: tasks with brush regions (BrushLabels), whose masks are packed bit streams.

A brush mask is the RGBA picture, row by row, each pixel's value four times; its bytes are packed by thi.ng's rle-pack:
a 32-bit number of values, 5 bits word size - 1, four times 4 bits run size - 1; then chunks of one bit (1: a run, 0:
single values), 2 bits that choose the run size, the length - 1 in that many bits, and the value(s). Big-endian.
Sources: labelstud.io/tags/brushlabels; the comment in Label Studio's converter that names the packing,
github.com/thi-ng/umbrella, packages/rle-pack.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from badhands.label.exchange.tokens import LAYERS, TokenMask, extra_fields, layers, to_pixels, to_tokens
from badhands.study.labels import VERDICTS, LabelRecord
from badhands.study.manifest import ImageEntry

_RUN_SIZES = (3, 4, 8, 16)
"""Bits; a run is as long as 65,536 values."""
_NAMES = {"good": "good_hand", "bad": "bad_hand", "not hand": "not_hand"}
CONFIG = """<View>
  <Image name="image" value="$image" zoom="true"/>
  <BrushLabels name="hands" toName="image">
    <Label value="good_hand" background="#0072B2"/>
    <Label value="bad_hand" background="#D55E00"/>
    <Label value="bad_hand_local" background="#E68C3C"/>
    <Label value="bad_hand_global" background="#AA3C00"/>
    <Label value="not_hand" background="#8C8C8C"/>
  </BrushLabels>
  <Choices name="verdict" toName="image">
    <Choice value="good"/><Choice value="bad"/><Choice value="no_hand"/><Choice value="skip"/>
  </Choices>
</View>
"""
"""The labelling interface that the exported tasks fit."""


def pack(mask: NDArray[np.bool_]) -> list[int]:
    """A mask, bool[H, W], as the byte list of a brush region."""
    flat = np.repeat(np.asarray(mask, bool).ravel(), 4)
    starts = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
    lengths = np.diff(starts, append=flat.size)
    bits = [f"{flat.size:032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in _RUN_SIZES)]
    for start, length in zip(starts, lengths, strict=True):
        value = f"{255 if flat[start] else 0:08b}"
        while length:
            run = min(int(length), 1 << _RUN_SIZES[-1])
            choice = next(i for i, size in enumerate(_RUN_SIZES) if run <= 1 << size)
            bits.append(f"1{choice:02b}{run - 1:0{_RUN_SIZES[choice]}b}{value}")
            length -= run
    stream = "".join(bits)
    stream += "0" * (-len(stream) % 8)
    return list(int(stream, 2).to_bytes(len(stream) // 8, "big"))


def unpack(data: Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """Inverse of `pack`, for what Label Studio writes too: a pixel is in the mask if its alpha is above one half.

    Raises:
        ValueError: the stream is torn, or belongs to a picture of another size.
    """
    if not all(type(byte) is int and 0 <= byte < 256 for byte in data):
        raise ValueError("a brush mask is a list of bytes")
    stream = "".join(f"{byte:08b}" for byte in data)
    at = 0

    def read(size: int) -> int:
        nonlocal at
        at += size
        if at > len(stream):
            raise ValueError("the brush mask ends too early")
        return int(stream[at - size : at], 2)

    number = read(32)
    if number != height * width * 4:
        raise ValueError(
            f"the brush mask has {number} values, a picture of {width} x {height} needs {height * width * 4}"
        )
    word = read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values = np.zeros(number, np.uint32)
    done = 0
    while done < number:
        is_run = read(1)
        length = read(sizes[read(2)]) + 1
        if done + length > number:
            raise ValueError("the brush mask is longer than its picture")
        if is_run:
            values[done : done + length] = read(word)
        else:
            values[done : done + length] = [read(word) for _ in range(length)]
        done += length
    return values.reshape(height, width, 4)[:, :, 3] > (1 << word) // 2 - 1


def to_label_studio(entries: Mapping[str, ImageEntry], records: Iterable[LabelRecord], image_url: str) -> list[dict]:
    """Tasks for import into Label Studio, an annotation for each record.

    Args:
        image_url: where Label Studio finds the pictures; `{id}` is replaced.
    """
    tasks: dict[str, dict[str, Any]] = {}
    for record in records:
        entry = entries[record.image_id]
        task = tasks.setdefault(
            entry.id,
            {"data": {"image": image_url.format(id=entry.id), "image_id": entry.id}, "annotations": []},
        )
        size = {"original_width": entry.width, "original_height": entry.height, "image_rotation": 0}
        results: list[dict[str, Any]] = [
            {
                "id": f"{len(task['annotations'])}-{layer}",
                "type": "brushlabels",
                "from_name": "hands",
                "to_name": "image",
                **size,
                "value": {"format": "rle", "rle": pack(to_pixels(mask, entry)), "brushlabels": [layer]},
            }
            for layer, mask in layers(record).items()
        ]
        if record.verdict is not None:
            results.append(
                {
                    "id": f"{len(task['annotations'])}-verdict",
                    "type": "choices",
                    "from_name": "verdict",
                    "to_name": "image",
                    "value": {"choices": [record.verdict]},
                }
            )
        extra = {"annotator": record.annotator, **extra_fields(record)}
        task["annotations"].append({"result": results, "lead_time": record.seconds, "badhands": extra})
    return list(tasks.values())


def from_label_studio(tasks: list[dict], entries: Mapping[str, ImageEntry], annotator: str) -> list[LabelRecord]:
    """Records of exported tasks (the JSON format with all fields).

    Args:
        annotator: whose labels they are where the task does not say.

    Raises:
        ValueError: an image, label or mask is not one of the study.
    """
    if not isinstance(tasks, list):
        raise ValueError("a Label Studio export is a list of tasks: choose the JSON format, not JSON-MIN or COCO")
    records = []
    for task in tasks:
        image = str(task["data"].get("image_id") or task["data"]["image"])
        entry = entries.get(image) or entries.get(image.rsplit("/", 1)[-1].removesuffix(".png"))
        if entry is None:
            raise ValueError(f"the task's image {image[:200]!r} is not in this study")
        for annotation in task["annotations"]:
            if not annotation.get("was_cancelled"):
                records.append(_record(annotation, entry, annotator))
    return records


def _record(annotation: dict[str, Any], entry: ImageEntry, annotator: str) -> LabelRecord:
    mask, extra = TokenMask.empty(entry.grid), dict(annotation.get("badhands", {}))
    extra.setdefault("seconds", annotation.get("lead_time") or 0.0)
    for result in annotation["result"]:
        value = result["value"]
        if result["type"] == "choices" and value["choices"] and value["choices"][0] in VERDICTS:
            extra["verdict"] = value["choices"][0]
        elif result["type"] == "brushlabels":
            layer = _NAMES.get(value["brushlabels"][0], value["brushlabels"][0])
            if layer not in LAYERS:
                raise ValueError(f"Label Studio label {layer!r} is unknown: rename it to one of {', '.join(LAYERS)}")
            pixels = unpack(value["rle"], result["original_height"], result["original_width"])
            mask.add(layer, to_tokens(pixels, entry))
    return mask.record(entry.id, str(extra.get("annotator", annotator)), extra)

"""A small study of procedural pictures for the tests of the labelling app: discs with stripes for fingers."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from badhands.study.classes import BAD, GOOD, NOT_HAND
from badhands.study.labels import LabelRecord
from badhands.study.manifest import ImageEntry, pixel_sha256
from badhands.study.study import Study


def make_study(
    root: Path, images: int = 12, size: tuple[int, int] = (64, 64), patch: int = 4, judged: bool = True
) -> Study:
    """`size` is (width, height) in pixels. Every second image's hand is bad; the judge has labelled all of them."""
    study = Study.create(root)
    width, height = size
    grid = (height // patch, width // patch)
    study.write_fingerprint("0" * 12, {"model": "drawn"})
    for number in range(images):
        image, hand = draw(number, width, height)
        image_id = f"img{number:04d}"
        image.save(study.image_path(image_id))
        study.manifest.append(
            ImageEntry(
                image_id, f"a drawn hand, number {number}", number, "0" * 12, pixel_sha256(image), width, height, grid
            )
        )
        if judged:
            tokens = hand.reshape(grid[0], patch, grid[1], patch).mean((1, 3)) > 0.3
            classes = np.where(tokens, BAD if number % 2 else GOOD, NOT_HAND).astype(np.uint8)
            study.labels.append(
                LabelRecord(
                    image_id, "judge", "", 0.0, classes, verdict="bad" if number % 2 else "good", confidence=0.9
                )
            )
    return study


def draw(number: int, width: int, height: int) -> tuple[Image.Image, np.ndarray]:
    """The picture and the pixels of its hand, bool[H, W]. A bad hand has seven fingers."""
    rng = np.random.default_rng(number)
    noise = rng.integers(0, 40, (height, width, 3))
    x, y = (rng.uniform(0.4, 0.6) * side for side in (width, height))
    radius = 0.17 * min(width, height)
    hand = Image.new("1", (width, height))
    pen = ImageDraw.Draw(hand)
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    fingers = 7 if number % 2 else 5
    for finger in range(fingers):
        angle = -np.pi * (0.1 + 0.8 * finger / (fingers - 1))
        tip = (x + 2.1 * radius * np.cos(angle), y + 2.1 * radius * np.sin(angle))
        pen.line(((x, y), tip), fill=1, width=max(1, int(radius * 0.34)))
    inside = np.array(hand, bool)
    base = np.full((height, width, 3), rng.integers(60, 150, 3))
    base[inside] = (224, 172, 140)
    return Image.fromarray((base + noise).clip(0, 255).astype(np.uint8)), inside

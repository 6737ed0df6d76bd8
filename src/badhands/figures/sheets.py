"""Sheets of labelled images: every picture with its hand tokens outlined in the colour of their class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from badhands.figures.palette import BAD, GOOD, INK, PAPER

OUTLINED = {1: GOOD, 2: BAD}
"""Token class to colour; not-hand and unlabelled tokens get no outline."""

MARGIN, CAPTION = 6, 14
"""Pixels between pictures, and for the line under each."""


@dataclass(frozen=True)
class Labelled:
    """A picture with its labels."""

    image: Image.Image
    classes: np.ndarray
    """uint8[h, w] token classes on the token grid."""
    caption: str = ""


def outline(image: Image.Image, classes: np.ndarray, side: int) -> Image.Image:
    """The picture scaled to `side` pixels of width, with a line round each region of good and of bad tokens.

    Small pictures are enlarged without smoothing, so that what is seen is what was labelled.
    """
    h, w = classes.shape
    size = (side, round(side * image.height / image.width))
    small = image.width <= side
    picture = image.convert("RGB").resize(size, Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(picture)
    for token_class, colour in OUTLINED.items():
        for line in borders(classes == token_class):
            (x0, y0), (x1, y1) = ((min(round(x * size[0] / w), size[0] - 1), min(round(y * size[1] / h), size[1] - 1))
                                  for x, y in line)  # fmt: skip
            draw.line((x0, y0, x1, y1), fill=colour, width=2)
    return picture


def borders(region: np.ndarray) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Token edges between inside and outside of a region bool[h, w], as ((x0, y0), (x1, y1)) in token corners."""
    padded = np.pad(region, 1)
    across = padded[1:, 1:-1] != padded[:-1, 1:-1]
    down = padded[1:-1, 1:] != padded[1:-1, :-1]
    lines = [((int(x), int(y)), (int(x) + 1, int(y))) for y, x in np.argwhere(across)]
    return lines + [((int(x), int(y)), (int(x), int(y) + 1)) for y, x in np.argwhere(down)]


def sheet(pictures: Sequence[Labelled], columns: int = 8, side: int = 128) -> Image.Image:
    """All pictures in rows, each with its caption under it.

    Raises:
        ValueError: there are none.
    """
    if not pictures:
        raise ValueError("there is no labelled image to show: label some with python -m badhands.label")
    tiles = [outline(p.image, p.classes, side) for p in pictures]
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    tall = max(tile.height for tile in tiles) + CAPTION
    page = Image.new("RGB", (columns * (side + MARGIN) + MARGIN, rows * (tall + MARGIN) + MARGIN), PAPER)
    draw = ImageDraw.Draw(page)
    for k, (tile, picture) in enumerate(zip(tiles, pictures, strict=True)):
        row, column = divmod(k, columns)
        x, y = MARGIN + column * (side + MARGIN), MARGIN + row * (tall + MARGIN)
        page.paste(tile, (x, y))
        room = side // 6
        text = picture.caption if len(picture.caption) <= room else picture.caption[: room - 1] + "…"
        draw.text((x, y + tile.height + 1), text, fill=INK)
    return page

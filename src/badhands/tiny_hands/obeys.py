"""Whether a picture does what its prompt says, by rule from the pixels: background, skin and direction."""

from collections.abc import Sequence

import numpy as np

from badhands.tiny_hands.attributes import BACKGROUND_RGB, SKIN_RGB, VOCABULARY, attributes_of

RULED = ("background", "skin", "direction")
"""The attributes that a rule can read."""
EDGE = 6
"""Depth in px of the strips along the borders: deeper than a band of a striped sleeve."""
FOREGROUND = 0.13
"""A pixel further than this from the ground's colour (largest channel, 0..1) is not ground."""


def attributes_rule(images: np.ndarray) -> list[dict[str, str]]:
    """What each picture shows, in words of `attributes.VOCABULARY`.

    Background: the colour that most border pixels are nearest to. Direction: opposite the border where the forearm
    leaves, which is the one with the longest unbroken run of other pixels (fingertips are narrower). Skin: the colour
    in the middle of the palm, which lies a little towards the forearm.

    Args:
        images: uint8 [n, 64, 64, 3].

    Raises:
        ValueError: another shape or dtype.
    """
    if images.ndim != 4 or images.shape[1:] != (64, 64, 3) or images.dtype != np.uint8:
        raise ValueError(f"images are {images.dtype} {images.shape}: give uint8 [n, 64, 64, 3]")
    return [_read(image.astype(np.float32) / 255) for image in images]


def _read(image: np.ndarray) -> dict[str, str]:
    border = np.concatenate([image[:2].reshape(-1, 3), image[-2:].reshape(-1, 3), image[:, 0], image[:, -1]])
    grounds = np.asarray(BACKGROUND_RGB, np.float32)
    nearest = np.linalg.norm(border[:, None] - grounds, axis=2).argmin(1)
    background = int(np.bincount(nearest, minlength=len(grounds)).argmax())
    # This picture's own shade of it: light and tint differ from one to the next.
    own = np.median(border[nearest == background], axis=0)
    other = np.abs(image - own).max(2) > FOREGROUND
    # In the order of the directions: a hand pointing upwards leaves at the bottom, rightwards at the left, and so on.
    strips = (other[-EDGE:].any(0), other[:, :EDGE].any(1), other[:EDGE].any(0), other[:, -EDGE:].any(1))
    direction = int(np.argmax([_longest_run(strip) for strip in strips]))
    dx, dy = ((0, 1), (-1, 0), (0, -1), (1, 0))[direction]
    row, column = 32 + 6 * dy, 32 + 6 * dx
    palm = np.median(image[row - 4 : row + 5, column - 4 : column + 5].reshape(-1, 3), axis=0)
    shades = np.asarray(SKIN_RGB, np.float32)[:, None] * np.linspace(0.8, 1.08, 8)[:, None]
    skin = int(np.linalg.norm(shades - palm, axis=2).min(1).argmin())
    return {
        "background": VOCABULARY["background"][background],
        "skin": VOCABULARY["skin"][skin],
        "direction": VOCABULARY["direction"][direction],
    }


def _longest_run(flags: np.ndarray) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def obedience(images: np.ndarray, prompts: Sequence[str]) -> dict[str, np.ndarray]:
    """Attribute of `RULED` -> bool [n]: the picture shows what its prompt says.

    Raises:
        ValueError: a prompt is no caption of the embedded model, or there are not as many prompts as images.
    """
    if len(images) != len(prompts):
        raise ValueError(f"{len(images)} images but {len(prompts)} prompts: give one prompt for each image")
    asked = [attributes_of(prompt) for prompt in prompts]
    shown = attributes_rule(images)
    return {name: np.array([a[name] == s[name] for a, s in zip(asked, shown, strict=True)]) for name in RULED}

"""What a caption can say of a hand, and the colours that it means."""

import itertools
from collections.abc import Mapping

import numpy as np

VOCABULARY: dict[str, tuple[str, ...]] = {
    "size": ("small", "medium", "large"),
    "skin": ("pale", "tan", "brown", "dark"),
    "side": ("left", "right"),
    "direction": ("upwards", "rightwards", "downwards", "leftwards"),
    "background": ("white", "grey", "blue", "green", "yellow", "pink"),
    "sleeve": ("no", "red", "navy", "striped"),
    "style": ("drawing", "painting"),
}
"""Attribute -> its words. Index order is the code used in tensors; `direction` counts quarter turns clockwise."""

SCALES = (1.0, 1.13, 1.26)
"""Size of small, medium and large hands; at 1.0 a finger is 4.4 px thick or more at its root."""

SKIN_RGB = ((0.98, 0.85, 0.74), (0.87, 0.64, 0.43), (0.58, 0.36, 0.22), (0.33, 0.21, 0.15))
BACKGROUND_RGB = (
    (0.96, 0.96, 0.96),
    (0.60, 0.61, 0.63),
    (0.36, 0.56, 0.88),
    (0.44, 0.72, 0.44),
    (0.96, 0.86, 0.38),
    (0.96, 0.62, 0.76),
)
SLEEVE_RGB = ((0.0, 0.0, 0.0), (0.80, 0.16, 0.18), (0.14, 0.18, 0.46), (0.93, 0.93, 0.90))
"""`no` has a colour only to keep the index; it is never drawn. `striped` is this light tone with dark bands."""


def caption(attributes: Mapping[str, str]) -> str:
    """The prompt for one hand, every attribute named once.

    Raises:
        ValueError: an attribute or a word is unknown; the message lists the known ones.
    """
    check(attributes)
    a = attributes
    sleeve = "bare arm" if a["sleeve"] == "no" else f"{a['sleeve']} sleeve"
    return (
        f"a {a['style']} of a {a['size']} {a['side']} hand with {a['skin']} skin pointing {a['direction']}, "
        f"{sleeve}, {a['background']} background"
    )


def check(attributes: Mapping[str, str]) -> None:
    """Raises ValueError if an attribute is missing or unknown, or its word is."""
    for name in attributes:
        if name not in VOCABULARY:
            raise ValueError(f"unknown attribute {name!r}: a hand has {', '.join(VOCABULARY)}")
    for name, words in VOCABULARY.items():
        if name not in attributes:
            raise ValueError(f"attribute {name!r} is missing: choose one of {', '.join(words)}")
        if attributes[name] not in words:
            raise ValueError(f"unknown {name} {attributes[name]!r}: choose one of {', '.join(words)}")


def every_caption() -> list[str]:
    """All captions, in the order of `code`."""
    names = tuple(VOCABULARY)
    return [caption(dict(zip(names, words, strict=True))) for words in itertools.product(*VOCABULARY.values())]


def attributes_of(text: str) -> dict[str, str]:
    """Inverse of `caption`.

    Raises:
        ValueError: `text` is not a caption of this vocabulary.
    """
    words = text.replace(",", "").split()
    found = {
        name: next((word for word in options if word in words), "no" if name == "sleeve" else "")
        for name, options in VOCABULARY.items()
    }
    if not all(found.values()) or caption(found) != text:
        raise ValueError(f"{text!r} is not a caption of the embedded model; one that is: {every_caption()[0]!r}")
    return found


def random_captions(n: int, seed: int) -> list[tuple[str, dict[str, str]]]:
    """`n` captions with their attributes, independent and uniform; a longer list begins with a shorter one."""
    rng = np.random.default_rng(seed)
    draws = [{name: words[rng.integers(len(words))] for name, words in VOCABULARY.items()} for _ in range(n)]
    return [(caption(a), a) for a in draws]

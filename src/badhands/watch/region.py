"""Where the hand is bad: tokens that the probes name, and the mask in picture pixels that inpainting takes."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation

from badhands.cells import PSEUDO_BLOCKS
from badhands.probes.artifact import Probes
from badhands.watch.compatibility import best_block
from badhands.watch.frame import Frame

Region = Literal["bad", "hand"]
"""`bad`: hand tokens whose P(bad) reaches a bound. `hand`: every token that the hand head calls hand."""
Mask = NDArray[np.bool_]


def region_tokens(
    probes: Probes, grid: tuple[int, int], frame: Frame, member: int = 0, what: Region = "hand", p_bad: float = 0.5
) -> Mask:
    """bool[rows, columns] on the token grid, read in the block that tells tokens apart best at that step.

    Raises:
        ValueError: an unknown region, a probability outside 0..1.
    """
    if what not in get_args(Region):
        raise ValueError(f"region={what}: use {' or '.join(get_args(Region))}")
    if not 0 <= p_bad <= 1:
        raise ValueError(f"p_bad={p_bad}: it is a probability, 0 to 1")
    block = telling_block(probes, frame)
    i = frame.place(member)
    hand = frame.hand[block][i]
    found = hand if what == "hand" else hand & (frame.p_bad[block][i] >= p_bad)
    return found.reshape(grid)


def telling_block(probes: Probes, frame: Frame, measure: str = "token_auroc") -> str:
    """Of the watched blocks the one that the training study scored best at this step."""
    watched = [cell.block for cell in frame.cells if cell.block not in PSEUDO_BLOCKS]
    best = best_block(probes, frame.cells[0].timestep, measure)
    return best if best in watched else watched[-1]


def grown(tokens: Mask, by: int = 1) -> Mask:
    """Dilated by so many tokens in all eight directions."""
    if not by or not tokens.any():
        return tokens
    return np.asarray(binary_dilation(tokens, np.ones((3, 3), bool), iterations=by), bool)


def to_pixels(tokens: Mask, size: tuple[int, int]) -> Mask:
    """bool[rows, columns] -> bool[height, width] of the picture."""
    height, width = size
    return tokens.repeat(height // tokens.shape[0], 0).repeat(width // tokens.shape[1], 1)


def to_image(mask: Mask) -> Image.Image:
    """White where it is to be drawn again, as inpainting pipelines and detailers expect: mode L, 0 and 255."""
    return Image.fromarray(mask.astype(np.uint8) * 255, "L")

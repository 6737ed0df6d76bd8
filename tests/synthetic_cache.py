"""Small activation caches with known structure: what is planted is returned, so tests can ask for it back.

They are built to be as awkward as real ones: tokens of one image share a strong random effect, images of one prompt
share another, the same image moves all cells together, two channels are massive, and the hand is one piece of the grid.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from badhands.cells import Cell, grid, in_order
from badhands.study.activations import write_image
from badhands.study.classes import BAD, GLOBAL, GOOD, LOCAL, NOT_HAND

IMAGE_STD, PROMPT_STD, TOKEN_STD = 0.5, 0.25, 0.75
"""Standard deviation per channel of what one image, one prompt and one token add. Intra-image correlation: 0.36."""

HAND_SHIFT = 4.0
"""Distance of hand tokens from not-hand tokens, in raw units (against 0.94 of total standard deviation)."""

MASSIVE = (3, 11)
"""Channels with an offset of 60 and four times the spread; nothing is planted in them."""

CELLS = grid(["double.1", "single.2", "single.5"], [20, 17, 12, 3])


@dataclass(frozen=True)
class Planted:
    """What `write_cache` put into the cache."""

    folder: Path
    cells: tuple[Cell, ...]
    image_ids: tuple[str, ...]
    image_class: np.ndarray
    """int8[images], GOOD or BAD; a mixed image is BAD."""
    image_kind: np.ndarray
    """uint8[images], 0 for good images (and everywhere without `kinds`)."""
    prompt: np.ndarray
    """int32[images], index of the prompt."""
    shift: dict[Cell, np.ndarray]
    """float64[d], mean(good) - mean(bad) of the population, per cell."""


def write_cache(
    folder: Path | str,
    images: int = 40,
    prompts: int = 20,
    cells: Sequence[Cell] | None = None,
    d: int = 32,
    shift: float | dict[Cell, float] = 1.0,
    seed: int = 0,
    kinds: bool = True,
    tokens: tuple[int, int] = (10, 30),
    not_hand: int = 10,
    dtype: torch.dtype = torch.bfloat16,
    variance: float | dict[Cell, float] = 1.0,
    mixed: float = 0.0,
    grid_size: tuple[int, int] = (16, 16),
    steps: int = 20,
    resume: bool = False,
    shuffled: bool = False,
    bad_tokens: int | None = None,
) -> Planted:
    """Write a cache through the study's own writer, image by image.

    Args:
        shift: |mean(good) - mean(bad)| in raw units, for all cells or per cell (cells not named: 0). With 1.0 the
            best possible image score of one cell has AUROC 0.9 (images and prompts vary by 0.56). 0 is the null.
        tokens: fewest and most hand tokens of an image (both included).
        not_hand: not-hand tokens of an image.
        variance: variance of bad token noise over good token noise, per cell (cells not named: 1).
        mixed: share of the bad images in which a third of the hand tokens is labelled, and looks, good.
        resume: keep files that exist.
        bad_tokens: hand tokens of every bad image, where their number shall tell what the activations do not.
        shuffled: record the classes of the images in random order: every finding about them must then vanish.
    """
    folder = Path(folder)
    chosen = CELLS if cells is None else in_order(cells)
    shifts = _per_cell(shift, chosen, 0.0)
    variances = _per_cell(variance, chosen, 1.0)
    rng = np.random.default_rng(seed)
    image_class = rng.permuted(np.where(np.arange(images) % 2 == 0, GOOD, BAD)).astype(np.int8)
    prompt = rng.permuted(np.arange(images) % prompts).astype(np.int32)
    bad = np.flatnonzero(image_class == BAD)
    image_kind = np.zeros(images, np.uint8)
    if kinds:
        image_kind[bad] = np.where(np.arange(len(bad)) % 2 == 0, LOCAL, GLOBAL)
    is_mixed = np.zeros(images, bool)
    is_mixed[bad[: round(mixed * len(bad))]] = True
    counts = rng.integers(tokens[0], tokens[1] + 1, images)
    if bad_tokens is not None:
        counts[bad] = bad_tokens

    recorded = rng.permuted(image_class) if shuffled else image_class

    directions = {cell: _direction(seed, cell, d) for cell in chosen}
    planted = {cell: shifts[cell] * directions[cell] for cell in chosen}
    hand_directions = {cell: _unit(_normal(seed, "hand", cell.block, d=d)) for cell in chosen}
    ids = tuple(f"syn-{i:04d}" for i in range(images))
    for i, image_id in enumerate(ids):
        if resume and (folder / f"{image_id}.safetensors").exists():
            continue
        index, classes = _tokens(rng_of(seed, "tokens", i), grid_size, int(counts[i]), not_hand, int(image_class[i]))
        if is_mixed[i]:
            hand = np.flatnonzero(classes == BAD)
            classes[hand[: max(1, len(hand) // 3)]] = GOOD
        if shuffled and recorded[i] != image_class[i]:
            recorded_classes = np.where(classes == GOOD, BAD, np.where(classes == BAD, GOOD, classes)).astype(np.uint8)
        else:
            recorded_classes = classes
        values = {
            cell: _activations(
                seed, i, int(prompt[i]), cell, d, classes, planted[cell], hand_directions[cell], variances[cell]
            ).to(dtype)
            for cell in chosen
        }
        meta = {
            "prompt": f"synthetic prompt {prompt[i]}",
            "prompt_id": int(prompt[i]),
            "seed": i,
            "grid": grid_size,
            "steps": {cell.timestep: (steps - cell.timestep, cell.timestep / steps) for cell in chosen},
            "label_digest": "synthetic",
        }
        kind_of_image = image_kind[i] or (LOCAL if kinds else 0)
        token_kinds = np.where(recorded_classes == BAD, kind_of_image, 0).astype(np.uint8)
        write_image(folder, image_id, values, index, recorded_classes, token_kinds, meta)
    return Planted(
        folder, chosen, ids, image_class, image_kind, prompt, {c: v.double().numpy() for c, v in planted.items()}
    )


def rng_of(*key: object) -> np.random.Generator:
    """A generator that depends on the words alone, so any image can be made again without the others."""
    return np.random.default_rng([zlib.crc32(str(part).encode()) for part in key])


def _normal(*key: object, d: int, rows: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(int(rng_of(*key).integers(2**62)))
    return torch.randn(d if rows is None else (rows, d), generator=generator)


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()


def _massive(d: int) -> list[int]:
    return [channel for channel in MASSIVE if channel < d - 2]


def _direction(seed: int, cell: Cell, d: int) -> Tensor:
    """Unit vector: mostly shared by all cells, partly the block's own, nothing in massive channels."""
    vector = 0.8 * _normal(seed, "shared direction", d=d) + 0.6 * _normal(seed, "direction", cell.block, d=d)
    vector[_massive(d)] = 0
    return _unit(vector)


def _per_cell(value: float | dict[Cell, float], cells: Sequence[Cell], default: float) -> dict[Cell, float]:
    if isinstance(value, dict):
        return {cell: float(value.get(cell, default)) for cell in cells}
    return {cell: float(value) for cell in cells}


def _tokens(
    rng: np.random.Generator, grid_size: tuple[int, int], hand: int, rest: int, image_class: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted token indices int32[n], classes uint8[n]: the `hand` tokens nearest to a random centre, `rest` others."""
    h, w = grid_size
    row, col = np.divmod(np.arange(h * w), w)
    distance = np.hypot(row - rng.integers(h), col - rng.integers(w)) + 1e-3 * rng.random(h * w)
    order = np.argsort(distance)
    far = rng.choice(order[hand:], size=min(rest, h * w - hand), replace=False)
    index = np.concatenate([order[:hand], far])
    classes = np.concatenate([np.full(hand, image_class), np.full(len(far), NOT_HAND)])
    sort = np.argsort(index)
    return index[sort].astype(np.int32), classes[sort].astype(np.uint8)


def _activations(
    seed: int,
    image: int,
    prompt: int,
    cell: Cell,
    d: int,
    classes: np.ndarray,
    planted: Tensor,
    hand_direction: Tensor,
    variance: float,
) -> Tensor:
    """float32[n, d] of one image in one cell."""
    token = TOKEN_STD * _normal(seed, "token", image, cell, d=d, rows=len(classes))
    bad = torch.from_numpy(classes == BAD)
    good = torch.from_numpy(classes == GOOD)
    if variance != 1.0:
        token[bad] *= variance**0.5
    image_effect = 0.8 * _normal(seed, "image", image, d=d) + 0.6 * _normal(seed, "image", image, cell, d=d)
    x = token + IMAGE_STD * image_effect + PROMPT_STD * _normal(seed, "prompt", prompt, cell.block, d=d)
    x += 0.5 * (good.float() - bad.float())[:, None] * planted
    x += HAND_SHIFT * (good | bad).float()[:, None] * hand_direction
    x[:, _massive(d)] = 60.0 + 4.0 * x[:, _massive(d)]
    return x

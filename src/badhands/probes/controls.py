"""Baselines that look at no block of the hand: what a good score of a block must beat. One object each."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from badhands.cells import Cell
from badhands.probes.data import ProbeData
from badhands.probes.training_rows import TrainingRows
from badhands.stats.threads import spread

Readouts = Mapping[Cell | None, np.ndarray]
"""Where it was read (None: nowhere in the model) -> float[m, d], a row for each image that is good or bad."""


@dataclass(frozen=True)
class Control:
    """A baseline of the headline table. A new one is an entry in `CONTROLS`."""

    name: str
    title: str
    """In sentences and figures."""
    readouts: Callable[[ProbeData], Readouts]
    """Empty where the run has not what it needs."""


def geometry(training: TrainingRows, token: np.ndarray, grids: np.ndarray) -> np.ndarray:
    """float32[n, 6]: log token count of the hand, row, column, their squares and product (of -1..1), for each row.

    Args:
        token: int[tokens of the cache], row-major index on the grid; grids: int[images, 2], (h, w) of each image.
    """
    count = np.bincount(training.image, minlength=len(grids))[training.image]
    h, w = grids[training.image].T
    row, column = np.divmod(token[training.rows], w)
    row, column = 2 * (row + 0.5) / h - 1, 2 * (column + 0.5) / w - 1
    return np.stack([np.log(count), row, column, row**2, column**2, row * column], 1).astype(np.float32)


def _geometry(data: ProbeData) -> Readouts:
    return {None: _means(data.good, geometry(data.good, data.cache.tokens.token, data.grids), data)}


def prompt_words(prompts: list[str]) -> np.ndarray:
    """float32[prompts, words]: which words each has. Words that every prompt has, or only one, are left out."""
    have = [set(re.findall(r"[\w'-]+", prompt.lower())) for prompt in prompts]
    counts = Counter(word for words in have for word in words)
    vocabulary = sorted(word for word, count in counts.items() if 2 <= count < len(prompts))
    return np.array([[word in words for word in vocabulary] for words in have], np.float32).reshape(len(prompts), -1)


def _prompt(data: ProbeData) -> Readouts:
    words = prompt_words([data.prompts[i] for i in data.design.known])
    return {None: words} if words.shape[1] else {}


def _latent(block: str) -> Callable[[ProbeData], Readouts]:
    """Mean, standard deviation, largest and smallest value of each channel over the hand tokens of an image."""

    def readouts(data: ProbeData) -> Readouts:
        read, training = data.read(data.good), data.good
        return {cell: summary(read(cell), training, data) for cell in data.cache.cells if cell.block == block}

    return readouts


def summary(x: Tensor, training: TrainingRows, data: ProbeData) -> np.ndarray:
    """float32[m, 4 d] of training rows [n, d]: mean, sd, max, min by image."""
    x = x.float()
    index = torch.from_numpy(training.image).long()[:, None].expand_as(x)
    start = torch.zeros(len(data.image_label), x.shape[1])
    mean = start.scatter_reduce(0, index, x, "mean", include_self=False)
    square = start.scatter_reduce(0, index, (x - mean[index[:, 0]]).square(), "mean", include_self=False)
    ends = [start.scatter_reduce(0, index, x, how, include_self=False) for how in ("amax", "amin")]
    return torch.cat([mean, square.sqrt(), *ends], 1)[data.design.known].numpy()


def x0_variances(cells: list[Cell], read: Callable[[Cell], Tensor]) -> dict[Cell, Tensor]:
    """How much the predicted clean latent has moved so far: float32[n, 1] per timestep, from the second one on.

    The variance of x0 over the captured steps up to this one, averaged over channels, as logarithm
    (Aithal et al. 2024 reject hallucinations by it).

    Args:
        cells: those of block x0, from noise to image. read: cell -> [n, d].
    """
    found: dict[Cell, Tensor] = {}
    total, squares = torch.zeros(()), torch.zeros(())
    for i, cell in enumerate(cells):
        x = read(cell).float()
        total, squares = total + x, squares + x.square()
        if i:
            variance = (squares / (i + 1) - (total / (i + 1)).square()).clamp(min=0).mean(1, keepdim=True)
            found[cell] = torch.log(variance + 1e-8)
    return found


def _x0_variance(data: ProbeData) -> Readouts:
    cells = [cell for cell in data.cache.cells if cell.block == "x0"]
    moved = x0_variances(cells, data.read(data.good)) if len(cells) > 1 else {}
    return {cell: _means(data.good, of.numpy(), data) for cell, of in moved.items()}


def _not_hand(data: ProbeData) -> Readouts:
    """The same blocks on tokens of the same images that are not hand."""
    if data.scene is None:
        return {}
    read, scene = data.read(data.scene), data.scene
    means = spread(lambda cell: _means(scene, read(cell).float().numpy(), data), data.cells)
    return dict(zip(data.cells, means, strict=True))


def _means(training: TrainingRows, x: np.ndarray, data: ProbeData) -> np.ndarray:
    """Training rows [n, d] as means by image, [m, d]; the mean of all images where one has no row."""
    n = len(data.image_label)
    count = np.bincount(training.image, minlength=n)[:, None]
    sums = csr_array((np.ones(len(x)), (training.image, np.arange(len(x)))), shape=(n, len(x))) @ x
    means = np.where(count > 0, sums / np.maximum(count, 1), sums.sum(0) / count.sum())
    return means[data.design.known].astype(np.float32)


CONTROLS = (
    Control("geometry", "size and place of the hand", _geometry),
    Control("prompt", "words of the prompt", _prompt),
    Control("xt", "noisy latent x_t", _latent("xt")),
    Control("x0", "predicted clean latent x0", _latent("x0")),
    Control("x0_variance", "variance of x0 so far", _x0_variance),
    Control("not_hand_tokens", "blocks, tokens outside the hand", _not_hand),
)
"""In the order of tables and sentences."""

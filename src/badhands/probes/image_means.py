"""Per cell and image the mean of its hand tokens: enough for every image-level score of a linear readout.

The mean token logit is the logit of the image mean. So nulls with a thousand refits and the comparison of global
directions work on [cells, images, d] and never read a token twice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from badhands.cells import Cell
from badhands.probes.standardise import CHUNK
from badhands.probes.task import Task


@dataclass(frozen=True, eq=False)
class ImageMeans:
    """All cells of one width."""

    cells: tuple[Cell, ...]
    mean: Tensor
    """[cells, images, d] float32, about `pivot`; 0 for images without tokens."""
    square: Tensor
    """[cells, images, d] float32, mean over tokens of the square about `pivot`."""
    pivot: Tensor
    """[cells, d] float32."""
    class_mean: Tensor
    """[cells, 2, d] float32, means of bad and good tokens (each image once), raw units."""
    draws: Tensor
    """[cells, m, d] float32, Gaussian draws with the within-class covariance of tokens, raw units."""
    present: np.ndarray
    """bool[images], which images have tokens."""

    def standardised(self, c: int, images: np.ndarray) -> Tensor:
        """[images, d]: all image means, in units of the token statistics of the given (training) images of cell c."""
        mean = self.mean[c, images].mean(0)
        variance = self.square[c, images].mean(0) - mean.square()
        scale = torch.where(variance > 1e-12, variance.clamp(min=1e-12).sqrt(), 1.0)
        return (self.mean[c] - mean) / scale


def image_means(
    cells: Sequence[Cell], read: Callable[[Cell], Tensor], task: Task, draws: int = 24, seed: int = 0
) -> ImageMeans:
    """One pass over the rows of `task` in every cell.

    Args:
        draws: random directions to draw per cell, for steering's control.
    """
    n_images, n = len(task.folds), len(task.rows)
    count = np.bincount(task.image, minlength=n_images)
    inverse = torch.from_numpy(1 / np.maximum(count, 1)).float()
    index = torch.from_numpy(task.image).long()
    base = torch.from_numpy(task.base).float()
    y = torch.from_numpy(task.y)
    class_weight = torch.stack([base * (1 - y), base * y])
    class_weight /= class_weight.sum(1, keepdim=True)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(draws, n, generator=generator) * (class_weight.sum(0) / 2).sqrt()  # Gaussian weights of tokens
    noise_sums = torch.stack([(noise * (1 - y)).sum(1), (noise * y).sum(1)])  # [2, m]: takes the class means out again
    found: list[list[Tensor]] = [[], [], [], [], []]
    for cell in cells:
        x = read(cell)
        d = x.shape[1]
        pivot = x[:: max(1, n // 256)].float().mean(0)
        mean, square = torch.zeros(n_images, d), torch.zeros(n_images, d)
        by_class, drawn = torch.zeros(2, d), torch.zeros(draws, d)
        for start in range(0, n, CHUNK):
            rows = slice(start, start + CHUNK)
            part = x[rows].float() - pivot
            mean.index_add_(0, index[rows], part)
            by_class += class_weight[:, rows] @ part
            drawn += noise[:, rows] @ part
            square.index_add_(0, index[rows], part.square_())
        drawn -= noise_sums.T @ by_class
        for store, value in zip(
            found, (mean * inverse[:, None], square * inverse[:, None], pivot, by_class + pivot, drawn), strict=True
        ):
            store.append(value)
    mean, square, pivots, class_mean, drawn = (torch.stack(store) for store in found)
    return ImageMeans(tuple(cells), mean, square, pivots, class_mean, drawn, count > 0)

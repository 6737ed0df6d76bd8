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
from badhands.probes.training_rows import TrainingRows
from badhands.stats.threads import spread, together

STEP = {True: CHUNK, False: 4096}
"""Rows added up at once on a CPU, and on a GPU."""


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
    cells: Sequence[Cell],
    read: Callable[[Cell], Tensor],
    training: TrainingRows,
    draws: int = 24,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> ImageMeans:
    """One pass over the rows of `training` in every cell; on a CPU each thread has a cell of its own.

    Args:
        draws: random directions to draw per cell, for steering's control.
        device: where the sums are made; the result lies on the CPU.
    """
    n_images, n = len(training.folds), len(training.rows)
    present = np.bincount(training.image, minlength=n_images) > 0
    base = torch.from_numpy(training.base).float()
    y = torch.from_numpy(training.y)
    class_weight = torch.stack([base * (1 - y), base * y])
    class_weight /= class_weight.sum(1, keepdim=True)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(draws, n, generator=generator) * (class_weight.sum(0) / 2).sqrt()  # Gaussian weights of tokens
    # [2, m]: takes the class means out of the draws again
    noise_sums = torch.stack([(noise * (1 - y)).sum(1), (noise * y).sum(1)]).to(device)
    weights = torch.cat([class_weight, noise]).to(device)
    parts = [_Rows.of(training, begin, min(begin + STEP[torch.device(device).type == "cpu"], n), base, device)
             for begin in range(0, n, STEP[torch.device(device).type == "cpu"])]  # fmt: skip

    def one(cell: Cell) -> tuple[Tensor, ...]:
        x = read(cell).to(device)
        d = x.shape[1]
        pivot = x[:: max(1, n // 256)].float().mean(0)
        mean, square = torch.zeros(n_images, d, device=device), torch.zeros(n_images, d, device=device)
        weighted = torch.zeros(len(weights), d, device=device)
        for part in parts:
            some = x[part.rows].float() - pivot
            weighted += weights[:, part.rows] @ some
            mean[part.images] += part.member @ some
            square[part.images] += part.member @ some.square_()
        by_class, drawn = weighted[:2], weighted[2:]
        drawn -= noise_sums.T @ by_class
        return tuple(value.cpu() for value in (mean, square, pivot, by_class + pivot, drawn))

    width_bytes = n * read(cells[0]).shape[1] * 4 if len(cells) else 1
    found = spread(one, cells, together(width_bytes))
    mean, square, pivots, class_mean, drawn = (torch.stack(store) for store in zip(*found, strict=True))
    return ImageMeans(tuple(cells), mean, square, pivots, class_mean, drawn, present)


@dataclass(frozen=True)
class _Rows:
    """Some rows of a training, and which image each belongs to."""

    rows: slice
    images: slice
    member: Tensor
    """float32[images, rows], 1 / tokens of the image: a product is much faster than adding rows one by one."""

    @classmethod
    def of(cls, training: TrainingRows, begin: int, end: int, base: Tensor, device: torch.device | str) -> "_Rows":
        image = training.image[begin:end]
        first, last = int(image.min()), int(image.max()) + 1
        member = torch.zeros(last - first, end - begin)
        member[torch.from_numpy(image - first).long(), torch.arange(end - begin)] = base[begin:end]
        return cls(slice(begin, end), slice(first, last), member.to(device))

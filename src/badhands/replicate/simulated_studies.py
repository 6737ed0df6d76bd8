"""Simulated studies: tokens of images with a random effect, in two blocks at two timesteps that share the images."""

from dataclasses import dataclass

import numpy as np
import torch

from badhands.cells import Cell, grid
from badhands.measures.contrasts import Contrast
from badhands.measures.sides import CellSums
from badhands.probes.image_means import ImageMeans
from badhands.stats.design import Design
from badhands.stats.folds import BAD_IMAGE, GOOD_IMAGE

CELLS = grid(["single.1", "single.2"], [20, 3])
CHANNELS, TOKENS = 48, 12
IMAGE, TOKEN = 0.6, 0.8
"""Standard deviations of what an image and what a token adds; their squares sum to 1 in a channel on average."""
PROMPT, UNEVEN = 0.3, 0.5
"""Where images share prompts: standard deviation of what a prompt adds, within that of an image, and of the planted
difference over prompts, in units of itself."""
SHIFTED = 12
"""Channels in which good and bad images differ, where a difference is planted."""
SHIFT = {Cell("single.1", 20): 0.25, Cell("single.1", 3): 0.4, Cell("single.2", 20): 0.3, Cell("single.2", 3): 0.5}
"""mean(good) - mean(bad) of each shifted channel, in standard deviations of it."""
SPREAD = 1.3
"""Variance of bad tokens over that of good ones in the shifted channels, where planted."""


@dataclass(frozen=True, eq=False)
class Study:
    """One data set."""

    design: Design
    tokens: dict[Cell, np.ndarray]
    """float64[images, TOKENS, CHANNELS]"""

    @classmethod
    def draw(cls, images: int, planted: bool, seed: int, permutations: int, prompts: int | None = None) -> "Study":
        """Half of the images good. Cells share most of an image's effect.

        Args:
            prompts: so many, each with as many good as bad images, labels matched inside them; some prompts' bad hands
                differ more than others'. The same prompts in every data set: intervals are over images of the prompts
                that a study has. None: every image has a prompt of its own.
        """
        rng = np.random.default_rng([seed, images, planted, *([prompts] if prompts else [])])
        good = rng.permuted(np.arange(images) % 2 == 0)
        if prompts:
            good = rng.permuted(good.reshape(images // 2, 2), axis=1)[:, 0]
            good = np.stack([good, ~good], 1).ravel()
        prompt = np.arange(images) // 2 % prompts if prompts else np.arange(images)
        label = np.where(good, GOOD_IMAGE, BAD_IMAGE)
        design = Design.of(label, prompt, prompt if prompts else None, seed=seed, permutations=permutations)
        shared, tokens = rng.normal(size=(images, 1, CHANNELS)), {}
        theirs, more = np.zeros((images, 1, CHANNELS)), np.ones((images, 1, 1))
        if prompts:
            of_prompt = np.random.default_rng([prompts, 1])
            theirs = of_prompt.normal(size=(prompts, 1, CHANNELS))[prompt]
            more = 1 + UNEVEN * of_prompt.normal(size=(prompts, 1, 1))[prompt]
        image = IMAGE if not prompts else (IMAGE**2 - PROMPT**2) ** 0.5
        mix = _correlation(CHANNELS)
        for cell in CELLS:
            own = rng.normal(size=(images, 1, CHANNELS))
            noise = rng.normal(size=(images, TOKENS, CHANNELS))
            x = (image * (0.8 * shared + 0.6 * own) + PROMPT * theirs + TOKEN * noise) @ mix
            if planted:
                x[~good, :, :SHIFTED] *= SPREAD**0.5
                x[good, :, :SHIFTED] += SHIFT[cell] * more[good]
            tokens[cell] = x
        return cls(design, tokens)

    @property
    def contrast(self) -> Contrast:
        n, good = len(self.design.label), self.design.good
        every = np.arange(n)
        count = np.full(n, TOKENS)
        return Contrast("good_vs_bad", every, every, good, every, every, good, count, count.astype(float))

    def sums(self, cell: Cell) -> CellSums:
        x = self.tokens[cell]
        return CellSums.of(self.contrast, x.sum(1), (x**2).sum(1))

    def image_means(self) -> ImageMeans:
        """What the shared directions read."""
        x = torch.from_numpy(np.stack([self.tokens[cell] for cell in CELLS])).float()
        c, n, _, d = x.shape
        return ImageMeans(
            CELLS, x.mean(2), x.square().mean(2), torch.zeros(c, d), torch.zeros(c, 2, d), torch.zeros(c, 1, d),
            np.ones(n, bool),
        )  # fmt: skip


def distance(cell: Cell, planted: bool) -> float:
    """D_B (Eq. 6) of the population: marginal Gaussians of equal channel variance but for the planted ones."""
    if not planted:
        return 0.0
    mean = SHIFT[cell] ** 2 / (8 * (1 + SPREAD) / 2)
    variance = 0.5 * np.log(np.cosh(np.log(SPREAD) / 2))
    return float(SHIFTED * (mean + variance))


def _correlation(d: int) -> np.ndarray:
    """float64[d, d]: neighbouring channels are correlated, every channel has unit variance."""
    near = 0.7 ** np.abs(np.subtract.outer(np.arange(d), np.arange(d)))
    return np.linalg.cholesky(near).T

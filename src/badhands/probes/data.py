"""What all probes of a run share: rows, labels, folds and resamplings, made once from the cache."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from badhands.cells import PSEUDO_BLOCKS, Cell
from badhands.probes.settings import ProbeSettings
from badhands.probes.training_rows import NOT_HAND, TrainingRows, good_rows, hand_rows, scene_rows
from badhands.stats.design import Design
from badhands.stats.intervals import Scored
from badhands.stats.resampling import image_draws
from badhands.study.activations import ActivationCache


@dataclass(frozen=True, eq=False)
class ProbeData:
    """A cache as the probes see it.

    Raises (from `of`):
        ValueError: blocks of several widths.
    """

    cache: ActivationCache
    settings: ProbeSettings
    cells: tuple[Cell, ...]
    """Blocks only, all of one width."""
    width: int
    design: Design
    """Labels, folds and permutations: the same for all cells and heads, and for the measures."""
    headline: Scored
    """Of all cells, the latents included."""

    @classmethod
    def of(cls, cache: ActivationCache, settings: ProbeSettings, design: Design, headline: Scored) -> "ProbeData":
        cells = tuple(cell for cell in cache.cells if cell.block not in PSEUDO_BLOCKS)
        return cls(cache, settings, cells, common_width(cache), design, headline)

    @property
    def image_label(self) -> np.ndarray:
        """int32[images], classes of `stats.folds`."""
        return self.design.label

    @property
    def folds(self) -> np.ndarray:
        """int32[images], of the token probes."""
        return self.design.base

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        return tuple(info.prompt for info in self.cache.images)

    @cached_property
    def cluster(self) -> np.ndarray:
        """int64[images], what is not independent."""
        return self.design.clusters(np.arange(len(self.image_label)))

    @cached_property
    def widening(self) -> float:
        """What refitting adds to the spread of fixed scores, taken from the headline."""
        return self.headline.widening

    @cached_property
    def weights(self) -> np.ndarray:
        """float64[bootstraps, images], one draw of images for every token metric."""
        return image_draws(len(self.image_label), self.settings.bootstraps)

    @cached_property
    def grids(self) -> np.ndarray:
        """int[images, 2], tokens (h, w)."""
        return np.array([info.grid for info in self.cache.images])

    @cached_property
    def good(self) -> TrainingRows:
        return good_rows(self.cache.tokens.image, self.cache.tokens.label, self.folds)

    @cached_property
    def hand(self) -> TrainingRows | None:
        """None where no token is labelled not hand."""
        tokens = self.cache.tokens
        if not (tokens.label == NOT_HAND).any():
            return None
        return hand_rows(tokens.image, tokens.label, self.folds, self.grids.prod(1))

    @cached_property
    def scene(self) -> TrainingRows | None:
        """None where some fold has no not-hand tokens of one of the classes."""
        tokens = self.cache.tokens
        training = scene_rows(tokens.image, tokens.label, self.folds, self.image_label)
        both = np.bincount(training.groups, minlength=2 * len(np.unique(self.folds))) > 0
        return training if len(training.rows) and both.all() else None

    def read(self, training: TrainingRows) -> Callable[[Cell], Tensor]:
        """Reads training rows from a cell: [n, d] in the stored dtype."""
        everything = len(training.rows) == len(self.cache.tokens)
        return lambda cell: self.cache.read(cell, None if everything else training.rows)


def common_width(cache: ActivationCache) -> int:
    """Channels of the blocks.

    Raises:
        ValueError: blocks of several widths.
    """
    widths = sorted({cache.width(cell) for cell in cache.cells if cell.block not in PSEUDO_BLOCKS})
    if len(widths) != 1:
        raise ValueError(f"probes need blocks of one width, these have widths {widths}: choose capture.blocks")
    return widths[0]

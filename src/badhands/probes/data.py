"""What all probes of a run share: rows, labels, folds and resamplings, made once from the cache."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from badhands.cells import PSEUDO_BLOCKS, Cell
from badhands.probes.scores import resample
from badhands.probes.settings import ProbeSettings
from badhands.probes.task import NOT_HAND, Task, good_task, hand_task, scene_task
from badhands.stats.folds import image_labels, make_folds
from badhands.study.activations import ActivationCache


@dataclass(frozen=True, eq=False)
class ProbeData:
    """A cache as the probes see it.

    Raises (from `of`):
        ValueError: blocks of several widths, one class only, too few images or prompts for the folds.
    """

    cache: ActivationCache
    settings: ProbeSettings
    cells: tuple[Cell, ...]
    """Blocks only, all of one width."""
    width: int
    prompts: tuple[str, ...]
    """[images], what folds group by."""
    image_label: np.ndarray
    """int32[images], classes of `folds`."""
    folds: np.ndarray
    """int32[images], the same for all cells and heads."""
    weights: np.ndarray
    """float64[bootstraps, images], one draw of images for every interval."""

    @classmethod
    def of(cls, cache: ActivationCache, settings: ProbeSettings) -> "ProbeData":
        cells = tuple(cell for cell in cache.cells if cell.block not in PSEUDO_BLOCKS)
        widths = sorted({cache.width(cell) for cell in cells})
        if len(widths) != 1:
            raise ValueError(f"probes need blocks of one width, these have widths {widths}: choose capture.blocks")
        n = len(cache.images)
        prompts = tuple(str(m.get("prompt_id", i.prompt)) for i, m in zip(cache.images, cache.meta, strict=True))
        label = image_labels(cache.tokens.image, cache.tokens.label, n)
        folds = make_folds(label, prompts, settings.folds, settings.seed)
        return cls(cache, settings, cells, widths[0], prompts, label, folds, resample(n, settings.bootstraps))

    @cached_property
    def grids(self) -> np.ndarray:
        """int[images, 2], tokens (h, w)."""
        return np.array([info.grid for info in self.cache.images])

    @cached_property
    def good(self) -> Task:
        return good_task(self.cache.tokens.image, self.cache.tokens.label, self.folds)

    @cached_property
    def hand(self) -> Task | None:
        """None where no token is labelled not hand."""
        tokens = self.cache.tokens
        if not (tokens.label == NOT_HAND).any():
            return None
        return hand_task(tokens.image, tokens.label, self.folds, self.grids.prod(1))

    @cached_property
    def scene(self) -> Task | None:
        """None where some fold has no not-hand tokens of one of the classes."""
        tokens = self.cache.tokens
        task = scene_task(tokens.image, tokens.label, self.folds, self.image_label)
        both = np.bincount(task.groups, minlength=2 * len(np.unique(self.folds))) > 0
        return task if len(task.rows) and both.all() else None

    def read(self, task: Task) -> Callable[[Cell], Tensor]:
        """Reads the rows of a task from a cell: [n, d] in the stored dtype."""
        everything = len(task.rows) == len(self.cache.tokens)
        return lambda cell: self.cache.read(cell, None if everything else task.rows)

"""Baselines that look at no block: what a good score of a block must beat."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from badhands.cells import Cell
from badhands.probes.task import Task

GEOMETRY = Cell("geometry", 0)
"""Not a cell of the model: where the hand lies and how large it is."""
PROMPT = Cell("prompt", 0)
"""Not a cell of the model either: the words of the prompt."""


def geometry(task: Task, token: np.ndarray, grids: np.ndarray) -> Tensor:
    """float32[n, 6]: log token count of the hand, row, column, their squares and product (of -1..1), for each row.

    Args:
        token: int[tokens of the cache], row-major index on the grid; grids: int[images, 2], (h, w) of each image.
    """
    count = np.bincount(task.image, minlength=len(grids))[task.image]
    h, w = grids[task.image].T
    row, column = np.divmod(token[task.rows], w)
    row, column = 2 * (row + 0.5) / h - 1, 2 * (column + 0.5) / w - 1
    columns = [np.log(count), row, column, row**2, column**2, row * column]
    return torch.from_numpy(np.stack(columns, 1).astype(np.float32))


def prompt_words(task: Task, prompts: Sequence[str]) -> Tensor:
    """float32[n, words]: which words the image's prompt has, for each row; what the prompt alone gives away.

    Words that every prompt has, or only one, are left out.
    """
    have = [set(re.findall(r"[\w'-]+", prompt.lower())) for prompt in prompts]
    counts = Counter(word for words in have for word in words)
    vocabulary = sorted(word for word, count in counts.items() if 2 <= count < len(prompts))
    rows = np.array([[word in words for word in vocabulary] for words in have], np.float32)
    return torch.from_numpy(rows.reshape(len(prompts), -1)[task.image])


def x0_variances(cells: Sequence[Cell], read: Callable[[Cell], Tensor]) -> dict[Cell, Tensor]:
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
            found[Cell("x0_variance", cell.timestep)] = torch.log(variance + 1e-8)
    return found

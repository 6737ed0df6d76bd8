"""Ridge regression on image means with one fixed penalty: the headline probe, fitted for every labelling at once.

The penalty is the mean eigenvalue of the training images' kernel, the same rule in every fold and cell, so nothing is
chosen and nothing can be chosen badly. Scores are linear in the labels: a thousand permutations are one product.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Features = Callable[[NDArray[np.intp]], Tensor]
"""Training images int[m] -> float32[n, d], features of all images in units of the training ones."""


def held_out_map(features: Features, train: NDArray[np.intp], test: NDArray[np.intp]) -> Tensor:
    """float32[test, n]: scores of the test images are this @ labels of all n images; it looks at training ones alone.

    Labels are centred on their training mean, so their sum over a row is 0; zeros where nothing varies.
    """
    z = features(train)
    a, b = z[train], z[test]
    centre = a.mean(0)
    a, b = a - centre, b - centre
    out = torch.zeros(len(test), len(z))
    kernel = a @ a.T
    unit = kernel.diagonal().mean()
    if not bool(unit > 0):
        return out
    kernel.diagonal().add_(unit)
    weights = torch.cholesky_solve(a @ b.T, torch.linalg.cholesky(kernel)).T
    out[:, train] = weights - weights.mean(1, keepdim=True)
    return out


def ridge_weights(z: Tensor, y: Tensor) -> Tensor:
    """float32[d]: weights of the same ridge on all images; features float32[n, d] and labels float32[n] get centred."""
    z, y = z - z.mean(0), y - y.mean()
    kernel = z @ z.T
    unit = kernel.diagonal().mean()
    if not bool(unit > 0):
        return torch.zeros(z.shape[1])
    kernel.diagonal().add_(unit)
    return z.T @ torch.linalg.solve(kernel, y)

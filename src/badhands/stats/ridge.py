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


def held_out_scores(features: Features, train: NDArray[np.intp], test: NDArray[np.intp], y: Tensor) -> Tensor:
    """float32[labellings, test]: scores of the test images under labels y [labellings, n] of the training ones.

    Labels are centred on their training mean; all scores are 0 where nothing varies. With fewer images than channels it
    works by the kernel of images, else by the covariance of channels: the smaller of the two, and linear in images.
    """
    z = features(train)
    a, b = z[train], z[test]
    centre = a.mean(0)
    a, b = a - centre, b - centre
    y = y.to(z.device)[:, torch.from_numpy(train).to(z.device)]
    unit = a.square().sum() / len(a)
    if not bool(unit > 0):
        return torch.zeros(len(y), len(test))
    y = y - y.mean(1, keepdim=True)
    small = a @ a.T if len(a) <= a.shape[1] else a.T @ a
    small.diagonal().add_(unit)
    factor = torch.linalg.cholesky(small)
    if len(a) <= a.shape[1]:
        return (y @ torch.cholesky_solve(a @ b.T, factor)).cpu()
    return (torch.cholesky_solve(a.T @ y.T, factor).T @ b.T).cpu()


def ridge_weights(z: Tensor, y: Tensor) -> Tensor:
    """float32[d]: weights of the same ridge on all images; features float32[n, d] and labels float32[n] get centred."""
    z, y = z - z.mean(0), y - y.mean()
    unit = z.square().sum() / len(z)
    if not bool(unit > 0):
        return torch.zeros(z.shape[1])
    small = z @ z.T if len(z) <= z.shape[1] else z.T @ z
    small.diagonal().add_(unit)
    return z.T @ torch.linalg.solve(small, y) if len(z) <= z.shape[1] else torch.linalg.solve(small, z.T @ y)

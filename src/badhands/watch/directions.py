"""Directions to steer along, each as long as the mean difference of its cell, so that a dose means the same."""

from typing import Literal, get_args

import torch
from torch import Tensor

from badhands.cells import Cell, in_order
from badhands.probes.artifact import Probes

Direction = Literal["mean", "ridge", "subspace"]
RANK = 3
"""Of the shared subspace."""


def steering(probes: Probes, cell: Cell, kind: Direction = "mean", random: int | None = None) -> Tensor:
    """[d] float32, what strength 1 adds to a token of the cell.

    Args:
        kind: `mean`: mean of good tokens - mean of bad tokens (Eq. 1). `ridge`: along the weights of the headline's
            ridge on image means, which leaves out what varies without the verdict. `subspace`: the part of the mean
            difference within the `RANK` leading directions that all cells share.
        random: instead the random direction of this number, drawn from the within-class covariance of tokens.

    Raises:
        ValueError: a cell or kind without a direction, or fewer random directions than asked for.
    """
    if cell not in probes.directions:
        have = ", ".join(str(c) for c in in_order(probes.directions))
        raise ValueError(f"these probes have no direction for {cell}: use some of {have}")
    mean = probes.directions[cell]
    if random is not None:
        draws = probes.random_directions.get(cell)
        if draws is None or not 0 <= random < len(draws):
            count = 0 if draws is None else len(draws)
            raise ValueError(f"these probes have {count} random directions for {cell}, number {random} is none")
        return draws[random]
    if kind == "mean":
        return mean
    if kind == "ridge":
        readout = probes.readout(probes.image_head, cell)
        if readout.hidden is not None:
            raise ValueError(f"the {probes.image_head} probe of {cell} has a hidden layer, so no direction: use mean")
        return _as_long(readout.weight, mean)
    if kind == "subspace":
        basis = shared_subspace(probes)
        return _as_long(basis.T @ (basis @ mean), mean)
    raise ValueError(f"policy.direction={kind}: use {', '.join(get_args(Direction))}")


def shared_subspace(probes: Probes) -> Tensor:
    """[RANK, d] orthonormal: leading right singular vectors of the unit mean differences of all cells."""
    units = [probes.directions[cell] / probes.directions[cell].norm() for cell in in_order(probes.directions)]
    return torch.linalg.svd(torch.stack(units), full_matrices=False).Vh[:RANK].contiguous()


def _as_long(direction: Tensor, like: Tensor) -> Tensor:
    return direction * (like.norm() / direction.norm().clamp(min=1e-12))

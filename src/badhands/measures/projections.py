"""Two-dimensional views of the tokens of a cell: PCA (Eq. 3), and PCA against the direction v (Eq. 4)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

from badhands.stats.threads import blocks

BLOCK = 4
"""Columns iterated together."""
ROUNDS = 6
ROWS = 256
"""Tokens multiplied at once on a CPU: read from memory once for both products."""
EXACT = 256
"""Up to this many channels the whole covariance is cheap."""


@dataclass(frozen=True, eq=False)
class Principal:
    """Leading components of centred tokens, with the subspace they were found in."""

    components: Tensor
    """float32[k, d], orthonormal; the entry of largest size is positive."""
    explained: Tensor
    """float32[k], share of the total variance."""
    basis: Tensor
    """float32[d, m], orthonormal, spans the directions of large variance."""
    coordinates: Tensor
    """float32[n, m] = x @ basis."""


def principal(x: Tensor, k: int = 2, seed: int = 0) -> Principal:
    """PCA by a block Krylov iteration (Musco and Musco, 2015): 7 passes over x, no d x d covariance.

    Args:
        x: float32[n, d], centred.
    """
    d = x.shape[1]
    if d <= EXACT:
        basis, coordinates = torch.eye(d, device=x.device), x
    else:
        generator = torch.Generator().manual_seed(seed)
        q = torch.linalg.qr(torch.randn(d, max(BLOCK, k + 2), generator=generator).to(x.device)).Q
        krylov = []
        for _ in range(ROUNDS):
            # Written so that both products run along the rows: four times as fast as x.T @ (x @ q).
            columns, total = q.T.contiguous(), torch.zeros_like(q.T)
            for at in blocks(x, ROWS):
                total += linear(x[at], columns).T @ x[at]
            q = torch.linalg.qr(total.T).Q
            krylov.append(q)
        basis = _orthonormal(torch.cat(krylov, dim=1))
        coordinates = x @ basis
    values, vectors = torch.linalg.eigh(coordinates.T @ coordinates)
    order = values.argsort(descending=True)[:k]
    components = (basis @ vectors[:, order]).T
    total = sum(float(x[at].square().sum()) for at in blocks(x, ROWS))
    return Principal(_signed(components), values[order] / max(total, 1e-30), basis, coordinates)


def leading_beside(found: Principal, v: Tensor, along: Tensor, toward: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Leading component of the tokens with v projected out (Eq. 4).

    The search stays in the subspace of `found`, with v taken out of it, so no further pass over the tokens is needed.

    Args:
        v: float32[d], unit length. along: float32[n] = x @ v.
        toward: float32[d], a component whose sign shall be followed (folds then look alike).

    Returns:
        (float32[d] component, orthogonal to v; float32[n] projections of the tokens on it).
    """
    shadow = v @ found.basis
    subspace = found.basis - v[:, None] * shadow
    # Its singular vectors, from the small products: those of the long matrix cost twenty times as much.
    squares, mix = torch.linalg.eigh(subspace.T.double() @ subspace.double())
    keep = squares > 1e-6
    to_inside = (mix[:, keep] / squares[keep].sqrt()).float()
    coordinates = (found.coordinates - along[:, None] * shadow) @ to_inside
    values, vectors = torch.linalg.eigh(coordinates.T @ coordinates)
    best = vectors[:, values.argmax()]
    component = subspace @ (to_inside @ best)
    reference = component.abs().argmax() if toward is None else None
    sign = torch.sign(component[reference] if toward is None else component @ toward)
    sign = torch.where(sign == 0, torch.ones_like(sign), sign)
    return component * sign, coordinates @ best * sign


def _orthonormal(columns: Tensor) -> Tensor:
    left, size, _ = torch.linalg.svd(columns, full_matrices=False)
    return left[:, size > 1e-4 * size[0]]


def _signed(rows: Tensor) -> Tensor:
    peak = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    return rows * torch.where(peak < 0, -1.0, 1.0)

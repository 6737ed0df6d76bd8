"""Is there one good/bad direction for all cells? Candidates are learned on some cells and tried on the others.

All candidates read image means (the mean token logit is linear in them), in units of the training images' token
statistics, and are ridge regressions on -1, +1 with balanced classes and the headline's penalty (the mean eigenvalue of
the training images' kernel), so they differ in what they share alone:

| method | a cell's readout |
|---|---|
| own | its own weight: what losses are measured against |
| G1 | first singular vector of the stacked unit directions v / abs(v) of the training cells |
| rank1 | G2: one shared weight, a gain and a bias per cell, trained jointly on the training cells |
| rank2, rank3 | the same with two and three shared weights (G4) |
| nearest | the own weight of the nearest training cell |
| random1, random3 | random shared weights, same treatment: what r free gains alone can do |

A cell that was left out keeps r numbers of its own, its gains, fitted on training images: for one direction that is a
sign.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from badhands.cells import Cell
from badhands.probes.image_means import ImageMeans
from badhands.stats.threads import spread

METHODS = ("G1", "rank1", "rank2", "rank3", "nearest", "random1", "random3")
RANDOM = ("random1", "random3")
"""These learn nothing from cells, so they stand under the kind `none` alone."""
SWEEPS = 8
"""Rounds of alternating least squares; it starts at the singular vectors of the own weights."""
WIDEST = 256
"""Wider activations are first reduced to this many components, of the training images' means of all cells together."""
TINY = 1e-12
RANDOM_DRAWS = 8
"""Random directions averaged (as AUROC)."""
EARLY = 0.6
"""The window split trains on timesteps >= EARLY * T and tests on the rest (t = 20..12 and 8..3 of T = 20)."""


@dataclass(frozen=True)
class Split:
    """Which cells are left out at once. Every cell is left out at most once a kind."""

    kind: str
    """none, block, timestep, window."""
    held_out: np.ndarray
    """bool[cells]; for `none` all cells are both trained on and tried."""
    train: np.ndarray
    """bool[cells]"""


@dataclass(frozen=True, eq=False)
class Trial:
    """Out-of-fold image scores: image fold held out, and the cell left out of what the method learned from."""

    cells: tuple[Cell, ...]
    own: np.ndarray
    """float32[cells, images]"""
    scores: dict[tuple[str, str], np.ndarray]
    """(kind, method) -> float32[draws, cells, images]; nan rows for cells that this kind never leaves out."""
    transfer: np.ndarray
    """float32[cells, cells, images]: own weight of the first cell on the second."""


def make_splits(cells: Sequence[Cell], num_steps: dict[int, int]) -> list[Split]:
    """All splits that the cells allow. num_steps: timestep -> T."""
    blocks, timesteps = [c.block for c in cells], [c.timestep for c in cells]
    everything = np.ones(len(cells), bool)
    splits = [Split("none", everything, everything)]
    for kind, values in (("block", blocks), ("timestep", timesteps)):
        if len(set(values)) > 1:
            for value in dict.fromkeys(values):
                out = np.array([v == value for v in values])
                splits.append(Split(kind, out, ~out))
    late = np.array([t < EARLY * num_steps[t] for t in timesteps])
    if late.any() and not late.all():
        splits.append(Split("window", late, ~late))
    return splits


def try_directions(
    means: ImageMeans,
    image_label: np.ndarray,
    folds: np.ndarray,
    num_steps: dict[int, int],
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Trial:
    """Scores of every method on held-out images and left-out cells.

    Args:
        image_label: int[images], 1 good, 0 bad, negative: left aside. folds: int[images].
    """
    cells, n = means.cells, len(image_label)
    splits = make_splits(cells, num_steps)
    used = (image_label >= 0) & means.present
    y = torch.from_numpy(np.where(image_label == 1, 1.0, -1.0))
    own = np.full((len(cells), n), np.nan, np.float32)
    transfer = np.full((len(cells), len(cells), n), np.nan, np.float32)
    kinds = dict.fromkeys(split.kind for split in splits)
    scores = {
        (kind, method): np.full((RANDOM_DRAWS if "random" in method else 1, len(cells), n), np.nan, np.float32)
        for kind in kinds
        for method in METHODS
        if method not in (("nearest",) if kind == "none" else RANDOM)
    }
    train_masks = torch.from_numpy(np.stack([split.train for split in splits])).double().to(device)

    def one(k: int) -> None:
        train, test = np.flatnonzero(used & (folds != k)), np.flatnonzero(used & (folds == k))
        if not len(test):
            return
        z = _features(means, train, seed, device)
        problem = _Problem.of(z, y.to(z.device), train)
        weights = problem.own()
        held = problem.centred(z[:, test])  # [cells, test images, d]
        own[:, test] = torch.einsum("cd,cnd->cn", weights, held).float().cpu().numpy()
        transfer[:, :, test] = torch.einsum("ad,cnd->acn", weights, held).float().cpu().numpy()
        unit = problem.difference / problem.difference.norm(dim=1, keepdim=True).clamp(min=TINY)
        shared = {"G1": [_singular(unit, train_masks, 1)]}
        for r in (1, 2, 3):
            shared[f"rank{r}"] = [problem.shared(weights, train_masks, r)]
        generator = torch.Generator().manual_seed(seed)
        for r in (1, 3):
            shared[f"random{r}"] = list(
                torch.randn(RANDOM_DRAWS, 1, z.shape[2], r, generator=generator, dtype=torch.float64).to(device)
            )
        for method, bases in shared.items():
            for i, basis in enumerate(bases):  # [splits, d, r]; random: one split, `none`
                readout = problem.gains(basis) @ basis.mT
                for s, split in enumerate(splits[: len(basis)]):
                    out = np.flatnonzero(split.held_out)
                    values = torch.einsum("cd,cnd->cn", readout[s, out], held[out]).float().cpu().numpy()
                    scores[split.kind, method][np.ix_(np.array([i]), out, test)] = values[None]
        for split in splits:
            if split.kind == "none":
                continue
            for c in np.flatnonzero(split.held_out).tolist():
                near = nearest(cells, c, split.train)
                scores[split.kind, "nearest"][0, c, test] = (held[c] @ weights[near]).float().cpu().numpy()

    # A thread a fold, each computing alone: shared out over threads, the small batched products and factorisations
    # here waited for each other for minutes.
    spread(one, np.unique(folds).tolist())
    return Trial(cells, own, scores, transfer)


def nearest(cells: Sequence[Cell], c: int, train: np.ndarray) -> int:
    """The training cell closest to cell c: fewest places away in block order plus in timestep order."""
    blocks, timesteps = list(dict.fromkeys(x.block for x in cells)), sorted({x.timestep for x in cells})
    here = cells[c]

    def distance(i: int) -> tuple[int, int]:
        there = cells[i]
        apart = abs(blocks.index(there.block) - blocks.index(here.block))
        return apart + abs(timesteps.index(there.timestep) - timesteps.index(here.timestep)), i

    return min(np.flatnonzero(train).tolist(), key=distance)


@dataclass(frozen=True)
class _Problem:
    """Ridge regressions of all cells on one set of training images, float64."""

    second: Tensor
    """[cells, d, d], balanced second moments plus the penalty."""
    difference: Tensor
    """[cells, d], half the difference of class means."""
    centre: Tensor
    """[cells, 1, d]"""

    @classmethod
    def of(cls, z: Tensor, y: Tensor, train: np.ndarray) -> "_Problem":
        x, target = z[:, train], y[train]
        good, bad = x[:, target > 0].mean(1), x[:, target < 0].mean(1)
        centre = ((good + bad) / 2)[:, None]
        weight = torch.where(target > 0, 0.5 / (target > 0).sum(), 0.5 / (target < 0).sum())
        x = x - centre
        second = torch.einsum("cnd,n,cne->cde", x, weight, x)
        d = second.shape[1]
        # Mean eigenvalue of the kernel, by image; a cell in which nothing varies has only zeros to fit.
        penalty = (second.diagonal(dim1=1, dim2=2).sum(1) / x.shape[1]).clamp(min=TINY)
        return cls(
            second + penalty[:, None, None] * torch.eye(d, dtype=z.dtype, device=z.device), (good - bad) / 2, centre
        )

    def centred(self, x: Tensor) -> Tensor:
        return x - self.centre

    def own(self) -> Tensor:
        """[cells, d]"""
        return _solve(self.second, self.difference)

    def bend(self, basis: Tensor) -> Tensor:
        """Second moments times shared weights: [cells, d, d], [splits, d, r] -> [splits, cells, d, r]."""
        splits, d, r = basis.shape
        flat = basis.permute(1, 0, 2).reshape(d, splits * r)
        return (self.second @ flat).view(-1, d, splits, r).permute(2, 0, 1, 3)

    def gains(self, basis: Tensor, bent: Tensor | None = None) -> Tensor:
        """Best gains [splits, cells, r] of every cell for shared weights [splits, d, r]."""
        bent = self.bend(basis) if bent is None else bent
        inner = basis.mT[:, None] @ bent
        inner = inner + _loading(inner)
        return _solve(inner, self.difference @ basis)

    def shared(self, own: Tensor, train: Tensor, rank: int) -> Tensor:
        """Shared weights [splits, d, rank] that minimise the loss over the training cells [splits, cells]."""
        basis = _singular(own, train, rank)
        cells, d = self.difference.shape
        for _ in range(SWEEPS):
            bent = self.bend(basis)
            gains = self.gains(basis, bent) * train[:, :, None]
            for a in range(rank):
                left = self.difference[None].expand(len(basis), -1, -1)
                for other in set(range(rank)) - {a}:
                    left = left - bent[..., other] * gains[:, :, other, None]
                mine = gains[:, :, a]
                matrix = (mine.square() @ self.second.reshape(cells, d * d)).view(-1, d, d)
                matrix = matrix + _loading(matrix)
                basis[:, :, a] = _solve(matrix, (mine[:, :, None] * left).sum(1))
                bent[..., a] = self.bend(basis[:, :, a : a + 1])[..., 0]
            basis = torch.linalg.qr(basis).Q
        return basis


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """matrix^-1 right, [..., d, d] positive definite, [..., d]. By Cholesky: with several threads the batched LU of
    torch 2.11 to 2.13 on a CPU returned invalid pivots for matrices of 200 channels."""
    return torch.cholesky_solve(right[..., None], torch.linalg.cholesky(matrix))[..., 0]


def _loading(matrix: Tensor) -> Tensor:
    """A little of the identity: a shared weight that no cell uses leaves a matrix of zeros."""
    mean = matrix.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    return (1e-9 * mean.abs() + TINY) * torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)


def _singular(rows: Tensor, train: Tensor, rank: int) -> Tensor:
    """Leading right singular vectors [splits, d, rank] of the training cells' rows [cells, d]."""
    return torch.linalg.svd(rows[None] * train[:, :, None], full_matrices=False).Vh[:, :rank].mT.contiguous()


def _features(means: ImageMeans, train: np.ndarray, seed: int, device: torch.device | str) -> Tensor:
    """float64[cells, images, d or WIDEST], standardised with the training images' tokens."""
    z = torch.stack([means.standardised(c, train).to(device) for c in range(len(means.cells))])
    if z.shape[2] > WIDEST:
        rows = z[:, train].reshape(-1, z.shape[2])
        z = z @ _leading(rows, min(WIDEST, len(rows)), seed)
    return z.double()


def _leading(rows: Tensor, count: int, seed: int) -> Tensor:
    """float32[d, count]: an orthonormal basis of where rows [n, d] vary most, by three rounds of subspace iteration."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(rows.shape[1], count, generator=generator).to(rows.device)
    for _ in range(3):
        basis = torch.linalg.qr(rows.T @ (rows @ torch.linalg.qr(basis).Q)).Q
    return basis

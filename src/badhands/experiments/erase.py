"""Erase a concept from activations, closed form: least squares concept erasure (LEACE; Belrose et al. 2023).

x' = x - W^+ U U' W (x - mean), with W = Cov(x)^(-1/2) and U an orthonormal basis of W Cov(x, z): the smallest change,
in units of the data's own spread, after which no linear probe can tell the classes z better than a constant.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from badhands.cells import Cell
from badhands.diffusion.moments import Moment
from badhands.diffusion.taps import Taps
from badhands.experiments.rows import Artist
from badhands.probes.artifact import Probes

Floats = NDArray[np.float64]
NOTHING = 1e-10
"""Eigenvalues below this share of the largest are no spread: nothing is erased, or amplified, there."""


@dataclass(frozen=True, eq=False)
class Whitening:
    """Mean and spread of a cell's tokens."""

    mean: Floats
    """[d]"""
    shrink: Floats
    """[d, d], W."""
    stretch: Floats
    """[d, d], the pseudoinverse of W."""

    @classmethod
    def of(cls, x: Floats, weight: Floats) -> "Whitening":
        """From rows float64[n, d] that count float64[n]."""
        weight = weight / weight.sum()
        mean = weight @ x
        centred = (x - mean) * np.sqrt(weight)[:, None]
        values, vectors = np.linalg.eigh(centred.T @ centred)
        alive = values > NOTHING * values.max()
        root, vectors = np.sqrt(values[alive]), vectors[:, alive]
        return cls(mean, (vectors / root) @ vectors.T, (vectors * root) @ vectors.T)

    def erasing(self, directions: Floats) -> "Eraser":
        """Of what lies along float64[r, d] (covariances with a concept, or draws from the within-class covariance)."""
        basis = np.linalg.svd(directions @ self.shrink, full_matrices=False)[2]
        return Eraser(self.mean.astype(np.float32), (basis @ self.shrink).astype(np.float32),
                      (basis @ self.stretch).astype(np.float32))  # fmt: skip


@dataclass(frozen=True, eq=False)
class Eraser:
    """x' = x - ((x - mean) @ read.T) @ write. NumPy arrays, so that other processes get them by value."""

    mean: NDArray[np.float32]
    """[d]"""
    read: NDArray[np.float32]
    """[r, d]"""
    write: NDArray[np.float32]
    """[r, d]"""

    def __call__(self, x: Tensor) -> Tensor:
        """[..., d] float32 of any device."""
        mean, read, write = (torch.from_numpy(part).to(x.device) for part in (self.mean, self.read, self.write))
        return x - ((x - mean) @ read.T) @ write


def leace(x: Floats, z: NDArray[np.bool_], weight: Floats) -> tuple[Whitening, Eraser]:
    """The eraser of a two-valued concept bool[n] from rows float64[n, d] that count float64[n].

    Raises:
        ValueError: one class only.
    """
    if z.all() or not z.any():
        raise ValueError("only one class is there: nothing can be erased")
    spread = Whitening.of(x, weight)
    share = weight / weight.sum()
    concept = z - share @ z
    return spread, spread.erasing(((share * concept) @ (x - spread.mean))[None])


@dataclass(frozen=True, eq=False)
class Erasure:
    """A treatment: erase at every step; between trained steps the eraser of the nearest trained sigma acts."""

    kind: str
    erasers: Mapping[Cell, Eraser]
    where: Literal["hand", "all"] = "hand"
    number: int | None = None

    @property
    def name(self) -> str:
        return self.kind if self.number is None else f"{self.kind} {self.number}"

    @property
    def strength(self) -> float:
        return 1.0

    @contextmanager
    def applied(self, artist: Artist) -> Iterator[list[float]]:
        erasing = _Erasing(artist.probes, self.erasers, self.where)
        blocks = sorted({cell.block for cell in self.erasers})
        with Taps(artist.scene.pipe, blocks, on_block=erasing):
            yield erasing.lengths


class _Erasing:
    """What the taps call."""

    def __init__(self, probes: Probes, erasers: Mapping[Cell, Eraser], where: str) -> None:
        self._probes, self._erasers, self._where = probes, erasers, where
        self.lengths: list[float] = []

    def __call__(self, moment: Moment, block: str, tokens: Tensor) -> Tensor | None:
        cell = Cell(block, nearest_step(self._probes, moment.sigma))
        if moment.branch or cell not in self._erasers:
            return None
        raw = tokens.float()
        at: Any = torch.ones(tokens.shape[:-1], dtype=torch.bool, device=tokens.device)
        if self._where == "hand":
            at = self._probes.p_hand(cell, tokens) >= 0.5
        change = torch.where(at[..., None], self._erasers[cell](raw) - raw, 0.0)
        if bool(at.any()):
            self.lengths.append(float((change.norm(dim=-1)[at] / raw.norm(dim=-1)[at]).mean()))
        return (raw + change).to(tokens.dtype)


def nearest_step(probes: Probes, sigma: float) -> int:
    """The trained timestep whose sigma is nearest."""
    return min(probes.steps, key=lambda timestep: abs(probes.steps[timestep][1] - sigma))

"""What to do while watching: stop images whose score is too low, finish the best of several, or push activations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from badhands.cells import Cell, in_order
from badhands.probes.artifact import Probes
from badhands.watch.directions import Direction, steering

if TYPE_CHECKING:
    from badhands.watch.frame import Frame


class Policy(Protocol):
    """Asked at its cells, and at the end of the steps they are in."""

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Cells of the training schedule that it acts on."""
        ...

    def change(self, cell: Cell, tokens: Tensor, hand: Tensor) -> Tensor | None:
        """What shall take the place of tokens [B, n, d], whose hand tokens are bool[B, n]; None: nothing."""
        ...

    def stop(self, frame: "Frame") -> set[int]:
        """Batch members to be drawn no further; asked at the end of steps in which `cells` were read."""
        ...


@dataclass(frozen=True)
class Abort:
    """Stop an image whose score at a cell is below the cell's threshold. Where no hand is found it goes on."""

    thresholds: Mapping[Cell, float]
    """Cell -> image score (mean good-logit over hand tokens); an image that scores below is stopped."""

    def __post_init__(self) -> None:
        if not self.thresholds:
            raise ValueError("policy=abort has no threshold: give policy.miss, and probes that have thresholds for it")

    @classmethod
    def of(cls, probes: Probes, cells: Sequence[Cell], miss: float | None) -> "Abort":
        """With the artefact's thresholds, from out-of-fold scores of good images.

        Args:
            cells: where to decide.
            miss: share of good images that may be stopped at each of them.

        Raises:
            ValueError: no miss rate, none with a threshold, or a cell without one.
        """
        if miss is None:
            raise ValueError("policy=abort needs its threshold: give policy.miss, e.g. 0.05 of the good images")
        found: dict[Cell, float] = {}
        for cell in cells:
            of = probes.thresholds.get(cell)
            if not of:
                have = ", ".join(str(c) for c in in_order(probes.thresholds)) or "none"
                raise ValueError(f"these probes have no threshold for {cell}: cells with one are {have}")
            if miss not in of:
                raise ValueError(f"policy.miss={miss}: thresholds were kept for {', '.join(str(k) for k in of)}")
            found[cell] = of[miss]
        return cls(found)

    @property
    def cells(self) -> tuple[Cell, ...]:
        return in_order(self.thresholds)

    def change(self, cell: Cell, tokens: Tensor, hand: Tensor) -> Tensor | None:
        return None

    def stop(self, frame: "Frame") -> set[int]:
        stopped: set[int] = set()
        for cell in frame.cells:
            if cell in self.thresholds:
                low = frame.score[cell.block] < self.thresholds[cell]  # nan (no hand found) is not below
                stopped |= {member for member, is_low in zip(frame.members, low, strict=True) if is_low}
        return stopped


@dataclass(frozen=True)
class Best:
    """Of the members of a batch finish those that score best at one cell. No score (no hand found) is the worst."""

    cell: Cell
    keep: int = 1

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"policy.keep={self.keep}: at least one picture has to be finished")

    @property
    def cells(self) -> tuple[Cell, ...]:
        return (self.cell,)

    def change(self, cell: Cell, tokens: Tensor, hand: Tensor) -> Tensor | None:
        return None

    def stop(self, frame: "Frame") -> set[int]:
        if self.cell not in frame.cells:
            return set()
        order = np.argsort(-np.nan_to_num(frame.score[self.cell.block], nan=-np.inf), kind="stable")
        return {frame.members[i] for i in order[self.keep :]}


@dataclass(frozen=True)
class Steer:
    """h <- h + strength * direction at chosen cells; by default mean of good tokens - mean of bad tokens."""

    directions: Mapping[Cell, Tensor]
    """Cell -> [d] float32."""
    strength: float
    where: Literal["hand", "all"] = "hand"
    """Tokens that the hand head calls hand, or all image tokens."""
    lengths: dict[Cell, list[float]] = field(default_factory=dict, compare=False)
    """Cell -> |delta| / |h|, mean over the tokens that were pushed, one a generation. nan: there was none."""

    def __post_init__(self) -> None:
        if not self.directions:
            raise ValueError("policy=steer has no cells: give policy.blocks and policy.timesteps")
        if self.where not in ("hand", "all"):
            raise ValueError(f"policy.where={self.where}: use hand or all")
        if not torch.isfinite(torch.tensor(self.strength)):
            raise ValueError(f"policy.strength={self.strength}: give a number, e.g. 1.0")

    @classmethod
    def of(
        cls, probes: Probes, cells: Sequence[Cell], strength: float, where: Literal["hand", "all"] = "hand",
        random: int | None = None, kind: Direction = "mean",
    ) -> "Steer":  # fmt: skip
        """Along directions of the artefact: see `directions.steering`, which also says what is refused."""
        return cls({cell: steering(probes, cell, kind, random) for cell in cells}, float(strength), where)

    @property
    def cells(self) -> tuple[Cell, ...]:
        return in_order(self.directions)

    def change(self, cell: Cell, tokens: Tensor, hand: Tensor) -> Tensor | None:
        direction = self.directions.get(cell)
        if direction is None:
            return None
        push = self.strength * direction.to(tokens.device)
        at = hand if self.where == "hand" else torch.ones_like(hand)
        norm = tokens.float().norm(dim=-1)
        self.lengths.setdefault(cell, []).append((push.norm() / norm[at]).mean().item())
        changed = tokens + push.to(tokens.dtype)
        return torch.where(at[..., None], changed, tokens)

    def stop(self, frame: "Frame") -> set[int]:
        return set()

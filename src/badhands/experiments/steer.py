"""only=steer: does pushing activations towards good make better hands? The same pairs for every push.

A direction is said to have an effect only if the response to the strength is monotone, the opposite sign does the
opposite, the paired test holds, and it does more than random directions of the same length drawn from the within-class
covariance. The mean difference is the question asked; ridge and subspace are looks beside it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from badhands.cells import Cell
from badhands.experiments.bench import Bench
from badhands.experiments.rows import Artist
from badhands.experiments.training_run import best_each_step
from badhands.experiments.treated import DrawTreated, effects, p_against, paired_p
from badhands.experiments.treated_figures import draw_doses
from badhands.watch.directions import Direction, steering
from badhands.watch.policies import Steer
from badhands.watch.watcher import watch

RANDOM = "random"


@dataclass(frozen=True)
class SteerStudy:
    """How large, and where to push."""

    pairs: int = 128
    strengths: tuple[float, ...] = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)
    directions: tuple[Direction, ...] = ("mean", "ridge", "subspace")
    random: int = 20
    cells: tuple[str, ...] | None = None
    """None: at every trained timestep where the run knows the verdict, its best cell there."""
    where: Literal["hand", "all"] = "hand"

    def __post_init__(self) -> None:
        if self.pairs < 8 or self.random < 1:
            raise ValueError("steer needs steer.pairs >= 8 and steer.random >= 1 (100 and 20 for evidence)")
        if not {-1.0, 0.0, 1.0} <= {float(a) for a in self.strengths}:
            raise ValueError("steer.strengths must hold -1, 0 and 1: the opposite sign, the identity, the push")
        if not self.directions or not set(self.directions) <= set(get_args(Direction)):
            raise ValueError(f"steer.directions={list(self.directions)}: use some of {', '.join(get_args(Direction))}")
        for cell in self.cells or ():
            Cell.parse(cell)

    def at(self, bench: Bench) -> tuple[Cell, ...]:
        """Where to push. Raises as `TrainingRun.known_cells` and `steering`."""
        known = tuple(Cell.parse(cell) for cell in self.cells) if self.cells else bench.run.known_cells()
        cells = known if self.cells else best_each_step(known, bench.probes.card.get("scores") or {})
        for cell in cells:
            for kind in self.directions:
                steering(bench.probes, cell, kind)
            steering(bench.probes, cell, random=self.random - 1)
        return cells

    def pushes(self, cells: tuple[Cell, ...]) -> list["Push"]:
        """The identity once, every direction at every other strength, and the random ones at 1."""
        doses = [a for a in sorted(map(float, self.strengths)) if a]
        pushes = [Push(self.directions[0], 0.0, cells, self.where)]
        pushes += [Push(kind, dose, cells, self.where) for kind in self.directions for dose in doses]
        return pushes + [Push(RANDOM, 1.0, cells, self.where, number) for number in range(self.random)]


@dataclass(frozen=True)
class Push:
    """One way to steer."""

    kind: str
    strength: float
    cells: tuple[Cell, ...]
    where: Literal["hand", "all"]
    number: int | None = None
    """Of the random direction."""

    @property
    def name(self) -> str:
        return f"{self.kind} {self.strength:+g}" if self.number is None else f"{self.kind} {self.number}"

    @contextmanager
    def applied(self, artist: Artist) -> Iterator[list[float]]:
        kind: Any = self.kind if self.number is None else "mean"
        policy = Steer.of(artist.probes, self.cells, self.strength, self.where, self.number, kind)
        blocks, lengths = sorted({cell.block for cell in self.cells}), list[float]()
        with watch(artist.scene.pipe, artist.probes, policy, blocks=blocks, previews=False):
            yield lengths
        lengths += [x for of in policy.lengths.values() for x in of]


def run_steer(bench: Bench, study: SteerStudy) -> str:
    """Draw, judge, test; writes steer.jsonl, steer.csv, steer.png.

    Raises:
        ValueError: no cell to push at, too few random directions, a folder with other pushes.
    """
    cells = study.at(bench)
    pushes, pairs = study.pushes(cells), bench.pairs(study.pairs, 2)
    made_with = {"cells": [str(cell) for cell in cells], "pushes": [push.name for push in pushes], "where": study.where}
    rows = bench.fill("steer", pairs, DrawTreated(pushes), made_with, "pushed pairs", each=1 + len(pushes))
    frame = pd.DataFrame(rows)
    table = effects(frame)
    random = table.loc[table["kind"] == RANDOM, "shift"].to_numpy(float)
    asked = (table["kind"] != RANDOM) & (table["strength"] == 1)
    table["p_random"] = [p_against(s, random) if a else np.nan for s, a in zip(table["shift"], asked, strict=True)]
    found = {kind: verdict(frame, table, kind, study.directions[0]) for kind in study.directions}
    table["effect"] = [("no", "yes")[found[kind]["effect"]] if kind in found else "" for kind in table["kind"]]
    bench.write("steer", table)
    draw_doses(table, bench.folder / "steer.png")
    same = table.loc[table["strength"] == 0, "all_equal"].all()
    matched = ", ".join(bench.run.matched()) or "nothing that is known"
    return "\n".join([
        "Strength 0 gives the identical pictures." if same else "STRENGTH 0 CHANGED PICTURES: a fault.",
        *(tell(kind, found[kind]) for kind in study.directions),
        f"Pushed at {', '.join(map(str, cells))}, {study.where} tokens; directions of a study matched on {matched}.",
    ])  # fmt: skip


def of_kind(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The doses of one direction in order, the identity among them."""
    return table[(table["kind"] == kind) | (table["strength"] == 0)].sort_values("strength")


def verdict(rows: pd.DataFrame, table: pd.DataFrame, kind: str, asked: str) -> dict[str, Any]:
    """The four questions for one direction: monotone, opposite, more than random, and the paired test.

    Args:
        asked: the direction that the study asks about; one of the others is no more than a look.
    """
    doses = of_kind(table, kind)
    own = rows[(rows["kind"] == kind) | ((rows["strength"] == 0) & (rows["treatment"] != "plain"))]
    slopes = [
        float(part["strength"].corr(part["logit"], method="spearman")) if part["logit"].nunique() > 1 else 0.0
        for _, part in own.groupby("seed")
    ]
    push, pull = (doses[doses["strength"] == a].iloc[0] for a in (1.0, -1.0))
    found: dict[str, Any] = {
        "monotone": bool(np.all(np.diff(doses["shift"]) >= 0)),
        "rank_correlation": float(np.mean(slopes)), "rank_correlation_p": paired_p(np.array(slopes)),
        "opposite": bool(push["shift"] > 0 > pull["shift"]),
        "p_random": float(push["p_random"]), "random": int((table["kind"] == RANDOM).sum()),
        "paired_p": float(push["wilcoxon_p"]), "push": push, "asked": kind == asked,
    }  # fmt: skip
    found["effect"] = bool(
        found["monotone"] and found["opposite"] and found["p_random"] <= 0.05 and found["paired_p"] <= 0.05
    )
    return found


def tell(kind: str, found: dict[str, Any]) -> str:
    """The result of one direction in words."""
    push = found["push"]
    held = "has the wanted effect by all four criteria" if found["effect"] else "is NOT shown to make better hands"
    answers = {name: "yes" if found[name] else "no" for name in ("monotone", "opposite")}
    return (
        f"{kind}{'' if found['asked'] else ' (a look beside)'} {held}: at +1 the judge's logit moves "
        f"{push['shift']:+.3f} [{push['shift_lo']:+.3f}, {push['shift_hi']:+.3f}], good {push['good_share']:.0%} "
        f"(plain {push['plain_good_share']:.0%}), n = {push['n']}; monotone {answers['monotone']}, opposite "
        f"{answers['opposite']}, paired p = {found['paired_p']:.3g}, against {found['random']} random directions "
        f"p = {found['p_random']:.3f}."
    )

"""The experiments by name: `python -m badhands.experiments only=<name>`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from badhands.experiments.ablation import AblationStudy, run_ablation
from badhands.experiments.abort import abort_table, miss_curve, oracle_curve
from badhands.experiments.bench import Bench
from badhands.experiments.best import best_table
from badhands.experiments.figures import draw_abort, draw_best
from badhands.experiments.fresh_table import FreshImages
from badhands.experiments.reliability import run_reliability
from badhands.experiments.repair import RepairStudy, run_repair
from badhands.experiments.steer import SteerStudy, run_steer

__all__ = ["EXPERIMENTS", "Bench", "Experiment"]


@dataclass(frozen=True)
class Experiment:
    """One question."""

    key: str
    """Of its settings in conf/experiments.yaml."""
    settings: type
    """Frozen dataclass of them."""
    run: Callable[[Bench, Any], str]
    """Writes tables and figures; returns what to print."""


def abort(bench: Bench, settings: FreshImages) -> str:
    """abort.csv, abort_misses.csv, abort_oracle.csv, abort.png."""
    table = bench.fresh(settings)
    rules, misses, oracle = abort_table(table, bench.probes), miss_curve(table, bench.probes), oracle_curve(table)
    for name, of in (("abort", rules), ("abort_misses", misses), ("abort_oracle", oracle)):
        bench.write(name, of)
    draw_abort(rules, misses, oracle, bench.folder / "abort.png")
    return _told(rules, "method", "ratio", "of plain reseeding's evaluations per good hand")


def best(bench: Bench, settings: FreshImages) -> str:
    """best.csv, best.png."""
    table = best_table(bench.fresh(settings), bench.probes)
    bench.write("best", table)
    draw_best(table, bench.folder / "best.png")
    own = table[(table["scorer"] == "probe") & (table["n"] == 4)]
    return _told(own.assign(method="best of 4 after " + own["after"].astype(str)), "method", "not_good",
                 "of the rate that is not good")  # fmt: skip


def _told(rows: pd.DataFrame, label: str, value: str, what: str) -> str:
    return "\n".join(
        f"{row[label]}: {row[value]:.3f} [{row[f'{value}_lo']:.3f}, {row[f'{value}_hi']:.3f}] {what}"
        for row in rows.to_dict("records")
    )


EXPERIMENTS = {
    "reliability": Experiment("fresh", FreshImages, run_reliability),
    "abort": Experiment("fresh", FreshImages, abort),
    "best": Experiment("fresh", FreshImages, best),
    "repair": Experiment("repair", RepairStudy, run_repair),
    "steer": Experiment("steer", SteerStudy, run_steer),
    "ablation": Experiment("ablation", AblationStudy, run_ablation),
}

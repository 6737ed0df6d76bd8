"""study=abort: what does a good hand cost if bad ones are stopped early? On fresh prompts and seeds, judged at the end.

Rules whose thresholds come from the training study are reported on all images. Rules that are tuned on fresh images are
tuned on every other image and reported on the rest.
"""

import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from badhands.cells import Cell
from badhands.diffusion.models import ModelSpec
from badhands.diffusion.scene import Pair, Scene
from badhands.experiments.abort_costs import Cost, Rule, by_group, cost, draws, tune
from badhands.experiments.abort_figure import draw_costs
from badhands.experiments.abort_table import NAME, fill_table
from badhands.experiments.referee import made_with, referee
from badhands.probes.artifact import Probes
from badhands.watch.fitting import early_timesteps, ranked_blocks
from badhands.watch.fresh import fresh_pairs
from badhands.watch.policies import Abort
from badhands.watch.reseed import reseed

MISS = 0.05
"""The stated target: at most this share of good hands is lost. Fixed before any fresh image was drawn."""


@dataclass(frozen=True)
class AbortStudy:
    """How large."""

    images: int = 1000
    live: int = 100
    bootstraps: int = 2000

    def __post_init__(self) -> None:
        if self.images < 20 or self.live < 0 or self.bootstraps < 100:
            raise ValueError("abort_study needs images >= 20, live >= 0 and bootstraps >= 100")

    def run(
        self, spec: ModelSpec, probes: Probes, source: str, folder: Path, *, known: Collection[str] = (),
        pipe: Any = None, judge: Any = None,
    ) -> str:  # fmt: skip
        """Draw, judge, compute; writes images.jsonl, costs.csv, all_rules.csv, auroc.csv, live.csv, costs.png.

        Args:
            source, known: see `fresh_pairs`.

        Raises:
            ValueError: no judge for this size, no thresholds, a folder with other images.
        """
        judge = judge or referee(spec)
        primary = Abort.of(probes, [Cell(ranked_blocks(probes)[0], early_timesteps(probes)[-1])], MISS)
        pairs = fresh_pairs(source, self.images, known=known)
        scene = Scene(spec, [pair.prompt for pair in pairs], pipe)
        rows = fill_table(folder / NAME, pairs, scene, probes, judge, made_with(spec, probes, pairs, source))
        table = Table.of(rows)
        if not table.good.any() or table.good.all():
            raise ValueError(f"{int(table.good.sum())} of {len(rows)} images are good hands: nothing can be compared")
        weights = draws(len(rows), self.bootstraps)
        main, every = self.tables(table, probes, primary, weights)
        main.to_csv(folder / "costs.csv", index=False)
        every.to_csv(folder / "all_rules.csv", index=False)
        table.auroc(probes).to_csv(folder / "auroc.csv", index=False)
        draw_costs(main, every, primary.cells[0].block, folder / "costs.png")
        if self.live:
            self.go_live(pairs[: self.live], scene, probes, primary, table).to_csv(folder / "live.csv", index=False)
        text = tell(main, folder)
        (folder / "report.txt").write_text(text)
        return text

    def tables(
        self, table: "Table", probes: Probes, primary: Abort, weights: np.ndarray
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """(methods side by side, every cell at every kept threshold)."""
        n, steps = len(table.good), table.steps
        ((cell, threshold),) = primary.thresholds.items()
        last = min((c for c in probes.cells if c.block == cell.block), key=lambda c: c.timestep)
        never = Rule("plain reseeding", np.zeros(n), -np.inf, steps)
        perfect = Rule("judge on the finished image", np.where(table.good, 1.0, -1.0), 0.0, steps)
        lines = [
            _line(never, table, weights, "all"),
            _line(perfect, table, weights, "all"),
            _line(table.rule(cell, threshold, f"probe, miss {MISS:g}"), table, weights, "all"),
            _line(table.rule(last, probes.thresholds[last][MISS], "probe on the last step"), table, weights, "all"),
        ]
        tuning = np.arange(n) % 2 == 0
        test = table.at(~tuning)
        half = draws(int((~tuning).sum()), len(weights), seed=1)
        for name, candidates, signs in (
            ("probe, tuned", [table.rule(c, 0.0, str(c)) for c in table.scores], (1,)),
            ("x0-variance, tuned", [table.change_rule(t, f"x0_variance/t{t}") for t in table.changes], (1, -1)),
        ):
            if candidates:
                best = tune(table.good[tuning], [c.at(tuning) for c in candidates], steps, signs)
                whole = next(c for c in candidates if c.name == best.name)
                rule = Rule(f"{name}: {best.name}", whole.score[~tuning], best.threshold, best.after, best.sign)
                lines.append(_line(rule, test, half, "test half"))
        every = [
            {**_line(table.rule(c, value, str(c)), table, weights, "all"), "block": c.block, "timestep": c.timestep,
             "miss": miss}
            for c in table.scores for miss, value in probes.thresholds.get(c, {}).items()
        ]  # fmt: skip
        return pd.DataFrame(lines), pd.DataFrame(every)

    def go_live(self, pairs: list[Pair], scene: Scene, probes: Probes, policy: Abort, table: "Table") -> pd.DataFrame:
        """The policy at work on the first pairs, beside what the table says it does, and plain drawing timed."""
        ((cell, threshold),) = policy.thresholds.items()
        n = len(pairs)
        begin = time.perf_counter()
        for start in range(0, n, scene.spec.batch_size):
            scene.pictures(scene.latents(pairs[start : start + scene.spec.batch_size]))
        plain = time.perf_counter() - begin
        harvest = reseed(scene, probes, policy, pairs)
        rule = table.rule(cell, threshold, "").at(np.arange(n))
        predicted, stopped = rule.stops(), {pair.seed for pair, _ in harvest.stopped}
        live = np.array([pair.seed in stopped for pair in pairs])
        good = table.good[:n]
        return pd.DataFrame([{
            "images": n, "cell": str(cell), "threshold": threshold, "stopped": int(live.sum()),
            "stopped_by_the_table": int(predicted.sum()), "agree": float((live == predicted).mean()),
            "evaluations": harvest.evaluations,
            "evaluations_by_the_table": int(np.where(predicted, rule.after, table.steps).sum()),
            "good_kept": int((good & ~live).sum()), "seconds": harvest.seconds,
            "plain_good": int(good.sum()), "plain_evaluations": n * table.steps, "plain_seconds": plain,
            "seconds_per_good": harvest.seconds / max(1, int((good & ~live).sum())),
            "plain_seconds_per_good": plain / max(1, int(good.sum())),
        }])  # fmt: skip


@dataclass(frozen=True)
class Table:
    """images.jsonl as arrays over images."""

    good: np.ndarray
    """bool[n]: the judge calls it good; bad, no hand and abstained are all not good."""
    bad: np.ndarray
    scores: Mapping[Cell, np.ndarray]
    changes: Mapping[int, np.ndarray]
    """Timestep -> x0 variance so far, over hand tokens."""
    evaluations: Mapping[int, int]
    steps: int
    group: np.ndarray
    """Which way the prompt's hand points; one group for other prompts."""

    @classmethod
    def of(cls, rows: list[dict[str, Any]]) -> "Table":
        def column(name: str, key: str) -> np.ndarray:
            return np.array([np.nan if row[name].get(key) is None else row[name][key] for row in rows], float)

        verdict = np.array([row["verdict"] for row in rows])
        pointing = [str(row["prompt"]).partition(" pointing ")[2].partition(",")[0] for row in rows]
        return cls(
            verdict == "good", verdict == "bad",
            {Cell.parse(key): column("scores", key) for key in rows[0]["scores"]},
            {int(key): column("x0_change", key) for key in rows[0]["x0_change"]},
            {int(key): int(value) for key, value in rows[0]["evaluations"].items()},
            int(rows[0]["num_steps"]), np.array(pointing),
        )  # fmt: skip

    def at(self, images: np.ndarray) -> "Table":
        return Table(
            self.good[images], self.bad[images], {c: s[images] for c, s in self.scores.items()},
            {t: s[images] for t, s in self.changes.items()}, self.evaluations, self.steps, self.group[images],
        )  # fmt: skip

    def rule(self, cell: Cell, threshold: float, name: str) -> Rule:
        return Rule(name, self.scores[cell], threshold, self.evaluations[cell.timestep])

    def change_rule(self, timestep: int, name: str) -> Rule:
        return Rule(name, self.changes[timestep], 0.0, self.evaluations[timestep])

    def auroc(self, probes: Probes) -> pd.DataFrame:
        """Image AUROC on the fresh images, good against bad, beside the training study's out-of-fold value."""
        known = self.good | self.bad
        trained = probes.card.get("scores") or {}
        features = {str(c): (c.block, c.timestep, s) for c, s in self.scores.items()}
        features |= {f"x0_variance/t{t}": ("x0_variance", t, s) for t, s in self.changes.items()}
        lines = []
        for key, (block, timestep, score) in features.items():
            use = known & np.isfinite(score)
            if 0 < self.good[use].sum() < use.sum():
                lines.append({
                    "block": block, "timestep": timestep, "evaluations": self.evaluations[timestep],
                    "n": int(use.sum()), "no_hand_found": int((known & ~np.isfinite(score)).sum()),
                    "fresh_auroc": float(roc_auc_score(self.good[use], score[use])),
                    "out_of_fold_auroc": trained.get(key, {}).get("image_auroc"),
                })  # fmt: skip
        return pd.DataFrame(lines)


def _line(rule: Rule, table: Table, weights: np.ndarray, images: str) -> dict[str, Any]:
    found: Cost = cost(table.good, rule, table.steps, weights)
    line: dict[str, Any] = {"method": rule.name, "images": images, "evaluations_at_stop": rule.after,
                            "threshold": rule.threshold, **asdict(found)}  # fmt: skip
    if len(np.unique(table.group)) > 1:
        keys = ("every_direction_ratio", "every_direction_lo", "every_direction_hi")
        line |= dict(zip(keys, by_group(table.good, rule, table.steps, table.group, weights), strict=True))
    return line


def tell(main: pd.DataFrame, folder: Path) -> str:
    """The table in words."""
    lines = []
    for row in main.to_dict("records"):
        each = row.get("every_direction_ratio", np.nan)
        lines.append(
            f"{row['method']} ({row['images']}, n = {row['n']}): {row['per_good']:.1f} evaluations per good hand "
            f"[{row['lo']:.1f}, {row['hi']:.1f}], {row['ratio']:.3f} [{row['ratio_lo']:.3f}, {row['ratio_hi']:.3f}] of "
            f"plain reseeding; stops {row['stopped_bad']:.0%} of what is not good and {row['stopped_good']:.0%} of the "
            f"good; {row['good_share']:.0%} of what it delivers is good"
        )
        if np.isfinite(each):
            interval = f"[{row['every_direction_lo']:.3f}, {row['every_direction_hi']:.3f}]"
            lines[-1] += f"; one of every direction that has any: {each:.3f} {interval}"
    return "\n".join([*lines, f"Tables and figure: {folder}"]) + "\n"

"""The second pass over a cell's tokens, for what moments cannot say: held-out scores, kurtosis, PCA."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from badhands.cells import Cell
from badhands.measures.contrasts import HAND, Contrast
from badhands.measures.directions import expected_gap, participation_ratio
from badhands.measures.gaussianity import excess_kurtosis, score_kurtosis
from badhands.measures.image_scores import REFITS
from badhands.measures.nulls import LeftOut, labellings
from badhands.measures.plan import Plan
from badhands.measures.projections import leading_beside, principal
from badhands.measures.reduced import distances_of, full_distances, outer_sums
from badhands.measures.scores import Rules, held_out, mass_mean, qda, training_sides
from badhands.measures.separation import bayes_error_bounds
from badhands.measures.settings import MeasureConfig
from badhands.measures.sides import CellSums, observed
from badhands.stats.design import p_value
from badhands.stats.intervals import jackknife_variance, quadratic_interval
from badhands.stats.long_table import LongTable
from badhands.stats.threads import blocks
from badhands.study.activations import ActivationCache

BLOCK = 128
"""Tokens centred at once on a CPU."""
RULES = {"mass_mean": mass_mean, "qda": qda}


@dataclass(eq=False)
class TokenPass:
    """Reads a cell when it is asked to; memory is bounded by `config.max_tokens` rows of each cell in work."""

    cache: ActivationCache
    plan: Plan
    config: MeasureConfig
    table: LongTable
    pca: LongTable
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    points: dict[Cell, pd.DataFrame] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tokens = self.cache.tokens
        counted = np.flatnonzero(self.plan.groups.of_token >= 0)
        rng = np.random.default_rng([self.config.seed, 4])
        share = min(1.0, self.config.max_tokens / len(counted))
        place = rng.permutation(len(counted))
        group = self.plan.groups.of_token[counted]
        order = np.lexsort((place, group))
        rank = np.empty(len(counted), int)
        starts = np.cumsum(self.plan.groups.n) - self.plan.groups.n
        rank[order] = np.arange(len(counted)) - starts[group[order]]
        keep = rank < np.maximum(2, np.ceil(share * self.plan.groups.n[group]))
        rows = counted[keep]
        is_hand = np.isin(tokens.label[rows], HAND)
        self.rows = np.concatenate([rows[is_hand], rows[~is_hand]])
        """int[n], rows of the token table in use: the same share of every image, hand tokens first."""
        self.hands = int(is_hand.sum())
        self.row_of = {c.name: c.rows_of_tokens(self.plan.groups.of_token)[self.rows] for c in self.plan.contrasts}
        self.shown = self._points(rng)
        main, design = self.plan.main, self.plan.design
        self._permuted = labellings(main, design)[:REFITS]
        self._one_less = LeftOut.of(main, design)

    def add(self, cell: Cell, sums: dict[str, CellSums], widening: float) -> None:
        """All rows of one cell. `sums` by contrast name; `widening` of `held_out`."""
        main = self.plan.main
        centre = np.zeros(self.cache.width(cell))
        centre[sums[main.name].varying_channels] = sums[main.name].mean
        x = self._read(cell, torch.from_numpy(centre).float().to(self.device))
        self._scores(cell, x, centre, sums, widening)
        row = torch.from_numpy(self.row_of[main.name][: self.hands]).to(self.device)
        self._kurtosis(cell, x[: self.hands], row, sums[main.name])
        self._projections(cell, x[: self.hands], row, sums[main.name])

    def bytes_of(self, cell: Cell) -> int:
        """What a cell in work holds: its tokens as they were stored and in float32."""
        return len(self.rows) * self.cache.width(cell) * (4 + self.cache.files[0].dtype(cell).itemsize)

    def _read(self, cell: Cell, centre: Tensor) -> Tensor:
        """float32[n, d], the centre taken off."""
        stored = self.cache.read(cell, self.rows).to(self.device)
        x = torch.empty(stored.shape, device=self.device)
        for at in blocks(x, BLOCK):
            torch.sub(stored[at].float(), centre, out=x[at])
        return x

    def _scores(self, cell: Cell, x: Tensor, centre: np.ndarray, sums: dict[str, CellSums], widening: float) -> None:
        rules, folds = [], self.plan.design.n_folds
        for contrast in self.plan.contrasts:
            fitted = training_sides(contrast, sums[contrast.name], self.plan.folds_of(contrast), folds)
            rules += [fit(fitted).on_raw(sums[contrast.name], centre) for fit in RULES.values()]
        every = Rules.joined(rules).scores(x).view(len(x), len(self.plan.contrasts), len(RULES), folds).cpu()
        for k, contrast in enumerate(self.plan.contrasts):
            used = np.flatnonzero(self.row_of[contrast.name] >= 0)
            row = self.row_of[contrast.name][used]
            fold = self.plan.folds_of(contrast)
            cluster = self.plan.design.clusters(contrast.images)
            for r, probe in enumerate(RULES):
                score = every[used, k, r, fold[contrast.image[row]]].double().numpy()
                found = held_out(contrast, score, row, fold, cluster, widening)
                self._held_out_rows(contrast, cell, probe, found)
                if probe == "mass_mean":
                    about = {"probe": probe, "split": "held-out", **contrast.about}
                    self.table.add(cell, "kurtosis_scores", score_kurtosis(score, row), **about)

    def _held_out_rows(
        self, contrast: Contrast, cell: Cell, probe: str, found: dict[str, tuple[float, float, float]]
    ) -> None:
        about = {"probe": probe, "split": "held-out", **contrast.about}
        for metric, (value, low, high) in found.items():
            self.table.add(cell, metric, value, (low, high), **about)
        bounds = bayes_error_bounds(found["db_scores"][0])
        for metric, value in zip(("bayes_error_lower", "bayes_error_upper"), bounds, strict=True):
            self.table.add(cell, metric, value, **about)

    def _kurtosis(self, cell: Cell, x: Tensor, row: Tensor, sums: CellSums) -> None:
        varying, sd = (torch.from_numpy(values).to(self.device) for values in (sums.varying_channels, sums.sd))
        means = torch.zeros(len(sums.n), x.shape[1], device=self.device)
        means[:, varying] = sums.s / sums.n[:, None] * sd.float()
        values = excess_kurtosis(x, row, means)[varying].cpu().numpy()
        spread = np.quantile(values, [0.1, 0.9]) if len(values) else (np.nan, np.nan)
        middle = np.median(values) if len(values) else np.nan
        self.table.add(
            cell, "kurtosis_channels", middle, spread, probe="moments", split="in-sample", **self.plan.main.about
        )

    def _projections(self, cell: Cell, x: Tensor, row: Tensor, sums: CellSums) -> None:
        main, folds = self.plan.main, self.plan.design.n_folds
        centre = x.mean(0)
        for at in blocks(x, BLOCK):
            x[at].sub_(centre)
        found = principal(x, self.config.reduced, self.config.seed)
        for k in range(2):
            self._pca_row(cell, f"explained_{k + 1}", float(found.explained[k]))
        self._full_distance(cell, found.coordinates @ (found.basis.T @ found.components.T), row)

        fold = self.plan.folds_of(main)
        per_fold = training_sides(main, sums, fold, folds).gap
        everything = training_sides(main, sums, np.full(len(fold), -1), 1).gap
        v = torch.zeros(1 + folds, x.shape[1], device=self.device)
        varying, sd = (torch.from_numpy(values).to(self.device) for values in (sums.varying_channels, sums.sd))
        v[:, varying] = torch.cat([everything, per_fold]) * sd.float()
        v /= v.norm(dim=1, keepdim=True).clamp(min=1e-30)
        along = x @ v.T
        beside, y = leading_beside(found, v[0], along[:, 0])
        y_held = torch.empty_like(y)
        own = torch.from_numpy(fold[main.image]).to(self.device)[row].long()
        for f in range(folds):
            if bool((own == f).any()):
                y_held[own == f] = leading_beside(found, v[1 + f], along[:, 1 + f], toward=beside)[1][own == f]
        x_held = along.gather(1, own[:, None] + 1)[:, 0]
        of_row = row.cpu().numpy()
        for split, values in (("in-sample", along[:, 0]), ("held-out", x_held)):
            self._pca_row(cell, "gap_along_v", _gap(values.cpu().numpy(), of_row, main), split)
        chance = expected_gap(main, participation_ratio(main, sums, raw=True))
        self._pca_row(cell, "gap_along_v_chance", chance)
        columns = {"pc1": found.coordinates @ (found.basis.T @ found.components[0]),
                   "pc2": found.coordinates @ (found.basis.T @ found.components[1]),
                   "v": along[:, 0], "beside_v": y, "v_held_out": x_held, "beside_v_held_out": y_held}  # fmt: skip
        picked = {name: np.round(values.double().cpu().numpy()[self.shown], 5) for name, values in columns.items()}
        tokens, at = self.cache.tokens, self.rows[self.shown]
        self.points[cell] = pd.DataFrame(
            {"block": cell.block, "timestep": cell.timestep, "good": main.good[of_row[self.shown]],
             "kind": tokens.kind[at], "image": tokens.image[at], "token": tokens.token[at], **picked}
        )  # fmt: skip

    def _pca_row(self, cell: Cell, metric: str, value: float, split: str = "in-sample") -> None:
        self.pca.add(cell, metric, value, probe="moments", split=split, **self.plan.main.about)

    def _full_distance(self, cell: Cell, y: Tensor, row: Tensor) -> None:
        """Eq. 7 on leading components, with null and interval."""
        main = self.plan.main
        sums = outer_sums(y.cpu(), row.cpu(), len(main.good))
        as_it_is = observed(main)
        value = float(full_distances(sums, as_it_is, 1 - as_it_is)[0])
        null = full_distances(sums, self._permuted, 1 - self._permuted).numpy()
        one_less, each = self._one_less, range(len(self._one_less))
        on_good, on_bad = ([one_less.sums(part, side, each) for part in sums] for side in (True, False))
        variance = jackknife_variance(distances_of(on_good, on_bad).numpy(), one_less.role)
        corrected = value - float(null.mean())
        interval = quadratic_interval(corrected, float(variance), null)
        name = f"db_full{y.shape[1]}"
        for metric, number, ends, split in (
            ("plugin", value, (np.nan, np.nan), "in-sample"),
            ("null", null.mean(), np.quantile(null, [0.025, 0.975]), "permutation"),
            ("corrected", corrected, interval, "corrected"),
            ("p", float(p_value(value, null)), (np.nan, np.nan), "permutation"),
        ):
            self.table.add(cell, f"{name}_{metric}", number, ends, probe="moments", split=split, **main.about)

    def _points(self, rng: np.random.Generator) -> np.ndarray:
        """Positions within the hand tokens to draw: as many of each class, spread over the images, in mixed order."""
        row = self.row_of[self.plan.main.name][: self.hands]
        picked = []
        for side in (True, False):
            of_side = rng.permutation(np.flatnonzero(self.plan.main.good[row] == side))
            order = np.argsort(_rank_within(row[of_side]), kind="stable")
            picked.append(of_side[order][: self.config.points])
        return rng.permutation(np.concatenate(picked))


def _rank_within(group: np.ndarray) -> np.ndarray:
    """0, 1, 2 ... within each group, in the order given."""
    order = np.argsort(group, kind="stable")
    _, starts, sizes = np.unique(group[order], return_index=True, return_counts=True)
    rank = np.empty(len(group), int)
    rank[order] = np.arange(len(group)) - np.repeat(starts, sizes)
    return rank


def _gap(values: np.ndarray, row: np.ndarray, contrast: Contrast) -> float:
    """Distance of the class means of image means, in standard deviations of image means within a class."""
    count = np.bincount(row, minlength=len(contrast.good))
    used = count > 0
    means = np.bincount(row, values, minlength=len(count))[used] / count[used]
    good = contrast.good[used]
    within = np.concatenate([means[side] - means[side].mean() for side in (good, ~good)])
    degrees = max(len(within) - 2, 1)
    return float((means[good].mean() - means[~good].mean()) / (np.sqrt((within**2).sum() / degrees) + 1e-30))

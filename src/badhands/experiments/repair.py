"""only=repair: is a bad hand mended by drawing it again in its place, or is a new seed the better use of the steps?

Every pair is drawn once, redrawn in every region, from every step and several times, and reseeded; each picture is
scored and judged. What a rule would have done, and what it would have cost, is read from that table.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from badhands.diffusion.scene import Pair
from badhands.experiments.bench import Bench
from badhands.experiments.masks import mask_row, mask_table
from badhands.experiments.repair_figure import draw_repair
from badhands.experiments.repair_rules import Repairs, repair_table
from badhands.experiments.rows import Artist, Row, finish
from badhands.watch.region import grown
from badhands.watch.repaint import Canvas, Repair, paint, repaint

REGIONS = ("hand", "bad", "judge")
"""Whole hand and bad tokens by the probes; the place that the judge calls malformed, as only a referee knows it."""
RESEED = 10_000_000
"""Added to a pair's seed, times the number of the try."""
HUGE = 99.0
"""PSNR, dB, of two equal pictures."""


@dataclass(frozen=True)
class RepairStudy:
    """How large, how often, and from where on."""

    pairs: int = 128
    tries: int = 4
    redo: tuple[float, ...] = (0.25, 0.5, 0.75)
    """Shares of the steps that are drawn again."""

    def __post_init__(self) -> None:
        if self.pairs < 8 or not self.redo:
            raise ValueError("repair needs repair.pairs >= 8 (100 for evidence) and some repair.redo")
        for redo in self.redo:
            Repair(self.tries, redo)

    @property
    def reseeds(self) -> int:
        """New seeds that cost as much as the dearest repairs."""
        return max(1, round(self.tries * max(self.redo)))


@dataclass(frozen=True)
class DrawRepairs:
    """Rows of a batch: for every pair the plain picture, its reseeds, and its repairs."""

    tries: int
    redo: tuple[float, ...]
    reseeds: int

    @property
    def each(self) -> int:
        return 1 + self.reseeds + len(REGIONS) * len(self.redo) * self.tries

    def __call__(self, artist: Artist, batch: Sequence[Pair]) -> Iterator[Row]:
        scene, probes = artist.scene, artist.probes
        canvas = paint(scene, probes, batch)
        plain = _pictures(artist, canvas)
        places = artist.judge.places(plain)
        columns = [_rows(artist, canvas, plain, {"what": "plain", "redo": 1.0, "number": 0})]
        seconds = 0.0
        for number in range(self.reseeds):
            others = [Pair(pair.prompt, pair.seed + RESEED * (1 + number)) for pair in batch]
            begin = time.perf_counter()
            drawn = paint(scene, probes, others)
            finish(scene.pipe)
            seconds = (time.perf_counter() - begin) / len(batch) / canvas.steps  # of the last: all is warm by then
            columns.append(
                _rows(artist, drawn, _pictures(artist, drawn), {"what": "reseed", "redo": 1.0, "number": number})
            )
        columns[0] = [row | {"evaluation": seconds, "mask": mask_row(canvas, i, places[i])}
                      for i, row in enumerate(columns[0])]  # fmt: skip
        for what in REGIONS:
            region = _region(canvas, what, places)
            for redo in self.redo:
                for number in range(self.tries):
                    drawn = repaint(scene, probes, canvas, region, redo, number)
                    about = {"what": what, "redo": redo, "number": number}
                    columns.append(_rows(artist, drawn, _pictures(artist, drawn), about, plain, region))
        for pair, of_pair in zip(batch, zip(*columns, strict=True), strict=True):
            for row in of_pair:
                yield {"prompt": pair.prompt, "seed": pair.seed, **row}


def _region(canvas: Canvas, what: str, places: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool[B, rows, columns]. Where the judge sees nothing malformed, the whole hand."""
    if what != "judge":
        return canvas.region("hand" if what == "hand" else "bad")
    h, w = canvas.seen.grid
    inside: NDArray[np.bool_] = places.reshape(len(places), h, places.shape[1] // h, w, -1)
    tokens: Any = inside.any((2, 4))
    hand = canvas.region("hand")
    return np.stack([grown(one) if one.any() else hand[i] for i, one in enumerate(tokens)])


def _pictures(artist: Artist, canvas: Canvas) -> NDArray[np.uint8]:
    return np.stack([np.asarray(picture) for picture in artist.scene.pictures(canvas.latents)])


def _rows(
    artist: Artist, canvas: Canvas, pictures: NDArray[np.uint8], about: Row, plain: NDArray[np.uint8] | None = None,
    region: NDArray[np.bool_] | None = None,
) -> list[Row]:  # fmt: skip
    begin = time.perf_counter()
    verdicts = artist.judge.judge(pictures)
    judged = (time.perf_counter() - begin) / len(pictures)
    logits = artist.judge.logits(pictures)
    rows: list[Row] = []
    for i, verdict in enumerate(verdicts):
        row = {**about, "verdict": verdict.verdict, "logit": round(float(logits[i]), 5), "judge_seconds": judged,
               "score": _finite(canvas.score[i]), "p_bad": _finite(canvas.p_bad[i])}  # fmt: skip
        if plain is not None and region is not None:
            row |= {"tokens": int(region[i].sum()), "psnr": outside_psnr(plain[i], pictures[i], region[i])}
        rows.append(row)
    return rows


def outside_psnr(before: NDArray[np.uint8], after: NDArray[np.uint8], region: NDArray[np.bool_]) -> float | None:
    """dB between two pictures uint8[h, w, 3] outside bool[rows, columns] of tokens; None where nothing is outside."""
    scale = before.shape[0] // region.shape[0]
    outside = ~region.repeat(scale, 0).repeat(scale, 1)
    if not outside.any():
        return None
    error = float(((before.astype(float) - after)[outside] ** 2).mean())
    return HUGE if error == 0 else min(HUGE, float(10 * np.log10(255**2 / error)))


def _finite(value: Any) -> float | None:
    return round(float(value), 5) if np.isfinite(value) else None


def run_repair(bench: Bench, study: RepairStudy) -> str:
    """Draw, judge, compare; writes repair.jsonl, repair.csv, repair.png, mask.csv.

    Raises:
        ValueError: a pipeline that cannot begin in the middle, a folder with other repairs.
    """
    draw = DrawRepairs(study.tries, study.redo, study.reseeds)
    pairs = bench.pairs(study.pairs, 4)
    made_with = {"tries": study.tries, "redo": list(study.redo), "regions": list(REGIONS)}
    rows = bench.fill("repair", pairs, draw, made_with, "repaired pairs", each=draw.each)
    table = repair_table(Repairs.of(rows, bench.spec.steps, REGIONS))
    masks = mask_table([row for row in rows if row["what"] == "plain"])
    bench.write("repair", table)
    bench.write("mask", masks)
    draw_repair(table, bench.folder / "repair.png")
    shown = table[(table["chosen_by"] == "probe") & (table["redo"] == table["redo"].median())]
    return "\n".join(
        [f"{row['method']}: good {row['good_share']:.0%} (plain {row['plain_good_share']:.0%}), evaluations per good "
         f"hand / plain {row['ratio']:.3f} [{row['ratio_lo']:.3f}, {row['ratio_hi']:.3f}]"
         for row in shown.to_dict("records")]
        + [f"mask ({row['mask']}): IoU {row['iou']:.3f} [{row['iou_lo']:.3f}, {row['iou_hi']:.3f}] with the judge's "
           "malformed place" for row in masks.to_dict("records")]
    )  # fmt: skip

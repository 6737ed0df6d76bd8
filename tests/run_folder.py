"""A run folder with known tables, made without any model: what trackers, report and comparison read."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from badhands.cells import Cell, grid
from badhands.report.run import Run
from badhands.report.tracking import NoTracker, Tracker
from badhands.stats.family import Family

CELLS = grid(["double.0", "single.0", "single.1"], [20, 12, 3])
BEST = Cell("single.1", 12)


def write_run(folder: Path, probe: str = "logistic", group: str | None = None, images: int = 60, seed: int = 0,
              strength: float = 1.0, tracker: Tracker | None = None, **fields: object) -> Run:  # fmt: skip
    """A finished run: 60 images of 30 prompts, nine cells, the best `BEST`. A tracker is told of every stage."""
    tracker = tracker or NoTracker()
    rng = np.random.default_rng(seed)
    config = {
        "model": {"name": "tiny_clean"},
        "probe": {"kind": probe},
        "question": "Does it know?",
        "data": {"images": None},
    }
    choices = {"model": "tiny_clean", "capture": "post", "probe": probe}
    run = Run.begin(folder, config, name=f"tiny_clean post {probe}", group=group, tags=("tiny_clean", probe),
                    overrides=(f"probe={probe}",), choices=choices, **fields)  # fmt: skip
    tracker.begin(run)
    with run.stage("data"):
        _images(images).to_csv(folder / "tables" / "images.csv", index=False)
        for name in ("good", "bad"):
            Image.new("RGB", (40, 30), "#88aacc").save(folder / "figures" / f"sheet_{name}.png")
    tracker.log(run, "data")
    with run.stage("measures"):
        _distances().to_csv(folder / "tables" / "cells.csv", index=False)
        _headline(strength).to_csv(folder / "tables" / "headline.csv", index=False)
        _family(strength).save(folder / "family.npz")
        Image.new("RGB", (40, 30), "#ccaa88").save(folder / "figures" / "pca.png")
    tracker.log(run, "measures")
    with run.stage("probes"):
        _scores(probe, strength).to_csv(folder / "tables" / "scores.csv", index=False)
        _baselines().to_csv(folder / "tables" / "baselines.csv", index=False)
        _global().to_csv(folder / "tables" / "verdicts.csv", index=False)
        _write_probes(folder, images, rng, strength)
    tracker.log(run, "probes")
    with run.stage("watch"):
        (folder / "strips").mkdir()
        Image.new("RGB", (60, 20), "#333333").save(folder / "strips" / "00_seed7_bad.png")
    tracker.log(run, "watch")
    run.finished = True
    run.write()
    return run


def auroc_of(cell: Cell, strength: float = 1.0) -> float:
    return 0.9 * min(strength, 1.0) if cell == BEST else 0.6 + 0.02 * CELLS.index(cell) / len(CELLS)


def _rows(metric: str, value, split: str, interval: float = 0.05, **more: object) -> list[dict]:
    made = []
    for cell in CELLS:
        v = value(cell)
        step, sigma = 20 - cell.timestep, cell.timestep / 20
        made.append({**more, "block": cell.block, "timestep": cell.timestep, "step": step, "sigma": sigma,
                     "metric": metric,
                     "split": split, "n": 60, "value": v, "lo": v - interval, "hi": v + interval})  # fmt: skip
    return made


def _images(n: int) -> pd.DataFrame:
    bad = np.arange(n) % 2 == 1
    return pd.DataFrame({
        "image": [f"i{k:03d}" for k in range(n)], "seed": range(n),
        "prompt": [f"a hand, number {k // 2} <b>" for k in range(n)],
        "class": np.where(bad, "bad", "good"), "kind": np.where(bad, "local", ""), "good_tokens": np.where(bad, 0, 20),
        "bad_tokens": np.where(bad, 22, 0), "not_hand_tokens": 30, "annotator": "judge",
    })  # fmt: skip


def _distances() -> pd.DataFrame:
    def peak(cell: Cell) -> float:
        return 1.4 if cell == BEST else 0.3

    more = {"comparison": "good_vs_bad", "n_good": 30, "n_bad": 30, "n_tokens": 1260, "probe": "moments"}
    rows = _rows("db_plugin", lambda c: peak(c) + 2, "in-sample", **more)
    rows += _rows("db_corrected", peak, "corrected", interval=0.2, **more)
    rows += _rows("db_null", lambda c: 2.0, "permutation", **more)
    rows += _rows("db_p", lambda c: 0.01, "permutation", **more)
    rows += _rows("db_p_max", lambda c: 0.02, "permutation", **more)
    rows += _rows("v_resolved_raw", lambda c: float(c.block != "double.0"), "corrected", **more)
    other = [{**row, "comparison": "not_hand", "value": -9.0} for row in rows]
    return pd.DataFrame(other + rows)


def _scores(probe: str, strength: float) -> pd.DataFrame:
    plain = {"head": "good", "control": "none", "probe": probe}
    rows = _rows("image_auroc", lambda c: auroc_of(c, strength), "out_of_fold", **plain)
    rows += [{**row, "head": "hand", "value": 0.99} for row in rows[:9]]
    return pd.DataFrame(rows)


def _headline(strength: float) -> pd.DataFrame:
    rows = _rows("auroc", lambda c: auroc_of(c, strength), "out_of_fold", probe="ridge")
    rows += _rows("auroc_p_family", lambda c: 0.01 if c == BEST else 0.5, "permutation", probe="ridge")
    return pd.DataFrame(rows)


def _family(strength: float) -> Family:
    """The best cell passes where the run is not a null."""
    null = np.random.default_rng(0).normal(size=(200, len(CELLS)))
    high = 9.0 if strength > 0.5 else 0.0
    family = Family()
    for group in ("auroc", "db_good_vs_bad"):
        family.add(group, [str(c) for c in CELLS], np.array([high if c == BEST else 0.0 for c in CELLS]), null)
    return family


def _baselines() -> pd.DataFrame:
    rows = _rows("auroc", lambda c: 0.58, "out_of_fold", probe="ridge")[:3]
    return pd.DataFrame([{**row, "control": "x0", "title": "predicted clean latent x0", "block": "x0"} for row in rows])


def _global() -> pd.DataFrame:
    losses = (("to_rank3:block", 0.04), ("to_own:block", 0.01), ("to_own:window", 0.03))
    return pd.DataFrame([
        {"verdict": "one_direction", "what": what, "value": v, "lo": v - 0.02, "hi": v + 0.02} for what, v in losses
    ])  # fmt: skip


def _write_probes(folder: Path, images: int, rng: np.random.Generator, strength: float) -> None:
    (folder / "probes").mkdir()
    (folder / "probes" / "card.json").write_text('{"model": "tiny_clean", "width": 128, "cells": ["single.1/t12"]}')
    (folder / "probes" / "probes.safetensors").write_bytes(b"weights")
    bad = np.arange(images) % 2 == 1
    score = rng.normal(size=(len(CELLS), 1, images)) + strength * ~bad
    np.savez(
        folder / "oof.npz", images=[f"i{k:03d}" for k in range(images)], bad=bad,
        group=[f"p{k // 2}" for k in range(images)],
        fold=np.arange(images)[None] // 2 % 5, cells=[str(c) for c in CELLS], score=score, widening=1.3,
    )  # fmt: skip

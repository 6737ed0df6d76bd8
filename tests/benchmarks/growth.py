"""How time and memory of train.py's stages grow with images, tokens, channels and cells.

    python tests/benchmarks/growth.py [--axes images,cells] [--folder FOLDER] [--figure docs/figures/growth.png]
    python tests/benchmarks/growth.py --axes cells --rows FILE     an axis a core; the last with --figure draws all rows

Synthetic studies (`full_study.py`), one quantity changed at a time; every size in a process of its own, on one thread,
so that processor time is the work. Printed: seconds and peak memory of each size, and the exponents that straight lines
through the logarithms give; memory is what comes on top of the smallest study's. Opening is tried up to 20,000 images.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "benchmarks")]

from full_study import BLOCKS, Size, write_study  # noqa: E402

BASE = Size(60, 12, 4, 128, BLOCKS[:3], (20, 12, 3), side=16, previews=0)
BLOCKS_OF_FLUX = (*(f"double.{i}" for i in range(19)), *(f"single.{i}" for i in range(38)))
AXES: dict[str, list[tuple[int, Size]]] = {
    "images": [(n, replace(BASE, images=n)) for n in (50, 150, 500, 1500, 5000)],
    "tokens": [(60 * n, replace(BASE, hand=n)) for n in (10, 30, 100, 240)],
    "channels": [(d, replace(BASE, width=d)) for d in (128, 384, 1024, 3072)],
    "cells": [
        (b * t, replace(BASE, blocks=BLOCKS_OF_FLUX[:b], timesteps=tuple(range(t, 0, -1))))
        for b, t in ((3, 3), (6, 10), (15, 20), (57, 20))
    ],
}
"""Name -> (size on the axis, the study)."""
OPENED = (200, 2000, 20_000)


def run_stages(root: Path, size: Size) -> dict[str, float]:
    """Processor seconds of each stage, and peak memory in GB; in this process."""
    import torch

    from badhands.measures.settings import MeasureConfig
    from badhands.measures.stage import measure
    from badhands.probes.settings import ProbeSettings
    from badhands.probes.stage import fit_probes
    from badhands.study.choice import LabelChoice, read_choice
    from badhands.study.selection import Selection, design_of, select
    from badhands.study.study import Study

    torch.set_num_threads(1)
    seconds: dict[str, float] = {"start": peak()}
    begin = time.process_time()
    study = Study(root)
    choice = read_choice(root, LabelChoice("judge", "judge"))
    assert not study.relabelled(choice)
    cache = select(study.activations(None, choice), Selection(size.blocks, size.timesteps))
    seconds["open"] = time.process_time() - begin
    with tempfile.TemporaryDirectory() as folder:
        begin = time.process_time()
        design = design_of(cache)
        measure(cache, folder, MeasureConfig(), design=design)
        seconds["measures"] = time.process_time() - begin
        begin = time.process_time()
        fit_probes(cache, folder, ProbeSettings(), design=design)
        seconds["probes"] = time.process_time() - begin
    return {**seconds, "peak": peak()}


def peak() -> float:
    """GB of resident memory at the highest so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measured(folder: Path, size: Size) -> dict[str, float]:
    """One study, made here and run in a process of its own."""
    root = folder / "study"
    without_disk(lambda: write_study(root, size))
    command = [sys.executable, __file__, "--child", str(root), json.dumps(asdict(size))]
    done = subprocess.run(command, capture_output=True, text=True, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def without_disk(work: Callable[[], object]) -> None:
    """A study that is thrown away need not be safe on disk."""
    fsync, os.fsync = os.fsync, lambda handle: None
    try:
        work()
    finally:
        os.fsync = fsync


def opening(folder: Path, images: int) -> dict[str, float]:
    """Seconds until a study's images and labels are known: as the labelling page and train.py begin."""
    from badhands.study.study import Study

    root = folder / f"open_{images}"
    without_disk(lambda: write_study(root, replace(BASE, images=10)))
    for name in ("manifest.jsonl", "labels.jsonl"):
        lines = (root / name).read_text().splitlines()
        old = json.loads(lines[0])["id" if name == "manifest.jsonl" else "image_id"]
        (root / name).write_text("".join(lines[0].replace(old, f"more-{i:06d}") + "\n" for i in range(images)))
    begin = time.perf_counter()
    study = Study(root)
    entries = study.manifest.by_id
    known = time.perf_counter() - begin
    index = study.labels.lines()
    lines = time.perf_counter() - begin
    labels = study.labels.latest()
    assert len(entries) == len(index) == len(labels) == images
    return {
        "images known": known,
        "and where each label stands": lines,
        "and every label read": time.perf_counter() - begin,
    }


def exponent(sizes: list[int], values: list[float]) -> float:
    """Slope of a straight line through the logarithms of the largest three sizes: fixed costs flatten the smallest."""
    x, y = np.log(sizes[-3:]), np.log(np.maximum(values[-3:], 1e-9))
    return float(np.polyfit(x, y, 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", default=",".join(AXES))
    parser.add_argument("--sizes", type=int, default=None, help="only so many of each, the smallest first")
    parser.add_argument("--folder", type=Path, default=None, help="for the studies, which are removed")
    parser.add_argument("--figure", type=Path, default=None)
    parser.add_argument("--rows", type=Path, default=None, help="a file of lines that several calls may share")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        fields = json.loads(options.child[1])
        size = Size(**{**fields, "blocks": tuple(fields["blocks"]), "timesteps": tuple(fields["timesteps"])})
        print(json.dumps(run_stages(Path(options.child[0]), size)))
        return
    found: dict[str, dict[int, dict[str, float]]] = {}
    for axis in options.axes.split(","):
        found[axis] = {}
        for number, size in AXES[axis][: options.sizes]:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                found[axis][number] = measured(Path(folder), size)
            told = ", ".join(f"{name} {value:.2f}" for name, value in found[axis][number].items())
            print(f"{axis} {number:,}: {told}", flush=True)
            if options.rows:
                with options.rows.open("a") as file:
                    print(json.dumps([axis, number, found[axis][number]]), file=file)
    if options.rows:
        found = kept(options.rows)
    print("\n| | " + " | ".join(f"{axis}, {min(of):,} to {max(of):,}" for axis, of in found.items()) + " |")
    print("|---|" + "---|" * len(found))
    for what in ("open", "measures", "probes", "memory"):
        cells = [f"{exponent(list(of), series(of, what)):.2f}" for of in found.values()]
        print(f"| {what} | " + " | ".join(cells) + " |")
    for images in OPENED if options.sizes is None else OPENED[: options.sizes]:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            told = ", ".join(f"{name} {value:.2f} s" for name, value in opening(Path(folder), images).items())
            print(f"opening {images:,} images: {told}", flush=True)
    if options.figure:
        draw(found, options.figure)


def kept(rows: Path) -> dict[str, dict[int, dict[str, float]]]:
    """What this and other calls have measured, axes and sizes in order; of one size measured twice the last."""
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    of = {axis: {number: row for name, number, row in lines if name == axis} for axis in AXES}
    return {axis: dict(sorted(found.items())) for axis, found in of.items() if found}


def series(of: dict[int, dict[str, float]], what: str) -> list[float]:
    """One quantity over the sizes; memory above the smallest study's, with 10 MB that cannot be told from nothing."""
    if what != "memory":
        return [row[what] for row in of.values()]
    extra = [row["peak"] - row["start"] for row in of.values()]
    return [value - min(extra) + 0.01 for value in extra]


def draw(found: dict[str, dict[int, dict[str, float]]], path: Path) -> None:
    """Both over every axis, log-log, beside a straight line of slope 1."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullFormatter

    from badhands.figures.style import WIDTH, save, styled

    with styled():
        figure, rows = plt.subplots(2, len(found), figsize=(WIDTH, 5.5), squeeze=False, layout="constrained")
        for column, (axis, of) in enumerate(found.items()):
            sizes = list(of)
            for row, names, label in (
                (0, ("measures", "probes", "open"), "processor seconds"),
                (1, ("peak",), "peak GB"),
            ):
                at = rows[row][column]
                for name in names:
                    at.loglog(sizes, [of[n][name] for n in sizes], "o-", label=name, markersize=4)
                top = max(of[sizes[-1]][name] for name in names)
                at.loglog(sizes, [top * n / sizes[-1] for n in sizes], ":", color="gray", label="linear")
                at.set_ylabel(label if column == 0 else "")
                at.set_ylim(bottom=top / 3000 if row == 0 else min(of[n]["peak"] for n in sizes) / 2)
                at.set_xticks(sizes, [f"{n:,}" if n < 1000 else f"{n / 1000:g}k" for n in sizes])
                at.xaxis.set_minor_formatter(NullFormatter())
                at.yaxis.set_major_formatter("{x:g}")
                at.yaxis.set_minor_formatter(NullFormatter())
            rows[0][column].set_title(axis)
            rows[1][column].set_xlabel(axis)
        rows[0][0].legend()
        save(figure, path)


if __name__ == "__main__":
    main()

"""Probes and measures on a synthetic cache of the study's size: 48 cells, 200 images, 80 tokens, width 3072."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from badhands.cells import grid
from badhands.study.activation_file import write_image
from badhands.study.activations import ActivationCache

BLOCKS = ("double.12", "single.8", "single.12", "single.16", "single.24", "single.32")
TIMESTEPS = (20, 19, 18, 17, 15, 12, 8, 3)


def write_synthetic(folder: Path, rehearse: bool, seed: int = 0) -> float:
    """200 images of 60 hand and 20 not-hand tokens; a shift that is known, image effects, bfloat16. Returns MB/s."""
    shutil.rmtree(folder, ignore_errors=True)
    images, d = (30, 64) if rehearse else (200, 3072)
    cells = grid(BLOCKS[:2], TIMESTEPS[:2]) if rehearse else grid(BLOCKS, TIMESTEPS)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(seed)
    shift = torch.randn(len(cells), 1, d, generator=generator, device=device) * 0.02
    hand = torch.randn(len(cells), 1, d, generator=generator, device=device) * 0.05
    steps = {t: (20 - t, t / 20) for t in TIMESTEPS}
    written, start = 0, time.perf_counter()
    for i in range(images):
        good = i % 2
        effect = 0.7 * torch.randn(len(cells), 1, d, generator=generator, device=device)
        x = torch.randn(len(cells), 80, d, generator=generator, device=device) + effect
        x[:, :60] += hand + (shift if good else -shift)
        rows = x.to(torch.bfloat16).cpu()
        classes = np.repeat([1 if good else 2, 3], [60, 20]).astype(np.uint8)
        meta = {"prompt": f"prompt {i // 2}", "seed": i, "grid": [64, 64], "steps": steps, "label_digest": "synthetic"}
        tokens = np.arange(80, dtype=np.int32) * 7
        write_image(folder, f"i{i:04d}", dict(zip(cells, rows, strict=True)), tokens, classes, classes * 0, meta)
        written += rows.nbytes
    return written / 1e6 / (time.perf_counter() - start)


def fit(scratch: Path, rehearse: bool, say: Callable[..., None]) -> None:
    """Time the probes' bank on both devices and the measures on the CPU, through the project's own stages."""
    from lightning import Trainer

    from badhands.cells import PSEUDO_BLOCKS
    from badhands.measures.settings import MeasureConfig
    from badhands.measures.stage import measure
    from badhands.probes.bank import quiet_trainer, train_bank
    from badhands.probes.data import ProbeData
    from badhands.probes.settings import ProbeSettings
    from badhands.stats.intervals import Scored
    from badhands.study.selection import design_of

    folder = scratch / "cache"
    rate = write_synthetic(folder, rehearse)
    cache = ActivationCache(folder)
    size = sum(p.stat().st_size for p in folder.iterdir()) / 1e9
    note = f"{len(cache.cells)} cells, {len(cache.tokens)} tokens, written at {rate:.0f} MB/s"
    say("synthetic cache", size, "GB", note)

    start = time.perf_counter()
    for cell in cache.cells:
        cache.read(cell)
    say("read every cell once", size * 1e3 / (time.perf_counter() - start), "MB/s")

    cells = [cell for cell in cache.cells if cell.block not in PSEUDO_BLOCKS]
    few = cells[:: max(1, len(cells) // 3)][:3]
    design = design_of(cache)
    start = time.perf_counter()
    measure(cache, scratch / "run", MeasureConfig(), cells=few, design=design)
    each = (time.perf_counter() - start) / len(few)
    data = ProbeData.of(cache, ProbeSettings(), design, Scored.load(scratch / "run" / "headline.npz"))
    read = data.read(data.good)

    def bank(cells: Any, trainer: Callable[[], Trainer]) -> tuple[float, Any]:
        start = time.perf_counter()
        fitted = train_bank(cells, data.width, data.good, data.settings, read, trainer)
        return time.perf_counter() - start, fitted

    gpu = None
    if torch.cuda.is_available():

        def on_gpu() -> Trainer:
            return Trainer(
                accelerator="gpu", devices=1, max_epochs=1, logger=False, enable_checkpointing=False,
                enable_progress_bar=False, enable_model_summary=False,
            )  # fmt: skip

        bank(few[:1], on_gpu)
        taken, gpu = bank(data.cells, on_gpu)
        say("logistic probes on the GPU", taken, "s", f"{len(data.cells)} cells, 5 folds, 5 penalties, nested")
        say("converged there", f"{int(gpu.converged.sum())} of {len(data.cells)}")
    taken, cpu = bank(few, quiet_trainer)
    threads = torch.get_num_threads()
    say("logistic probes on the CPU", taken / len(few), "s a cell", f"{len(few)} cells, {threads} threads")
    if gpu is not None:
        places = [data.cells.index(cell) for cell in few]
        gap = (gpu.token_auroc[places] - cpu.token_auroc).abs().max()
        say("largest difference of token AUROC between the devices", float(gap))

    say("measures on the CPU", each, "s a cell", f"{len(few)} cells, figures included")

"""What does capturing cost? No capture, this capture, keep-everything hooks, nnsight: one pipeline, interleaved rounds.

    python tests/benchmarks/capture.py --rounds 25

Each round runs every variant once in a new random order on the same prompts and seeds. Printed and saved: the median of
per-round ratios to the run without capture of that round, its 95 % bootstrap interval, in wall time and CPU time, the
memory held at 20, 40 and 80 steps, and whether pictures and rows are bit-equal to those of plain generation and of the
keep-everything hooks. nnsight is measured if it is installed. Ratios of whole runs are noisy on a busy machine, so the
CPU time spent inside the capture's own code is measured as well, with one thread.
"""

import argparse
import importlib.util
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from badhands.cells import Cell
from badhands.diffusion.blocks import block_names
from badhands.diffusion.capture import capture
from badhands.diffusion.taps import Taps
from badhands.home import OUTPUTS
from tiny_pipeline import make_pipeline

TIMESTEPS = (20, 19, 18, 17, 15, 12, 8, 3)


class Bench:
    """The pipeline and the variants; each variant returns the final latent."""

    def __init__(self, batch: int, tokens: int, dtype: torch.dtype, seed: int = 0) -> None:
        self.pipe = make_pipeline(seed, dtype=dtype)
        config = {**self.pipe.transformer.config, "_class_name": "FluxTransformer2DModel"}
        self.blocks = block_names(config)
        self.prompts = [f"a hand, picture {i}" for i in range(batch)]
        rng = np.random.default_rng(seed)
        self.tokens = [np.sort(rng.choice(256, tokens, replace=False)) for _ in range(batch)]
        with torch.no_grad():
            embeds, pooled, _ = self.pipe.encode_prompt(self.prompts, None, max_sequence_length=24)
        self.embeds = {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
        self.lists = (self.pipe.transformer.transformer_blocks, self.pipe.transformer.single_transformer_blocks)
        self.last: Any = None

    def plain(self, steps: int = 20) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(i) for i in range(len(self.prompts))]
        return self.pipe(
            **self.embeds, height=64, width=64, num_inference_steps=steps, generator=generators, output_type="latent"
        ).images

    def captured(self, steps: int = 20) -> torch.Tensor:
        timesteps = [t * steps // 20 for t in TIMESTEPS]
        with capture(self.pipe, self.blocks, timesteps, self.tokens) as taken:
            latent = self.plain(steps)
        self.last = taken
        return latent

    def kept(self, steps: int = 20) -> torch.Tensor:
        """The usual recipe: a list of every block's whole output."""
        self.last = {name: [] for name in self.blocks}
        handles = [
            block.register_forward_hook(lambda _m, _a, out, name=name: self.last[name].append(out[1].clone()))
            for name, block in zip(self.blocks, (b for part in self.lists for b in part), strict=True)
        ]
        try:
            return self.plain(steps)
        finally:
            for handle in handles:
                handle.remove()

    def nnsight(self, steps: int = 20) -> torch.Tensor:
        """nnsight's tracing, one trace a transformer call, saving the captured tokens of the chosen calls."""
        from nnsight import NNsight

        if not hasattr(self, "_traced"):
            self._original = self.pipe.transformer
            self._traced = NNsight(self._original)
        chosen = {steps - t * steps // 20 for t in TIMESTEPS}
        model, rows, calls = self._traced, [], iter(range(steps))
        lists = (model.transformer_blocks, model.single_transformer_blocks)
        lengths = [len(part) for part in self.lists]

        def forward(**kwargs: Any) -> Any:
            if next(calls) not in chosen:
                return original(**kwargs)
            saved = []
            with model.trace(**kwargs):
                for part, length in zip(lists, lengths, strict=True):
                    for i in range(length):
                        image = part[i].output[1]
                        saved.append([image[b][index].save() for b, index in enumerate(self.tokens)])
                output = model.output.save()
            rows.append(saved)
            return output

        original = self._original.forward
        proxy = _Forwarding(self._original, forward)
        self.pipe.transformer = proxy  # type: ignore[assignment]
        try:
            latent = self.plain(steps)
        finally:
            self.pipe.transformer = self._original
        self.last = rows
        return latent


class _Forwarding(torch.nn.Module):
    """Stands in the transformer's place in the pipeline and calls a function instead."""

    def __init__(self, model: torch.nn.Module, forward: Callable[..., Any]) -> None:
        super().__init__()
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "replacement", forward)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "model"), name)

    def forward(self, **kwargs: Any) -> Any:
        return object.__getattribute__(self, "replacement")(**kwargs)


class Inside:
    """CPU time spent in the code of the taps themselves, everything that runs because a capture is open."""

    METHODS = ("_before_transformer", "_after_block", "_after_transformer", "_after_step", "__enter__", "__exit__")

    def __init__(self) -> None:
        self.seconds = 0.0

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.thread_time()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds += time.thread_time() - start

        return run

    def share(self, run: Callable[[], Any], rounds: int) -> list[float]:
        """Per run, time inside over the time of everything else."""
        originals = {name: getattr(Taps, name) for name in self.METHODS}
        shares = []
        try:
            for name, method in originals.items():
                setattr(Taps, name, self._timed(method))
            for _ in range(rounds):
                self.seconds, start = 0.0, time.process_time()
                run()
                shares.append(self.seconds / (time.process_time() - start - self.seconds))
        finally:
            for name, method in originals.items():
                setattr(Taps, name, method)
        return shares


def rows_equal(bench: Bench, kept: Bench, variant: str) -> bool:
    """Every row of a variant against the keep-everything oracle, bit for bit."""
    run = {"capture": bench.captured, "nnsight": bench.nnsight}[variant]
    run()
    taken = bench.last
    if variant == "nnsight":
        taken = {
            Cell(name, t): torch.cat(rows)
            for t, call in zip(TIMESTEPS, taken, strict=True)
            for name, rows in zip(bench.blocks, call, strict=True)
        }
    kept.kept()
    return all(
        torch.equal(taken[Cell(name, t)], torch.cat([kept.last[name][20 - t][b][i] for b, i in enumerate(kept.tokens)]))
        for name in bench.blocks
        for t in TIMESTEPS
    )


def held_mb(kept: Any) -> float:
    """Bytes of the tensors that a variant holds when the picture is done."""
    if torch.is_tensor(kept):
        return kept.nbytes / 1e6
    if hasattr(kept, "host_bytes"):
        return kept.host_bytes / 1e6
    parts = kept.values() if isinstance(kept, dict) else kept or ()
    return sum(held_mb(part) for part in parts)


def interval(ratios: list[float], rng: np.random.Generator) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    draws = np.median(rng.choice(ratios, (4000, len(ratios))), axis=1)
    return float(np.quantile(draws, 0.025)), float(np.quantile(draws, 0.975))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=80, help="captured tokens an image, of 256")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUTPUTS / "benchmarks" / "capture.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(0)
    bench = Bench(options.batch, options.tokens, getattr(torch, options.dtype))
    variants = {"no capture": bench.plain, "capture": bench.captured, "keep everything": bench.kept}
    other = bench
    if importlib.util.find_spec("nnsight"):
        # On a model of its own: nnsight wraps every module for good, and plain runs would pay for it.
        other = Bench(options.batch, options.tokens, getattr(torch, options.dtype))
        variants["nnsight"] = other.nnsight
    reference = bench.plain()
    same = {name: bool(torch.equal(run(), reference)) for name, run in variants.items()}
    wall: dict[str, list[float]] = {name: [] for name in variants}
    cpu: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(options.rounds):
        for name in rng.permutation(list(variants)):
            start, used = time.perf_counter(), time.process_time()
            variants[name]()
            bench.last = other.last = None
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - used)
    table = []
    for name in variants:
        owner = other if name == "nnsight" else bench
        ratios = [a / b for a, b in zip(cpu[name], cpu["no capture"], strict=True)]
        walls = [a / b for a, b in zip(wall[name], wall["no capture"], strict=True)]
        row = {
            "variant": name,
            "seconds": statistics.median(wall[name]),
            "wall_ratio": statistics.median(walls),
            "wall_ratio_95": interval(walls, rng),
            "cpu_ratio": statistics.median(ratios),
            "cpu_ratio_95": interval(ratios, rng),
            "picture_bit_equal": same[name],
            "held_mb_20_40_80_steps": [],
            "rows_bit_equal_to_keep_everything": rows_equal(owner, bench, name)
            if name in ("capture", "nnsight")
            else None,
        }
        for steps in (20, 40, 80):
            owner.last = None
            variants[name](steps)
            row["held_mb_20_40_80_steps"].append(held_mb(owner.last))
        table.append(row)
    inside = Inside().share(bench.captured, options.rounds)
    cells, rows = len(bench.blocks) * len(TIMESTEPS), sum(map(len, bench.tokens))
    result = {
        "cells": cells,
        "captured_bytes": bench.last.host_bytes,
        "share_inside_the_hooks": statistics.median(inside),
        "share_inside_the_hooks_95": interval(inside, rng),
        "rows": rows,
        "options": {k: str(v) for k, v in vars(options).items()},
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}",
        "table": table,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1))
    print(f"{cells} cells x {rows} rows, {result['captured_bytes'] / 1e6:.1f} MB")
    print(
        "| variant | s | wall ratio (95 %) | CPU ratio (95 %) | picture equal | rows equal | MB at 20 / 40 / 80 steps |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in table:
        held = " / ".join(f"{mb:.1f}" for mb in row["held_mb_20_40_80_steps"])
        rows_text = {None: "", True: "yes", False: "NO"}[row["rows_bit_equal_to_keep_everything"]]
        wall_text = f"{row['wall_ratio']:.3f} ({row['wall_ratio_95'][0]:.3f} to {row['wall_ratio_95'][1]:.3f})"
        cpu_text = f"{row['cpu_ratio']:.3f} ({row['cpu_ratio_95'][0]:.3f} to {row['cpu_ratio_95'][1]:.3f})"
        shown = [
            row["variant"],
            f"{row['seconds']:.3f}",
            wall_text,
            cpu_text,
            row["picture_bit_equal"],
            rows_text,
            held,
        ]
        print("| " + " | ".join(map(str, shown)) + " |")
    low, high = (100 * share for share in result["share_inside_the_hooks_95"])
    share = 100 * result["share_inside_the_hooks"]
    print(f"CPU time inside the capture's own code, of the rest: {share:.2f} % (95 %: {low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()

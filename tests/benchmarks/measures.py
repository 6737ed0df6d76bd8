"""Speed and memory of the measures on the full-size synthetic cache (4.7 GB, 48 cells).

    python tests/benchmarks/measures.py [moments nulls tokens stage]     any of the parts; the first three by default

moments   sums of every cell, against merely reading the same files (warm, into one buffer, same number of threads)
nulls     2,000 joint permutations and the jackknife of D_B in all cells, from the moments
tokens    per cell: PCA, means, variances, D_B, 100 permutations; against NumPy and scikit-learn doing the same
stage     the whole stage without figures
"""

import os
import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from synthetic import full_cache

from badhands.cells import Cell
from badhands.measures.contrasts import make_contrast
from badhands.measures.moments import Groups, GroupSums, Moments, stream_moments
from badhands.measures.nulls import LeftOut, distance_terms, labellings, over_left_out, over_permutations
from badhands.measures.projections import principal
from badhands.measures.sides import CellSums, observed, sides
from badhands.study.activations import ActivationCache
from badhands.study.selection import design_of

THREADS = int(os.environ.get("THREADS", "2"))
ROUNDS = 3


def seconds(work) -> tuple[float, float]:
    """Wall clock and processor time, which tells what a busy machine has added."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def peak() -> float:
    """Largest resident memory of this process so far, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def read_files(cache: ActivationCache) -> int:
    """Every byte of every file into one reused buffer a thread."""

    def some(paths: list[Path]) -> int:
        buffer = memoryview(bytearray(max(path.stat().st_size for path in paths)))
        total = 0
        for path in paths:
            with path.open("rb", buffering=0) as file:
                total += file.readinto(buffer)
        return total

    paths = [file.path for file in cache.files]
    with ThreadPoolExecutor(THREADS) as pool:
        return sum(pool.map(some, [paths[k::THREADS] for k in range(THREADS)]))


def moments_of(cache: ActivationCache, path: Path) -> Moments:
    tokens = cache.tokens
    groups = Groups.of(tokens.image, tokens.label, tokens.kind, (1, 2, 3))
    forms = {cell: (cache.width(cell), cache.dtype) for cell in cache.cells}

    def read_into(image: int, cell: Cell, out: torch.Tensor) -> None:
        cache.files[image].read_into(str(cell), out)

    return stream_moments(read_into, tokens.image, groups, forms, path, threads=THREADS)


def part_moments(cache: ActivationCache, path: Path) -> None:
    size = read_files(cache)  # warms the page cache
    plain, ours, ratios, busy = [], [], [], []
    for _ in range(ROUNDS):
        reading, summing = seconds(lambda: read_files(cache)), seconds(lambda: moments_of(cache, path))
        plain.append(size / reading[0] / 1e9)
        ours.append(size / summing[0] / 1e9)
        ratios.append(reading[0] / summing[0])
        busy.append(reading[1] / summing[1])
    rounds = " ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"moments: {median(ours):.2f} GB/s, plain read {median(plain):.2f}, ratio {median(ratios):.2f} ({rounds}), "
          f"in processor time {median(busy):.2f}; {size / 1e9:.2f} GB, peak {peak():.2f} GB", flush=True)  # fmt: skip


def part_nulls(cache: ActivationCache, path: Path) -> None:
    moments = moments_of(cache, path)
    chosen = make_contrast(moments.groups, "good_vs_bad", len(cache.images))

    def all_cells() -> None:
        design = design_of(cache, permutations=2000)
        labels, one_less = labellings(chosen, design), LeftOut.of(chosen, design)
        for cell in moments.cells:
            sums = CellSums.of(chosen, *moments.sums(cell))
            over_permutations(sums, labels, distance_terms)
            over_left_out(sums, one_less, distance_terms)

    spent, processor = seconds(all_cells)
    print(f"nulls: 2,000 permutations + the jackknife of {len(moments.cells)} cells in {spent:.1f} s "
          f"({processor:.0f} s of processor time), peak {peak():.2f} GB", flush=True)  # fmt: skip


def part_tokens(cache: ActivationCache, path: Path, cells: int = 3, permutations: int = 100) -> None:
    """The same results from both sides; the slower one on a few cells."""
    from sklearn.decomposition import PCA

    moments = moments_of(cache, path)
    chosen = make_contrast(moments.groups, "good_vs_bad", len(cache.images))
    labels = labellings(chosen, design_of(cache, permutations=permutations))
    good_images = labels.numpy().astype(bool)
    ratios, busy = [], []
    sizes = np.bincount(cache.tokens.image).tolist()
    for cell in cache.cells[:: len(cache.cells) // cells][:cells]:

        def usual(cell=cell) -> tuple[float, float, np.ndarray]:
            x = cache.read(cell).float().numpy()

            def distance(good: np.ndarray) -> float:
                a, b = x[good], x[~good]
                va, vb = a.var(0), b.var(0)
                mid = (va + vb) / 2
                return float(((a.mean(0) - b.mean(0)) ** 2 / (8 * mid)).sum() + 0.25 * np.log(mid**2 / (va * vb)).sum())

            explained = PCA(2, svd_solver="randomized", random_state=0).fit(x).explained_variance_ratio_
            null = [distance(image[cache.tokens.image]) for image in good_images]
            return distance(chosen.good[cache.tokens.image]), float(explained[0]), np.array(null)

        def ours(cell=cell) -> tuple[float, float, np.ndarray]:
            x = cache.read(cell).float()
            explained = principal(x - x.mean(0)).explained
            # Sums from these tokens again, so that nothing done before the clock started is used.
            one, whole = GroupSums(), torch.ones(1, 1)
            found = torch.empty(2, len(sizes), x.shape[1])
            for k, part in enumerate(x.bfloat16().split(sizes)):
                one(part, whole.expand(1, len(part)), found[:, k : k + 1])
            sums = CellSums.of(chosen, *found.double().numpy())
            null = over_permutations(sums, labels, distance_terms)[:, :2].sum(1)
            return float(distance_terms(sides(sums, observed(chosen)))[0, :2].sum()), float(explained[0]), null.numpy()

        slow, fast = seconds(usual), seconds(ours)
        theirs, mine = usual(), ours()
        np.testing.assert_allclose(theirs[0], mine[0], rtol=2e-2)
        np.testing.assert_allclose(theirs[1], mine[1], rtol=2e-2)
        np.testing.assert_allclose(theirs[2].mean(), mine[2].mean(), rtol=2e-2)
        ratios.append(slow[0] / fast[0])
        busy.append(slow[1] / fast[1])
        print(f"tokens: {cell}: NumPy and scikit-learn {slow[0]:.1f} s, here {fast[0]:.2f} s", flush=True)
    print(f"tokens: ratio {median(ratios):.1f}, in processor time {median(busy):.1f} (median of {len(ratios)} cells), "
          f"peak {peak():.2f} GB", flush=True)  # fmt: skip


def part_stage(cache: ActivationCache, path: Path) -> None:
    from badhands.measures.settings import MeasureConfig
    from badhands.measures.stage import measure

    config = MeasureConfig(threads=THREADS)
    spent, _ = seconds(lambda: measure(cache, path.parent / "run", config))
    print(f"stage: {spent:.0f} s for {len(cache.cells)} cells, peak {peak():.2f} GB", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    parts = sys.argv[1:] or ["moments", "nulls", "tokens"]
    with tempfile.TemporaryDirectory() as folder:
        for name in parts:
            globals()[f"part_{name}"](full_cache(), Path(folder) / "moments.npz")

"""The synthetic cache of the study's full size, which all benchmarks share.

    python tests/benchmarks/synthetic.py [--folder outputs/benchmarks/full] [--images 200]

200 images of 80 hand tokens in 48 cells of 3,072 channels, bfloat16: 4.7 GB. Images are written whole, one at a time,
so the same command goes on after an interruption; a complete cache is left as it is.
"""

import argparse
import sys
import time
from pathlib import Path

from badhands.cells import Cell, grid
from badhands.home import OUTPUTS
from badhands.study.activations import ActivationCache

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from synthetic_cache import write_cache

BLOCKS = ("double.12", "single.8", "single.12", "single.16", "single.24", "single.32")
TIMESTEPS = (20, 19, 18, 17, 15, 12, 8, 3)
CELLS: tuple[Cell, ...] = grid(BLOCKS, TIMESTEPS)
IMAGES, TOKENS, WIDTH = 200, 80, 3072
FOLDER = OUTPUTS / "benchmarks" / "full"


def full_cache(folder: Path = FOLDER, images: int = IMAGES) -> ActivationCache:
    """Make what is missing of the cache and open it. Distances rise from 0 at t = 20 to 4 at t = 3."""
    done = len(list(folder.glob("*.safetensors")))
    if done < images:
        shift = {cell: 4.0 * (20 - cell.timestep) / 17 for cell in CELLS}
        begin = time.perf_counter()
        write_cache(
            folder, images=images, prompts=images // 2, cells=CELLS, d=WIDTH, shift=shift, seed=0,
            tokens=(TOKENS, TOKENS), not_hand=0, grid_size=(64, 64), resume=True,
        )  # fmt: skip
        print(f"wrote {images - done} images to {folder} in {time.perf_counter() - begin:.0f} s", flush=True)
    return ActivationCache(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--images", type=int, default=IMAGES)
    given = parser.parse_args()
    cache = full_cache(given.folder, given.images)
    size = sum(path.stat().st_size for path in given.folder.glob("*.safetensors")) / 1e9
    print(f"{len(cache.images)} images, {len(cache.tokens):,} tokens, {len(cache.cells)} cells, {size:.2f} GB")

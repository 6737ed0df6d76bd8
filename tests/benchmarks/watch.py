"""What watching costs on an embedded model: plain, with scores, with previews. Interleaved rounds.

python tests/benchmarks/watch.py [rounds] [probes folder]    random probes where no folder is given
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from badhands.diffusion.scene import Scene
from badhands.diffusion.spec import ModelSpec
from badhands.probes.artifact import Probes
from badhands.tiny_hands import CHECKPOINTS
from badhands.watch import watch
from badhands.watch.fresh import fresh_pairs
from badhands.watch.seen import Seen
from watch_probes import make_probes

BATCH = 4
BLOCKS = ("double.0", "double.1", "double.2", *(f"single.{i}" for i in range(6)))
TIMESTEPS = (20, 19, 18, 17, 15, 12, 8, 3)


def main(rounds: int, folder: str | None) -> None:
    torch.set_num_threads(1)
    probes = Probes.load(folder) if folder else make_probes(20, BLOCKS, TIMESTEPS)
    pairs = fresh_pairs("tiny_hands", BATCH)
    spec = ModelSpec("tiny_hands", str(CHECKPOINTS / "mixed"), 64, 64, 20, 3.5, max_sequence_length=24, device="cpu",
                     batch_size=BATCH)  # fmt: skip
    scene = Scene(spec, [pair.prompt for pair in pairs])

    def plain() -> None:
        scene.latents(pairs)

    def watched(previews: bool, decode: bool) -> None:
        def look(seen: Seen, frame) -> None:
            for member in range(BATCH if decode else 0):
                seen.preview(frame, member)

        with watch(scene.pipe, probes, previews=previews, on_frame=look):
            scene.latents(pairs)

    ways: dict[str, Callable[[], None]] = {
        "plain": plain,
        "scores": lambda: watched(False, False),
        "scores, previews kept": lambda: watched(True, False),
        "scores, previews decoded at each watched step": lambda: watched(True, True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    plain()
    for _ in range(rounds):
        for name, way in ways.items():
            begin = time.process_time()  # one thread: the processor's time, whatever else runs beside it
            way()
            seconds[name].append(time.process_time() - begin)
    base = np.array(seconds["plain"])
    cells = len([cell for cell in probes.cells if cell.block in BLOCKS])
    print(f"{cells} cells, batch {BATCH}, 20 steps, {spec.dtype}, one thread, {rounds} interleaved rounds")
    for name, values in seconds.items():
        ratio = np.array(values) / base
        print(f"{name}: {np.median(values):.3f} CPU s, ratio to plain: median {np.median(ratio):.3f} "
              f"(quartiles {np.quantile(ratio, 0.25):.3f} to {np.quantile(ratio, 0.75):.3f})")  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15, sys.argv[2] if len(sys.argv) > 2 else None)

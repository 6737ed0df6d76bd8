"""What watching costs through the project's own watch: scores of all tokens, with and without previews."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from badhands.cells import Cell, grid
from badhands.probes.artifact import Probes
from badhands.probes.readout import Readout
from badhands.watch import Abort, watch
from badhands.watch.frame import Frame
from badhands.watch.seen import Seen


def random_probes(s: Any, timesteps: Sequence[int]) -> Probes:
    """Both heads with random weights, for the study's blocks at these timesteps of this schedule."""
    s.latents([0])  # sets the schedule
    sigmas, steps, width = s.pipe.scheduler.sigmas.tolist(), s.spec.steps, s.pipe.transformer.inner_dim
    generator = torch.Generator().manual_seed(0)
    cells = grid(s.post_blocks, timesteps)

    def readout() -> Readout:
        return Readout(torch.randn(width, generator=generator) / width**0.5, 0.0, (1.0, 0.0))

    return Probes(
        {(head, cell): readout() for cell in cells for head in ("hand", "good")},
        directions={},
        midpoints={},
        steps={cell.timestep: (steps - cell.timestep, sigmas[steps - cell.timestep], steps) for cell in cells},
        card={"fingerprint": "0123456789ab", "model": s.spec.name},
    )


def scores(s: Any) -> dict[str, Callable[[], Any]]:
    """Runs with both heads read for all tokens, nothing decoded; each gives the final latent."""
    few, every = random_probes(s, s.post_timesteps), random_probes(s, s.all_timesteps)
    never = Abort({Cell(s.post_blocks[-1], s.post_timesteps[1]): -1e9})

    def run(probes: Probes, policy: Abort | None = None, **options: Any) -> Callable[[], Any]:
        def go() -> Any:
            with watch(s.pipe, probes, policy, **options):
                return s.latents([0])

        return go

    return {
        "48 cells": run(few, previews=False),
        "120 cells": run(every, previews=False),
        "120 cells, predicted clean latents kept": run(every),
        "48 cells, an abort that asks once": run(few, never, previews=False),
        "48 cells, a callback after each watched step": run(few, previews=False, on_frame=lambda seen, frame: None),
    }


def previews(s: Any) -> dict[str, Callable[[], Any]]:
    """The same with previews decoded at every step, or at every fourth."""
    probes = random_probes(s, s.all_timesteps)

    def run(every: int) -> Callable[[], Any]:
        def look(seen: Seen, frame: Frame) -> None:
            seen.preview(frame)  # None where none is kept

        def go() -> None:
            with watch(s.pipe, probes, previews=every, on_frame=look):
                s.latents([0])

        return go

    return {"120 cells, preview each step": run(1), "120 cells, preview each 4th step": run(4)}

"""What watching costs through the project's own watch: scores of all tokens, with and without previews."""

from collections.abc import Callable
from typing import Any

import torch

from badhands.cells import grid
from badhands.probes.artifact import Probes, Readout
from badhands.watch import watch
from badhands.watch.frame import Frame
from badhands.watch.seen import Seen


def random_probes(s: Any) -> Probes:
    """Both heads with random weights, for the study's blocks at every step of this schedule."""
    s.latents([0])  # sets the schedule
    sigmas, steps, width = s.pipe.scheduler.sigmas.tolist(), s.spec.steps, s.pipe.transformer.inner_dim
    generator = torch.Generator().manual_seed(0)
    cells = grid(s.post_blocks, s.all_timesteps)

    def readout() -> Readout:
        return Readout(torch.randn(width, generator=generator) / width**0.5, 0.0, (1.0, 0.0))

    return Probes(
        {(head, cell): readout() for cell in cells for head in ("hand", "good")},
        directions={},
        means={},
        steps={cell.timestep: (steps - cell.timestep, sigmas[steps - cell.timestep], steps) for cell in cells},
        card={"fingerprint": "0123456789ab", "model": s.spec.name},
    )


def watching(s: Any) -> dict[str, Callable[[], Any]]:
    """Runs with both heads read at every step in the study's blocks for all tokens, and previews decoded as named."""
    probes = random_probes(s)

    def run(previews: int) -> Callable[[], Any]:
        def look(seen: Seen, frame: Frame) -> None:
            seen.preview(frame)  # None where none is kept

        def go() -> None:
            with watch(s.pipe, probes, previews=previews, on_frame=look):
                s.latents([0])

        return go

    return {"scores": run(0), "scores, preview each step": run(1), "scores, preview each 4th step": run(4)}

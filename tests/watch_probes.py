"""Probes for the random tiny pipeline: weights are random, steps and sigmas are those of its schedule."""

import torch

from badhands.cells import Cell, grid
from badhands.probes.artifact import Probes
from badhands.probes.readout import Readout

BLOCKS = ("double.1", "single.2")


def make_probes(steps: int = 4, blocks=BLOCKS, timesteps=None, d: int = 128, seed: int = 0, hand_bias: float = 0.0,
                sigmas=None):  # fmt: skip
    """Both heads at every (or the given) timestep of a schedule, by default 64 px in `steps` steps; thresholds at 0."""
    if sigmas is None:
        from tiny_pipeline import make_pipeline

        scheduler = make_pipeline().scheduler
        scheduler.set_timesteps(sigmas=[1 - k / steps for k in range(steps)], mu=0.5)
        sigmas = scheduler.sigmas.tolist()
    cells = grid(blocks, timesteps or range(steps, 0, -1))
    g = torch.Generator().manual_seed(seed)
    readouts = {}
    for cell in cells:
        readouts["hand", cell] = Readout(torch.randn(d, generator=g) / d**0.5, hand_bias, (1.5, 0.1))
        readouts["good", cell] = Readout(torch.randn(d, generator=g) / d**0.5, 0.1, (0.7, -0.2))
    return Probes(
        readouts,
        directions={cell: torch.randn(d, generator=g) for cell in cells},
        midpoints={cell: torch.zeros(d) for cell in cells},
        steps={cell.timestep: (steps - cell.timestep, sigmas[steps - cell.timestep], steps) for cell in cells},
        thresholds={cell: {0.05: -0.1, 0.2: 0.0} for cell in cells},
        random_directions={cell: torch.randn(20, d, generator=g) for cell in cells},
        card={
            "fingerprint": "0123456789ab",
            "model": "tiny",
            "scores": {str(Cell("single.2", steps)): {"image_auroc": 0.7}},
        },
    )

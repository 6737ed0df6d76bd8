"""Where a generation is, and what one step of it did."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from badhands.diffusion.preview import predicted_x0


@dataclass(frozen=True)
class Moment:
    """Where a generation is."""

    generation: int
    """Counts the generations seen by these taps, from 0."""
    step: int
    """Index into the scheduler's schedule, counts up."""
    timestep: int
    """`num_steps - step`, counts down: `num_steps` is pure noise, 1 the last."""
    num_steps: int
    sigma: float
    sigma_next: float
    branch: int
    """0: conditional, 1: unconditional call of true classifier-free guidance."""
    members: tuple[int, ...]
    """Batch members still alive, by their place in the batch that the generation began with."""


class AllDropped(Exception):
    """Every member of the batch was dropped, so the generation ended early."""


@dataclass
class StepEnd:
    """What a step did. Tensors are packed latents [B, n tokens, c] of the members still alive; do not write to them."""

    moment: Moment
    x_t: torch.Tensor
    """The latent that the step began with, at `moment.sigma`."""
    velocity: torch.Tensor
    """The model's output that the scheduler used: guidance already combined."""
    x_next: torch.Tensor
    """The latent after the step, at `moment.sigma_next`."""
    dropped: set[int] = field(default_factory=set)

    def x0(self) -> torch.Tensor:
        """The clean latent predicted at this step [B, n, c], float32."""
        return predicted_x0(self.x_t, self.velocity, self.moment.sigma)

    def drop(self, members: Iterable[int]) -> None:
        """Ask that these members (places in the first batch) be generated no further; the rest goes on.

        Raises:
            ValueError: a member that is not alive.
        """
        members = set(members)
        strangers = members - set(self.moment.members)
        if strangers:
            raise ValueError(f"cannot drop members {sorted(strangers)}: alive are {list(self.moment.members)}")
        self.dropped |= members

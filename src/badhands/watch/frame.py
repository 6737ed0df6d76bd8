"""One step as the probes saw it."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from badhands.cells import Cell


@dataclass
class Frame:
    """One step as the probes saw it. B counts the batch members still alive, n the tokens, row-major on the grid."""

    generation: int
    """Counts the pipeline calls inside one `watch`, from 0."""
    step: int
    timestep: int
    num_steps: int
    sigma: float
    members: tuple[int, ...]
    """Batch members still alive, by their place in the batch that the generation began with."""
    cells: tuple[Cell, ...]
    """The trained cells that were read: their timestep is the training schedule's."""
    hand_logit: dict[str, np.ndarray]
    """Block -> float32[B, n]; positive means hand."""
    good_logit: dict[str, np.ndarray]
    """Block -> float32[B, n]; positive means good."""
    p_hand: dict[str, np.ndarray]
    """Block -> float32[B, n], calibrated."""
    p_bad: dict[str, np.ndarray]
    """Block -> float32[B, n], calibrated; says something on hand tokens only."""
    hand: dict[str, np.ndarray]
    """Block -> bool[B, n]: tokens that the hand head calls hand."""
    score: dict[str, np.ndarray]
    """Block -> float32[B]: logit of the mean hand token, low means a bad hand; nan where no hand was found."""
    image_p_bad: dict[str, np.ndarray]
    """Block -> float32[B]: P(bad) of the hand, calibrated to the probes' bad rate; nan where no hand was found."""
    xt_variance: np.ndarray
    """float32[B]: variance of the step's latent over tokens and channels."""
    x0_change: np.ndarray
    """float32[B, n]: log variance of the predicted clean latent over the watched steps so far; -inf at the first."""
    x0: Tensor | None = None
    """[B, n, c] float32 on the CPU: the clean latent predicted at this step, kept where a preview was asked for."""

    def place(self, member: int) -> int:
        """Row of a batch member in the arrays.

        Raises:
            ValueError: it had been dropped before this step.
        """
        if member not in self.members:
            raise ValueError(f"member {member} was not alive at timestep {self.timestep}")
        return self.members.index(member)

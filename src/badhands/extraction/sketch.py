"""Which cell is sketched, and the sketch of captured rows."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from badhands.cells import Cell, choose_timesteps
from badhands.diffusion.blocks import check_blocks
from badhands.study.sketches import projection


def middle_cell(config: Mapping[str, Any], steps: int) -> Cell:
    """The block in the middle of the network, at the eighth last of 20 steps: shapes are drawn, details are not yet."""
    blocks = check_blocks(config, "all")
    (timestep,) = choose_timesteps([8], 20, steps)
    return Cell(blocks[len(blocks) // 2], timestep)


def sketch_rows(rows: torch.Tensor) -> NDArray[np.float16]:
    """float16[n, 64]: rows [n, d] of a cell, each normalised over its channels, projected."""
    normal = torch.nn.functional.layer_norm(rows.float(), rows.shape[-1:])
    return (normal @ torch.from_numpy(projection(rows.shape[-1]))).to(torch.float16).numpy()

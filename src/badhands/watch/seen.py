"""What a watch saw: one frame a step, and the pictures that belong to it."""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from torch import Tensor

from badhands.diffusion.families import family_of_pipe
from badhands.diffusion.preview import decode
from badhands.probes.artifact import Probes
from badhands.watch.frame import Frame
from badhands.watch.region import Region, grown, region_tokens, to_image, to_pixels

log = logging.getLogger(__name__)

SLOW = 1.0
"""Seconds from which on a quicker way to decode a preview is named."""


class Seen:
    """What a watch saw. `frames` grows while the image is being made and stays when it is interrupted."""

    def __init__(
        self, pipe: Any, probes: Probes, blocks: tuple[str, ...], preview_scale: int, preview_vae: Any = None
    ) -> None:
        self.pipe, self.probes, self.blocks = pipe, probes, blocks
        self.preview_scale, self.preview_vae = preview_scale, preview_vae
        self._slow_told = False
        self._frames: list[Frame] = []
        self._expected: deque[Callable[[], Frame]] = deque()
        self.grid: tuple[int, int] = (0, 0)
        """Rows and columns of tokens."""
        self.matched: dict[int, int] = {}
        """Timestep of this schedule -> of the training schedule."""
        self.first: dict[int, Tensor] = {}
        """Generation -> packed latents [B, n, c] on the CPU that it began with: noise."""
        self.last: dict[int, Tensor] = {}
        """Generation -> final packed latents [B, n, c] on the CPU, of finished generations with previews."""
        self.final_members: dict[int, tuple[int, ...]] = {}
        """Generation -> members that were finished."""
        self.stopped: dict[tuple[int, int], int] = {}
        """(generation, member) -> timestep after which a policy stopped it."""
        self.evaluations = 0
        """Images passed through the transformer, one a step and living member (two with true CFG)."""
        self._decoded: dict[tuple[int, int, int], Image.Image] = {}

    @property
    def frames(self) -> list[Frame]:
        """Every watched step so far, in order."""
        self.settle()
        return self._frames

    def expect(self, frame: Callable[[], Frame]) -> None:
        """A step that is still on its way from the device; `frame` waits for it."""
        self._expected.append(frame)

    def settle(self, but: int = 0) -> None:
        """Have all expected frames, except for the newest `but`."""
        while len(self._expected) > but:
            self._frames.append(self._expected.popleft()())

    def of(self, generation: int = -1) -> list[Frame]:
        """Frames of one generation; -1 is the last that was seen."""
        if generation < 0 and self.frames:
            generation = self.frames[-1].generation
        return [frame for frame in self.frames if frame.generation == generation]

    def size(self) -> tuple[int, int]:
        """(height, width) of the picture in px."""
        family = family_of_pipe(self.pipe)
        patch = family.latent_pixel(self.pipe) * family.patch
        return self.grid[0] * patch, self.grid[1] * patch

    def preview(self, frame: Frame, member: int = 0) -> Image.Image | None:
        """The predicted clean image of a step, decoded when first asked for; None where none was kept.

        Full size divided by `preview_scale`: then the latent is averaged before it is decoded, which a large VAE does
        that much squared faster.
        """
        if frame.x0 is None:
            return None
        key = (frame.generation, frame.step, member)
        if key not in self._decoded:
            self._decoded[key] = self._decode(frame.x0[frame.place(member)][None])
        return self._decoded[key]

    def final(self, generation: int = -1, member: int = 0) -> Image.Image | None:
        """The finished image of a member, decoded; None if it was stopped or interrupted."""
        if generation < 0 and self.frames:
            generation = self.frames[-1].generation
        members = self.final_members.get(generation, ())
        if member not in members:
            return None
        key = (generation, -1, member)
        if key not in self._decoded:
            packed = self.last[generation][members.index(member)][None]
            (self._decoded[key],) = decode(self.pipe, packed, *self.size(), scale=self.preview_scale)
        return self._decoded[key]

    def mask(
        self, member: int = 0, generation: int = -1, *, what: Region = "bad", p_bad: float = 0.5, grow: int = 1
    ) -> Image.Image:
        """White where the hand is bad, in picture pixels (mode L): what inpainting pipelines and detailers take.

        Read at the last watched step, in the block that tells tokens apart best there by the training study.

        Args:
            what: `bad`: hand tokens with P(bad) of `p_bad` or more; `hand`: the whole hand.
            grow: tokens by which it is dilated, so that the seam falls on what is good.

        Raises:
            ValueError: nothing was watched, an unknown region, a probability outside 0..1.
        """
        frames = [frame for frame in self.of(generation) if member in frame.members]
        if not frames:
            raise ValueError("no step was watched, so there is no mask: call the pipeline inside the `with` block")
        tokens = region_tokens(self.probes, self.grid, frames[-1], member, what, p_bad)
        return to_image(to_pixels(grown(tokens, grow), self.size()))

    def _decode(self, packed: Tensor) -> Image.Image:
        height, width = self.size()
        start = time.perf_counter()
        (picture,) = decode(self.pipe, packed, height, width, scale=self.preview_scale, vae=self.preview_vae)
        seconds = time.perf_counter() - start
        if seconds > SLOW and self.preview_vae is None and not self._slow_told:
            self._slow_told = True
            tiny = family_of_pipe(self.pipe).tiny_vae
            quicker = "watch.preview_scale=4" + (f" or watch.preview=taef ({tiny})" if tiny else "")
            log.warning("a preview takes %.1f s to decode: %s is quicker", seconds, quicker)
        return picture

    def hand_found(self, member: int = 0, generation: int = -1) -> bool:
        """Whether any block found a hand in any step."""
        return any(
            np.isfinite(frame.score[block][frame.place(member)])
            for frame in self.of(generation)
            if member in frame.members
            for block in self.blocks
        )

    def rows(self) -> pd.DataFrame:
        """A line for each generation, member, step and block: image score, hand tokens, variances."""
        lines = [
            {
                "generation": frame.generation, "member": member, "block": cell.block, "timestep": frame.timestep,
                "step": frame.step, "sigma": frame.sigma, "trained_timestep": cell.timestep,
                "score": float(frame.score[cell.block][i]),
                "p_bad": float(frame.image_p_bad[cell.block][i]),
                "tokens": int(frame.hand[cell.block][i].sum()),
                "xt_variance": float(frame.xt_variance[i]),
                "x0_change": _mean(frame.x0_change[i], frame.hand[cell.block][i]),
                "stopped": self.stopped.get((frame.generation, member)) == frame.timestep,
            }
            for frame in self.frames for i, member in enumerate(frame.members) for cell in frame.cells
        ]  # fmt: skip
        return pd.DataFrame(lines)


def _mean(values: np.ndarray, where: np.ndarray) -> float:
    return float(values[where].mean()) if where.any() else float("nan")

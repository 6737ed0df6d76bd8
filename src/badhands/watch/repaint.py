"""Draw a part of a finished picture again: noise it back to step k, denoise it there, keep what is better.

The kept part follows the picture's own straight line from its noise to its clean latent, step by step, so that the new
part is drawn beside what will stand next to it (RePaint, Lugmayr et al. 2022; for flow models, without resampling).
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from badhands.cells import Cell
from badhands.diffusion.families import family_of_pipe
from badhands.diffusion.scene import Pair, Scene
from badhands.probes.artifact import Probes
from badhands.watch.compatibility import best_block
from badhands.watch.region import Mask, Region, grown, region_tokens
from badhands.watch.seen import Seen
from badhands.watch.watcher import watch

SHIFTED = 1e-3
"""By how much two schedules may differ at a step that is to be the same."""


@dataclass(frozen=True)
class Repair:
    """What `policy=repair` does."""

    tries: int = 2
    redo: float = 0.5
    """Share of the steps that are drawn again."""
    region: Region = "hand"
    p_bad: float = 0.5
    """Calibrated P(bad) of the finished hand from which on it is drawn again."""

    def __post_init__(self) -> None:
        if not 0 < self.p_bad < 1:
            raise ValueError(f"policy.p_bad={self.p_bad}: it is a probability between 0 and 1")
        if self.tries < 1:
            raise ValueError(f"policy.tries={self.tries}: at least one try")
        if not 0 < self.redo < 1:
            raise ValueError(f"policy.redo={self.redo}: a share of the steps between 0 and 1; a new seed redraws all")


@dataclass(frozen=True, eq=False)
class Canvas:
    """A batch of finished pictures, with all that drawing a part of them again needs."""

    pairs: Sequence[Pair]
    latents: Tensor
    """[B, n, c] packed, clean."""
    noise: Tensor
    """[B, n, c] packed, what the pictures began with."""
    sigmas: tuple[float, ...]
    """T + 1, of the whole schedule."""
    seen: Seen
    score: np.ndarray
    """float[B], image score of the last watched step; nan where no hand was found."""
    p_bad: np.ndarray
    """float[B], calibrated P(bad) there."""

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    def region(self, what: Region, p_bad: float = 0.5, grow: int = 1) -> np.ndarray:
        """bool[B, rows, columns] to be drawn again; the whole hand where no token of it is bad enough."""
        return np.stack([self._region(i, what, p_bad, grow) for i in range(len(self.pairs))])

    def _region(self, member: int, what: Region, p_bad: float, grow: int) -> Mask:
        frame = self.seen.of()[-1]
        found = region_tokens(self.seen.probes, self.seen.grid, frame, member, what, p_bad)
        return grown(
            found if found.any() else region_tokens(self.seen.probes, self.seen.grid, frame, member, "hand"), grow
        )

    def taking(self, other: "Canvas", better: np.ndarray) -> "Canvas":
        """The other's pictures where bool[B] says so."""
        take = torch.from_numpy(better).to(self.latents.device)
        latents = torch.where(take[:, None, None], other.latents, self.latents)
        return replace(self, latents=latents, score=np.where(better, other.score, self.score),
                       p_bad=np.where(better, other.p_bad, self.p_bad))  # fmt: skip


def final_cell(probes: Probes) -> Cell:
    """The cell that judges finished pictures: the last trained timestep, its best block by the training study."""
    timestep = min(probes.steps)
    return Cell(best_block(probes, timestep), timestep)


def paint(scene: Scene, probes: Probes, pairs: Sequence[Pair]) -> Canvas:
    """Draw a batch from noise to the end, watched."""
    with watch(scene.pipe, probes) as seen:
        latents = scene.latents(pairs)
    return canvas_of(scene, probes, pairs, seen, latents)


def canvas_of(scene: Scene, probes: Probes, pairs: Sequence[Pair], seen: Seen, latents: Tensor) -> Canvas:
    """From the batch that was just drawn, of which no member was stopped.

    Raises:
        ValueError: the cell that scores finished pictures was not watched.
    """
    sigmas = tuple(float(sigma) for sigma in scene.pipe.scheduler.sigmas)
    return Canvas(pairs, latents, seen.first[0].to(latents.device), sigmas, seen, *_scores(seen, probes))


def repaint(scene: Scene, probes: Probes, canvas: Canvas, region: np.ndarray, redo: float, number: int) -> Canvas:
    """The pictures with bool[B, rows, columns] of them drawn again, from step round((1 - redo) T) on.

    Args:
        number: of the try: each has noise of its own, from the pair's seed and this number.

    Raises:
        ValueError: a pipeline that cannot be begun in the middle of its schedule.
    """
    first = first_step(canvas.steps, redo)
    sigma, inside = canvas.sigmas[first], torch.from_numpy(region.reshape(len(region), -1, 1)).to(canvas.latents.device)
    fresh = torch.stack([_noise(pair, number, canvas.noise[0]) for pair in canvas.pairs])
    clean, noise = canvas.latents.float(), canvas.noise.float()
    begin = (1 - sigma) * clean + sigma * torch.where(inside, fresh, noise)

    def keep_outside(now: Tensor, sigma: float) -> Tensor:
        return torch.where(inside, now.float(), (1 - sigma) * clean + sigma * noise).to(now.dtype)

    with watch(scene.pipe, probes, blocks=[final_cell(probes).block], previews=False) as seen:
        latents = _from_the_middle(scene, canvas, begin.to(canvas.latents.dtype), first, keep_outside)
    return replace(canvas, latents=latents, **dict(zip(("score", "p_bad"), _scores(seen, probes), strict=True)))


def first_step(steps: int, redo: float) -> int:
    """The step that a repair begins with: 0 would be a new picture."""
    return min(max(1, round((1 - redo) * steps)), steps - 1)


def repair(scene: Scene, probes: Probes, canvas: Canvas, rule: Repair) -> tuple[Canvas, list[int]]:
    """Draw the region again until the probes do not call the hand bad, at most `rule.tries` times.

    Returns:
        The pictures that scored best, and for each the number of tries.
    """
    tries = [0] * len(canvas.pairs)
    region = canvas.region(rule.region)
    for number in range(rule.tries):
        again = (canvas.p_bad >= rule.p_bad) & region.any((1, 2))
        if not again.any():
            break
        drawn = repaint(scene, probes, canvas, region & again[:, None, None], rule.redo, number)
        tries = [count + int(one) for count, one in zip(tries, again, strict=True)]
        canvas = canvas.taking(drawn, again & (drawn.score > canvas.score))
    return canvas, tries


def pictures(scene: Scene, canvas: Canvas) -> list[Image.Image]:
    """Decoded."""
    return scene.pictures(canvas.latents)


def _scores(seen: Seen, probes: Probes) -> tuple[np.ndarray, np.ndarray]:
    cell = final_cell(probes)
    frame = next((frame for frame in reversed(seen.frames) if cell in frame.cells), None)
    if frame is None:
        raise ValueError(
            f"nothing was drawn at {cell}, which scores finished pictures: redo more of the steps, or draw with the "
            "training study's number of steps"
        )
    return frame.score[cell.block].astype(float), frame.image_p_bad[cell.block].astype(float)


def _noise(pair: Pair, number: int, like: Tensor) -> Tensor:
    seed = int(np.random.SeedSequence([pair.seed, 1 + number]).generate_state(1)[0])
    return torch.randn(like.shape, generator=torch.Generator("cpu").manual_seed(seed)).to(like.device)


def _from_the_middle(scene: Scene, canvas: Canvas, begin: Tensor, first: int, keep_outside: Any) -> Tensor:
    """Final packed latents of a call that begins with step `first`; `keep_outside(latents, sigma)` after each step."""
    pipe, spec, family = scene.pipe, scene.spec, family_of_pipe(scene.pipe)
    takes = inspect.signature(type(pipe).__call__).parameters
    if not {"sigmas", "latents", "callback_on_step_end"} <= set(takes):
        raise ValueError(f"{type(pipe).__name__} cannot begin in the middle of its schedule: repair does not work here")
    packed = hasattr(pipe, "_pack_latents")
    grid = canvas.seen.grid
    last: dict[str, Tensor] = {}

    def after(pipe: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        sigmas = pipe.scheduler.sigmas
        if abs(float(sigmas[0]) - canvas.sigmas[first]) > SHIFTED:
            raise ValueError(
                f"{type(pipe).__name__} begins at sigma {float(sigmas[0]):.3f} where step {first} has "
                f"{canvas.sigmas[first]:.3f}: its schedule cannot be begun in the middle, so repair does not work here"
            )
        kept = keep_outside(family.pack(tensors["latents"]), float(sigmas[step + 1]))
        last["latents"] = kept
        return {"latents": kept if packed else family.unpack(kept, grid)}

    # Schedules are shifted sigma by sigma, so the tail of the unshifted one becomes the tail of the shifted one.
    whole = np.linspace(1.0, 1 / canvas.steps, canvas.steps)
    embeddings = [scene.embeddings[pair.prompt] for pair in canvas.pairs]
    pipe(
        height=spec.height,
        width=spec.width,
        num_inference_steps=canvas.steps - first,
        sigmas=whole[first:].tolist(),
        latents=begin if packed else family.unpack(begin, grid),
        output_type="latent",
        callback_on_step_end=after,
        **family.arguments(embeddings, spec.guidance, pipe._execution_device),
    )
    return last["latents"]

"""What the stages need of a model: text embeddings, pictures, and replays with capture."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from badhands.cells import Cell
from badhands.diffusion.capture import capture
from badhands.diffusion.generation import Embedding
from badhands.diffusion.preview import decode, small_enough
from badhands.diffusion.scene import Scene
from badhands.diffusion.spec import ModelSpec
from badhands.extraction.sketch import sketch_rows


@dataclass(frozen=True)
class Replay:
    """One image, made again with hooks on."""

    image: Image.Image
    tensors: dict[Cell, torch.Tensor]
    """[n, d] a cell, in the model's dtype."""
    steps: dict[int, tuple[int, float]]
    """Timestep -> (step, sigma)."""
    previews: dict[int, Image.Image] = field(default_factory=dict)
    """Timestep -> decoded predicted clean latent, where asked for."""


class Renderer(Protocol):
    """Makes pictures; results do not depend on what else is in the batch."""

    def embed(self, prompts: Iterable[str]) -> dict[str, Embedding]:
        """Text embeddings; the encoders are not kept."""
        ...

    def render(self, embeddings: Sequence[Embedding], seeds: Sequence[int]) -> list[Image.Image]:
        """Up to one batch of pictures."""
        ...

    def sketch(
        self, embeddings: Sequence[Embedding], seeds: Sequence[int], cell: Cell
    ) -> list[tuple[Image.Image, np.ndarray]]:
        """The same pictures, each with the sketch of all its tokens in one cell, float16[tokens, 64]."""
        ...

    def replay(
        self,
        embeddings: Sequence[Embedding],
        seeds: Sequence[int],
        blocks: Sequence[str],
        timesteps: Sequence[int],
        tokens: Sequence[np.ndarray],
        previews: Sequence[int] = (),
    ) -> list[Replay]:
        """The same pictures, with the rows of `tokens` (one array of indices a picture), and previews at timesteps."""
        ...


class PipelineRenderer:
    """A diffusers pipeline. The transformer is loaded at the first picture, after the text encoders have gone."""

    def __init__(self, spec: ModelSpec):
        self.spec = spec
        self.scene = Scene(spec)

    def embed(self, prompts: Iterable[str]) -> dict[str, Embedding]:
        return self.scene.embed(prompts)

    def render(self, embeddings: Sequence[Embedding], seeds: Sequence[int]) -> list[Image.Image]:
        return self.scene.pictures(self.scene.draw(embeddings, seeds))

    def sketch(
        self, embeddings: Sequence[Embedding], seeds: Sequence[int], cell: Cell
    ) -> list[tuple[Image.Image, np.ndarray]]:
        with capture(self.scene.pipe, [cell.block], [cell.timestep]) as taken:
            latents = self.scene.draw(embeddings, seeds)
        images = self.scene.pictures(latents)
        return [(image, sketch_rows(taken.member(i)[cell])) for i, image in enumerate(images)]

    def replay(
        self,
        embeddings: Sequence[Embedding],
        seeds: Sequence[int],
        blocks: Sequence[str],
        timesteps: Sequence[int],
        tokens: Sequence[np.ndarray],
        previews: Sequence[int] = (),
    ) -> list[Replay]:
        pipe, size = self.scene.pipe, (self.spec.height, self.spec.width)
        with ExitStack() as stack:
            taken = stack.enter_context(capture(pipe, blocks, timesteps, list(tokens)))
            clean = stack.enter_context(capture(pipe, ["x0"], previews)) if previews else None
            latents = self.scene.draw(embeddings, seeds)
        images = self.scene.pictures(latents)
        made = [Replay(image, taken.member(i), taken.steps) for i, image in enumerate(images)]
        if clean is not None:
            for i, replay in enumerate(made):
                steps = clean.member(i)
                shown = decode(pipe, torch.stack(list(steps.values())), *size, at_once=small_enough(*size))
                replay.previews.update({cell.timestep: one for cell, one in zip(steps, shown, strict=True)})
        return made

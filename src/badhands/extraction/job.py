"""Everything one call of extract.py was asked to do, checked: the only thing that its stages see."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from badhands.cells import PSEUDO_BLOCKS, Cell, choose_timesteps, grid
from badhands.diffusion.blocks import TokenGrid, check_blocks
from badhands.diffusion.families import family_of
from badhands.diffusion.models import ModelSpec, token_grid, transformer_config
from badhands.extraction.plan import Planned, Shard, plan_images
from badhands.extraction.sketch import middle_cell
from badhands.study.choice import LabelChoice
from badhands.study.prompts import HANDS, Prompt, check_prompts, load_prompts
from badhands.study.sketches import CHANNELS
from badhands.study.study import study_folder

HAND_SHARE = {"hands": 0.02, "tiny_hands": 0.25}
"""Expected share of hand tokens, for the bill before there are labels; 0.02 is 16,000 tokens on 200 images of 4,096."""


@dataclass(frozen=True)
class Job:
    """One extraction."""

    root: Path
    """The study's folder."""
    spec: ModelSpec
    model: Mapping[str, Any]
    """The transformer's config."""
    tokens: TokenGrid
    prompts: tuple[Prompt, ...]
    images: int
    first_seed: int
    labels: LabelChoice
    blocks: tuple[str, ...]
    """In network order, pseudo-blocks first."""
    timesteps: tuple[int, ...]
    """Counting down."""
    not_hand_tokens: int
    previews: int = 0
    """Longest side, px, of the predicted clean pictures kept for each captured timestep; 0 keeps none."""
    sketch: Cell | None = None
    """The cell of which all tokens are sketched while the images are drawn, for masks that learn; None: no sketches."""
    tolerance: float | None = None
    """Least PSNR (dB) at which a replay that is not equal may pass; None: only equal pixels pass."""
    shard: Shard = field(default_factory=Shard)
    workers: int = 1
    threads: int = 1
    """CPU threads a worker; part of the fingerprint, since sums come out differently with more."""
    hand_share: float = HAND_SHARE["hands"]

    def __post_init__(self) -> None:
        if self.not_hand_tokens < 0:
            raise ValueError(f"capture.not_hand_tokens={self.not_hand_tokens}: it must be 0 or more")
        if self.previews < 0:
            raise ValueError(f"capture.previews={self.previews}: give the longest side in px, or 0 for none")
        if self.tolerance is not None and not self.tolerance > 0:
            raise ValueError(f"replay.tolerance={self.tolerance}: give a PSNR in dB, e.g. 45, or null for equal pixels")
        for name in ("workers", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: it must be at least 1")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Job":
        """From the resolved configuration of conf/extract.yaml, as plain dictionaries and lists.

        Raises:
            ValueError: an option that does not fit, in one sentence.
        """
        spec = ModelSpec.of(options["model"])
        config = transformer_config(spec)
        capture, shard = options["capture"], Shard.parse(options["shard"])
        latents = tuple(capture.get("latents") or ())
        wrong = [name for name in latents if name not in PSEUDO_BLOCKS]
        if wrong:
            raise ValueError(f"capture.latents={list(latents)}: use {' and '.join(PSEUDO_BLOCKS)}")
        wanted = capture["blocks"]
        blocks = check_blocks(config, wanted if wanted == "all" else tuple(wanted))
        tolerance, images = options["replay"]["tolerance"], int(options["images"])
        if images < 1:
            raise ValueError(f"images={images}: it must be at least 1")
        return cls(
            root=study_folder(options["study"]),
            spec=spec,
            model=config,
            tokens=token_grid(spec),
            prompts=tuple(read_prompts(options["prompts"])),
            images=images,
            first_seed=int(options["seeds"]),
            labels=LabelChoice.of(options["labels"]),
            blocks=check_blocks(config, (*latents, *blocks)),
            timesteps=choose_timesteps(capture["timesteps"], int(capture["of_steps"]), spec.steps),
            not_hand_tokens=int(capture["not_hand_tokens"]),
            previews=int(capture.get("previews") or 0),
            sketch=middle_cell(config, spec.steps) if capture.get("sketch") else None,
            tolerance=None if tolerance is None else float(tolerance),
            shard=shard,
            workers=_workers(options["workers"], spec, shard, images),
            threads=int(options["threads"]),
            hand_share=HAND_SHARE["hands" if options["prompts"].get("file") else options["prompts"]["source"]],
        )

    @cached_property
    def plan(self) -> tuple[Planned, ...]:
        """All images of the study, whoever makes them."""
        return plan_images(self.prompts, self.images, self.first_seed)

    @cached_property
    def mine(self) -> tuple[Planned, ...]:
        """This worker's images."""
        return tuple(planned for i, planned in enumerate(self.plan) if self.shard.holds(i))

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """What is captured, in network order."""
        return grid(self.blocks, self.timesteps)

    @property
    def preview_bytes(self) -> int:
        """Bytes of one image's previews, at most: PNG of noisy pictures hardly shrinks."""
        scale = min(1.0, self.previews / max(self.spec.height, self.spec.width))
        return round(len(self.timesteps) * self.spec.height * self.spec.width * scale**2 * 3)

    @property
    def sketch_bytes(self) -> int:
        """Bytes of one image's sketch."""
        return 2 * CHANNELS * len(self.tokens) if self.sketch else 0

    def cell_bytes(self, cell: Cell) -> int:
        """Bytes of one captured token in this cell."""
        family, itemsize = family_of(self.model), self.spec.torch_dtype.itemsize
        if cell.block in PSEUDO_BLOCKS:
            return family.latent_channels(self.model) * (4 if family.float32_latents else itemsize)
        return family.width(self.model) * itemsize


def read_prompts(options: Mapping[str, Any]) -> list[Prompt]:
    """The prompts of a `prompts` config group: a user's file, the hands set, or captions of the embedded model.

    Raises:
        ValueError: an unknown source, or a file that does not read.
    """
    if options.get("file"):
        return load_prompts(options["file"])
    source = options["source"]
    if source == "hands":
        return load_prompts(HANDS)
    if source == "tiny_hands":
        from badhands.tiny_hands.attributes import random_captions

        captions = random_captions(int(options["count"]), int(options["seed"]))
        named = ((f"caption {i}", Prompt(f"t{i:05d}", text, axes)) for i, (text, axes) in enumerate(captions))
        return check_prompts(named, "prompts.source=tiny_hands")
    raise ValueError(f"prompts.source={source}: use hands or tiny_hands, or give prompts.file=")


def _workers(wanted: Any, spec: ModelSpec, shard: Shard, images: int) -> int:
    """`auto`: one a core on a CPU, one a visible GPU; one where the user starts shards himself or names a card."""
    if wanted != "auto":
        return int(wanted)
    if shard.count > 1 or ":" in spec.device:
        return 1
    if spec.torch_device().type == "cuda":
        return max(1, min(torch.cuda.device_count(), images // spec.batch_size))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, images // (2 * spec.batch_size)))

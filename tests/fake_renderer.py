"""A renderer without a model: pictures and activations are a hash of prompt and seed, made in about a millisecond.

It stands in where the tests are about storage: thousands of images can be made, killed and resumed in seconds.
"""

import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from badhands.cells import Cell
from badhands.diffusion.blocks import TokenGrid
from badhands.diffusion.generation import Embedding
from badhands.diffusion.spec import ModelSpec
from badhands.extraction.job import Job
from badhands.extraction.plan import Shard
from badhands.extraction.renderer import Replay
from badhands.study.choice import LabelChoice
from badhands.study.classes import BAD, GOOD, NOT_HAND
from badhands.study.label_log import LabelLog
from badhands.study.labels import LabelRecord
from badhands.study.prompts import Prompt

WIDTH = 12
MODEL = {
    "_class_name": "FluxTransformer2DModel",
    "num_layers": 1,
    "num_single_layers": 2,
    "num_attention_heads": 1,
    "attention_head_dim": WIDTH,
    "in_channels": 8,
}
SPEC = ModelSpec(
    name="fake",
    path="fake/fake",
    height=16,
    width=24,
    steps=4,
    guidance=1.0,
    dtype="float32",
    device="cpu",
    batch_size=3,
)
MADE_BY: tuple[str, dict[str, Any]] = ("fa4e00000000", {"weights": "fake", "steps": 4, "device": "here"})


class FakeRenderer:
    """Deterministic in (prompt, seed) and nothing else."""

    delay = 0.0

    def __init__(self, spec: ModelSpec):
        self.spec = spec

    def embed(self, prompts: Iterable[str]) -> dict[str, Embedding]:
        return {p: Embedding(torch.tensor([float(zlib.crc32(p.encode()) % 9973)]), torch.zeros(1)) for p in prompts}

    def render(self, embeddings: Sequence[Embedding], seeds: Sequence[int]) -> list[Image.Image]:
        time.sleep(self.delay)
        return [
            Image.fromarray(self._rng(e, s).integers(0, 256, (16, 24, 3), np.uint8))
            for e, s in zip(embeddings, seeds, strict=True)
        ]

    def sketch(
        self, embeddings: Sequence[Embedding], seeds: Sequence[int], cell: Cell
    ) -> list[tuple[Image.Image, Any]]:
        images = self.render(embeddings, seeds)
        return [(i, self._rng(e, s, 7).standard_normal((24, 64)).astype(np.float16))
                for i, e, s in zip(images, embeddings, seeds, strict=True)]  # fmt: skip

    def replay(
        self,
        embeddings: Sequence[Embedding],
        seeds: Sequence[int],
        blocks: Sequence[str],
        timesteps: Sequence[int],
        tokens: Sequence[np.ndarray],
        previews: Sequence[int] = (),
    ) -> list[Replay]:
        made = []
        for image, e, s, index in zip(self.render(embeddings, seeds), embeddings, seeds, tokens, strict=True):
            tensors = {}
            for block in blocks:
                for t in timesteps:
                    rng = self._rng(e, s, zlib.crc32(f"{block}/{t}".encode()))
                    tensors[Cell(block, t)] = torch.from_numpy(rng.standard_normal((24, WIDTH), np.float32))[index]
            shown = {t: Image.fromarray(np.full((16, 24, 3), 10 * t + s % 10, np.uint8)) for t in previews}
            made.append(Replay(image, tensors, {t: (4 - t, t / 4) for t in timesteps}, shown))
        return made

    @staticmethod
    def _rng(embedding: Embedding, *key: int) -> np.random.Generator:
        return np.random.default_rng([int(embedding.prompt_embeds[0]), *key])


def make_job(root: Path, images: int = 18, **changes: Any) -> Job:
    """4 x 6 tokens, 6 cells; labels come from `paint`."""
    prompts = tuple(Prompt(f"p{i}", f"hand number {i}", {"style": "fake"}) for i in range(images))
    job = Job(
        root=root,
        spec=SPEC,
        model=MODEL,
        tokens=TokenGrid(4, 6, 4),
        prompts=prompts,
        images=images,
        first_seed=0,
        labels=LabelChoice("painted", None),
        blocks=("double.0", "single.0", "single.1"),
        timesteps=(4, 1),
        not_hand_tokens=5,
    )
    return replace(job, **changes)


def shard(i: int, n: int) -> Shard:
    return Shard(i, n)


def paint(root: Path, image_ids: Iterable[str], annotator: str = "ann") -> None:
    """Every third image bad, the others good, by someone whose labels depend on the image alone."""
    log = LabelLog(root / "labels.jsonl")
    for image_id in image_ids:
        i = int(image_id.split("-s")[1])
        classes = np.full((4, 6), NOT_HAND, np.uint8)
        classes[1:3, i % 4 : i % 4 + 2] = BAD if i % 3 == 0 else GOOD
        log.append(LabelRecord(image_id, annotator, f"2026-01-01T00:00:{i:02d}Z", 2.0, classes))


def contents(root: Path) -> dict[str, bytes]:
    """Every file of a folder, temporary ones too."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def device_of(renderer: FakeRenderer, wait: float) -> str:
    """The card that this process was given; slow enough for every process to take part."""
    time.sleep(wait)
    return renderer.spec.device

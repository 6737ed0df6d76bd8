"""A whole study as extract.py leaves it, of FLUX's size and without a model: what train.py and its clock are tried on.

200 images of 1,024 x 1,024 px with 80 hand and 16 other tokens, 6 blocks x 8 timesteps of 3,072 channels in bfloat16
beside `xt` and `x0` of 64, previews of 512 px: 6 GB. The tokens of an image share an effect, a few directions are much
stronger than the others, two channels are massive, and good and bad differ by a little that grows with the steps.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from badhands.cells import PSEUDO_BLOCKS, Cell, grid
from badhands.stats.threads import spread
from badhands.study.activations import write_image
from badhands.study.choice import Choice, ChosenImage, LabelChoice
from badhands.study.classes import BAD, GOOD, LOCAL, NOT_HAND
from badhands.study.labels import LabelRecord
from badhands.study.manifest import ImageEntry, pixel_sha256
from badhands.study.previews import preview_path, write_previews
from badhands.study.study import Study

BLOCKS = ("double.12", "single.8", "single.12", "single.16", "single.24", "single.32")
TIMESTEPS = (20, 19, 18, 17, 15, 12, 8, 3)
STEPS = 20
FINGERPRINT = "0123456789ab"
STRONG = 12
"""Directions along which tokens vary ten times as much as along the others."""


@dataclass(frozen=True)
class Size:
    """What the study holds. The defaults are the study's full size."""

    images: int = 200
    hand: int = 80
    """Labelled hand tokens an image."""
    other: int = 16
    """Tokens an image that are no hand."""
    width: int = 3072
    blocks: tuple[str, ...] = BLOCKS
    timesteps: tuple[int, ...] = TIMESTEPS
    side: int = 64
    """Tokens of a row of the picture; a token is 16 px wide."""
    previews: int = 512
    """Longest side of the previews, px; 0: none."""

    @property
    def cells(self) -> tuple[Cell, ...]:
        return grid((*self.blocks, *PSEUDO_BLOCKS), self.timesteps)


def write_study(root: Path, size: Size, device: str = "cpu", seed: int = 0) -> float:
    """Make the study at `root` unless it is there already; returns its size in GB. `device` draws the numbers."""
    done = root / "size.json"
    told = json.loads(json.dumps(asdict(size)))
    if done.is_file() and json.loads(done.read_text()) == told:
        return _gigabytes(root)
    begin = time.perf_counter()
    study = Study.create(root)
    study.write_fingerprint(FINGERPRINT, {"model": "synthetic"})
    draw = _Draw(size, device, seed)
    good = np.random.default_rng(seed).permutation(np.arange(size.images) % 2 == 0)
    pictures = spread(lambda i: _write_pictures(study, size, np.random.default_rng([seed, i]), i), range(size.images))
    chosen = []
    for i, picture in enumerate(pictures):
        chosen.append(_write_image(study, size, draw, i, bool(good[i]), np.random.default_rng([seed, i, 1]), picture))
    Choice(LabelChoice("judge", "judge"), tuple(chosen), labelled=len(chosen), bad=int((~good).sum())).write(root)
    done.write_text(json.dumps(told))
    gigabytes = _gigabytes(root)
    print(f"made {size.images} images x {len(size.cells)} cells, {gigabytes:.2f} GB, "
          f"in {time.perf_counter() - begin:.0f} s", flush=True)  # fmt: skip
    return gigabytes


class _Draw:
    """Activations of one image and cell after the other."""

    def __init__(self, size: Size, device: str, seed: int) -> None:
        self.size, self.device = size, torch.device(device)
        self.g = torch.Generator(device).manual_seed(seed)
        self.strong = 0.1 * self.normal(STRONG, size.width)
        self.hand = 0.3 * self.normal(size.width)
        self.difference = {block: self.normal(size.width) / size.width**0.5 for block in (*size.blocks, "all")}
        self.massive = [channel for channel in (3, 11) if channel < size.width - 2]

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.g, device=self.device)

    def image(self, good: bool, hand: Tensor) -> dict[Cell, Tensor]:
        """All cells of one image, [n, d] each on the CPU. hand: bool[n]."""
        n, width = len(hand), self.size.width
        hand = hand.to(self.device)
        own = self.normal(width)
        found: dict[Cell, Tensor] = {}
        for cell in self.size.cells:
            if cell.block in PSEUDO_BLOCKS:
                found[cell] = self.normal(n, 64).bfloat16().cpu()
                continue
            x = self.normal(n, width) + self.normal(n, STRONG) @ self.strong * 10
            x += 0.5 * (own + self.normal(width))
            late = 1.5 * (STEPS - cell.timestep) / STEPS
            gap = late * (self.difference["all"] + self.difference[cell.block])
            x[hand] += self.hand + (gap if good else -gap)
            x[:, self.massive] = 60 + 4 * x[:, self.massive]
            found[cell] = x.bfloat16().cpu()
        return found


def _write_pictures(study: Study, size: Size, rng: np.random.Generator, i: int) -> tuple[str, tuple[int, int]]:
    """The picture and its previews; returns its hash and size."""
    picture, image_id = _picture(rng, 16 * size.side), f"syn-{i:05d}"
    picture.save(study.image_path(image_id), compress_level=1)
    if size.previews:
        path = preview_path(study.root, FINGERPRINT, image_id)
        write_previews(path, {t: _picture(rng, size.previews) for t in size.timesteps}, size.previews)
    return pixel_sha256(picture), picture.size


def _write_image(
    study: Study, size: Size, draw: _Draw, i: int, good: bool, rng: np.random.Generator,
    picture: tuple[str, tuple[int, int]],
) -> ChosenImage:  # fmt: skip
    image_id, prompt = f"syn-{i:05d}", f"synthetic prompt {i // 2} of a hand that does number {i // 2 % 7}"
    classes = np.zeros(size.side**2, np.uint8)
    row, column = np.divmod(np.arange(size.side**2), size.side)
    order = np.argsort(np.hypot(row - rng.integers(size.side), column - rng.integers(size.side)), kind="stable")
    classes[order[: size.hand]] = GOOD if good else BAD
    classes[rng.choice(order[size.hand :], size.other, replace=False)] = NOT_HAND
    tokens = np.flatnonzero(classes).astype(np.int32)
    kinds = np.where(classes == BAD, LOCAL, 0).astype(np.uint8)
    shape = (size.side, size.side)
    record = LabelRecord(image_id, "judge", "", 0.0, classes.reshape(shape), kinds.reshape(shape))
    study.manifest.append(
        ImageEntry(image_id, prompt, i, FINGERPRINT, picture[0], *picture[1], shape, {}, f"p{i // 2}")
    )
    study.labels.append(record)
    meta: dict[str, Any] = {
        "prompt": prompt, "prompt_id": f"p{i // 2}", "axes": {}, "seed": i, "grid": list(shape), "annotator": "judge",
        "steps": {t: (STEPS - t, t / STEPS) for t in size.timesteps}, "label_digest": record.digest,
    }  # fmt: skip
    values = draw.image(good, torch.from_numpy(classes[tokens] != NOT_HAND))
    folder = study.activations_folder(FINGERPRINT)
    write_image(folder, image_id, values, tokens, classes[tokens], kinds[tokens], meta)
    return ChosenImage(image_id, "good" if good else "bad", "judge", record.digest, "")


def _picture(rng: np.random.Generator, side: int) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).resize((side, side), Image.Resampling.NEAREST)


def _gigabytes(root: Path) -> float:
    return sum(path.stat().st_size for path in (root / "activations").rglob("*.safetensors")) / 1e9


def some_cells(count: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Blocks and timesteps of about this many cells: timesteps first, then blocks."""
    timesteps: Sequence[int] = TIMESTEPS[: max(1, min(len(TIMESTEPS), count))]
    blocks = max(1, round(count / len(timesteps)))
    names = BLOCKS if blocks <= len(BLOCKS) else tuple(f"single.{i}" for i in range(blocks))
    return tuple(names[:blocks]), tuple(timesteps)

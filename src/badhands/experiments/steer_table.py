"""The raw table of only=steer: each fresh pair drawn plainly and once for every push, judged and compared."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.ndimage import binary_dilation
from tqdm import tqdm

from badhands.cells import Cell
from badhands.diffusion.scene import Pair, Scene
from badhands.experiments.fresh_table import keep_making, read_rows
from badhands.probes.artifact import Probes
from badhands.study.journal import write_whole
from badhands.watch.policies import Steer
from badhands.watch.watcher import watch

NAME = "pushes.jsonl"
MARGIN = 4
"""Pixels round the plain picture's hand that count as hand when damage outside of it is measured."""


@dataclass(frozen=True)
class Push:
    """One way to steer."""

    strength: float
    random: int | None = None
    """Number of the random direction; None: the mean difference."""

    @property
    def name(self) -> str:
        return f"{self.strength:+g}" + ("" if self.random is None else f" random {self.random}")


def fill_pushes(
    path: Path,
    pairs: Sequence[Pair],
    pushes: Sequence[Push],
    cells: Sequence[Cell],
    where: Literal["hand", "all"],
    scene: Scene,
    probes: Probes,
    judge: Any,
    said: dict[str, Any],
) -> list[dict[str, Any]]:
    """Draw what is missing, a batch of pairs with all their pushes at a time; called again, it goes on.

    Args:
        said: what the table is made with beside pairs and pushes; compared when it is continued.

    Raises:
        ValueError: the file holds other pairs or pushes, or was made with something else.
    """
    keep_making(path, said)
    rows = read_rows(path)
    each = len(pushes) + 1
    rows = rows[: len(rows) // each * each]
    names = ["plain", *(push.name for push in pushes)]
    expected = [(pair.seed, name) for pair in pairs for name in names][: len(rows)]
    if sorted((row["seed"], row["push"]) for row in rows) != sorted(expected):
        raise ValueError(f"{path} holds other pairs or pushes: give another folder")
    write_whole(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    bar = tqdm(total=len(pairs) * each, initial=len(rows), desc="pushed images", unit="image")
    with path.open("a") as stream, bar:
        for start in range(len(rows) // each, len(pairs), scene.spec.batch_size):
            batch = pairs[start : start + scene.spec.batch_size]
            drawn = []
            for row in _draw(batch, pushes, cells, where, scene, probes, judge):
                drawn.append(row)
                bar.update()
            for row in sorted(drawn, key=lambda row: row["seed"]):
                rows.append(row)
                stream.write(json.dumps(row) + "\n")
            stream.flush()
    return rows


def _draw(
    batch: Sequence[Pair], pushes: Sequence[Push], cells: Sequence[Cell], where: Literal["hand", "all"], scene: Scene,
    probes: Probes, judge: Any,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    latents = scene.latents(batch)
    plain = np.stack([np.asarray(picture) for picture in scene.pictures(latents)])
    masks = [v.pixel_mask for v in judge.judge(plain)]
    outside = [np.logical_not(binary_dilation(mask, iterations=MARGIN)) for mask in masks]
    yield from _rows(batch, "plain", 0.0, None, plain, plain, outside, judge, float("nan"))
    blocks = sorted({cell.block for cell in cells})
    for push in pushes:
        policy = Steer.of(probes, cells, push.strength, where, push.random)
        with watch(scene.pipe, probes, policy, blocks=blocks, previews=False):
            pushed = scene.latents(batch)
        pictures = np.stack([np.asarray(picture) for picture in scene.pictures(pushed)])
        lengths = [x for of in policy.lengths.values() for x in of if np.isfinite(x)]
        relative = float(np.mean(lengths)) if lengths else float("nan")
        yield from _rows(batch, push.name, push.strength, push.random, pictures, plain, outside, judge, relative)


def _rows(
    batch: Sequence[Pair], name: str, strength: float, random: int | None, pictures: np.ndarray, plain: np.ndarray,
    outside: Sequence[np.ndarray], judge: Any, relative: float,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    logits, verdicts = judge.logits(pictures), judge.judge(pictures)
    for i, pair in enumerate(batch):
        change = np.abs(pictures[i].astype(float) - plain[i]).mean(-1)
        yield {
            "prompt": pair.prompt, "seed": pair.seed, "push": name, "strength": strength, "random": random,
            "verdict": verdicts[i].verdict, "logit": float(logits[i]), "relative_length": relative,
            "outside": float(change[outside[i]].mean()) if outside[i].any() else 0.0,
            "inside": float(change[~outside[i]].mean()) if (~outside[i]).any() else 0.0,
            "equal": bool((pictures[i] == plain[i]).all()),
        }  # fmt: skip

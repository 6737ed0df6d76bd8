"""The table that abort and best of N are read from: fresh images, each drawn to the end once, every score kept.

Whatever a rule would have done is computed from it exactly: an image's evaluations under a rule are T, or the number of
steps up to the one that stopped it. Prompts come back with several seeds, so that seeds of one prompt can compete.
"""

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray

from badhands.cells import Cell
from badhands.diffusion.preview import decode
from badhands.diffusion.scene import Pair
from badhands.experiments.rows import Artist, fill_rows, finish
from badhands.probes.artifact import Probes
from badhands.watch.compatibility import main_block
from badhands.watch.fresh import fresh_pairs
from badhands.watch.seen import Seen
from badhands.watch.watcher import watch

NAME = "images.jsonl"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FreshImages:
    """How many: every prompt with as many seeds."""

    prompts: int = 64
    seeds: int = 12

    def __post_init__(self) -> None:
        if self.prompts < 8 or self.seeds < 4:
            raise ValueError("experiments need fresh.prompts >= 8 and fresh.seeds >= 4")

    def pairs(self, source: str, known: Collection[str] = ()) -> list[Pair]:
        """Prompt after prompt, round after round; a larger number of seeds continues the same table."""
        return fresh_pairs(source, self.prompts * self.seeds, known=known, prompts=self.prompts)


@dataclass(frozen=True, eq=False)
class FreshTable:
    """images.jsonl as arrays over n images; K watched steps, noise first."""

    prompt: NDArray[np.int64]
    """[n], which prompt: images of one prompt are not independent."""
    kind: NDArray[np.int64]
    """[n], which kind of prompt: direction and size of a caption of the embedded models; of others, the prompt."""
    good: NDArray[np.bool_]
    """[n]: the judge calls it good; bad, no hand and abstained are all not good."""
    bad: NDArray[np.bool_]
    timesteps: tuple[int, ...]
    """[K], of the training schedule, counting down."""
    at: NDArray[np.int64]
    """[K]: evaluations that an image has cost when its score there is known."""
    steps: int
    """T: evaluations of a finished image."""
    cells: dict[Cell, Floats]
    """Cell -> [n] image scores of the probe; nan where no hand was found."""
    preview: Floats
    """[n, K]: the judge's logit of a good hand on the decoded preview of each watched step."""
    change: Floats
    """[n, K]: log variance of the predicted clean latent so far, over hand tokens; nan at the first step."""
    seconds: dict[str, float]
    """What an evaluation, a preview with its verdict, and a finished picture take; medians over the batches."""

    @classmethod
    def of(cls, rows: Sequence[dict[str, Any]]) -> "FreshTable":
        def column(name: str, keys: Sequence[object]) -> Floats:
            return np.array([[np.nan if row[name].get(str(k)) is None else row[name][str(k)] for k in keys]
                             for row in rows], float)  # fmt: skip

        verdict = np.array([row["verdict"] for row in rows])
        timesteps = tuple(sorted((int(t) for t in rows[0]["evaluations"]), reverse=True))
        cells = list(rows[0]["scores"])
        scores = column("scores", cells)
        return cls(
            _numbered([row["prompt"] for row in rows]), _numbered([kind_of(row["prompt"]) for row in rows]),
            verdict == "good", verdict == "bad", timesteps,
            np.array([rows[0]["evaluations"][str(t)] for t in timesteps]), int(rows[0]["num_steps"]),
            {Cell.parse(key): scores[:, i] for i, key in enumerate(cells)},
            column("preview", timesteps), column("x0_change", timesteps),
            {key: float(np.median([row["seconds"][key] for row in rows])) for key in rows[0]["seconds"]},
        )  # fmt: skip

    def best_cells(self, probes: Probes) -> list[Cell]:
        """At every watched step the block with the best out-of-fold AUROC in the training study."""
        scores = probes.card.get("scores") or {}
        return [
            max((c for c in self.cells if c.timestep == t), key=lambda c: scores.get(str(c), {}).get("image_auroc", 0))
            for t in self.timesteps
        ]

    def path(self, cells: Sequence[Cell]) -> Floats:
        """[n, K]: scores at these cells."""
        return np.stack([self.cells[cell] for cell in cells], 1)


def kind_of(prompt: str) -> str:
    """Direction and size of a caption of the embedded models; any other prompt is a kind of its own."""
    from badhands.tiny_hands.attributes import attributes_of

    try:
        attributes = attributes_of(prompt)
    except ValueError:
        return prompt
    return f"{attributes['size']} {attributes['direction']}"


def _numbered(names: Sequence[str]) -> NDArray[np.int64]:
    return np.unique(names, return_inverse=True)[1].reshape(-1).astype(np.int64)


def fill_table(
    path: Path, pairs: Sequence[Pair], artist: Artist, made_with: dict[str, Any], workers: int = 1
) -> list[dict[str, Any]]:
    """The table's rows, drawn where they are missing. Raises as `fill_rows`."""
    return fill_rows(path, pairs, artist, draw_rows, made_with, "fresh images", workers=workers)


def draw_rows(artist: Artist, batch: Sequence[Pair]) -> Iterator[dict[str, Any]]:
    """One row an image: verdict, scores of every cell, the judge on every preview, and what each took."""
    scene, judge = artist.scene, artist.judge
    finish(scene.pipe)  # loaded and at rest before the clock starts
    clock = [time.perf_counter()]

    def lap() -> float:
        finish(scene.pipe)
        clock.append(time.perf_counter())
        return (clock[-1] - clock[-2]) / len(batch)

    with watch(scene.pipe, artist.probes) as seen:
        latents = scene.latents(batch)
    drawn = lap()
    pictures = np.stack([np.asarray(picture) for picture in scene.pictures(latents)])
    decoded = lap()
    verdicts = judge.judge(pictures)
    judged = lap()
    previews = preview_logits(artist, seen)
    looked = lap()
    frames = seen.frames
    seconds = {"evaluation": drawn / frames[0].num_steps, "preview": looked / len(frames),
               "picture": decoded, "judge": judged}  # fmt: skip
    for i, (pair, verdict) in enumerate(zip(batch, verdicts, strict=True)):
        yield {
            **asdict(pair), "verdict": verdict.verdict, "confidence": round(float(verdict.confidence), 5),
            "evaluations": {str(f.cells[0].timestep): f.step + 1 for f in frames},
            "num_steps": frames[0].num_steps, "seconds": seconds,
            "scores": _scores(seen, i), "x0_change": _changes(seen, i),
            "preview": {str(f.cells[0].timestep): round(float(previews[i, k]), 4) for k, f in enumerate(frames)},
        }  # fmt: skip


def preview_logits(artist: Artist, seen: Seen) -> Floats:
    """[B, frames]: the judge's logit of a good hand on the preview of every member at every watched step.

    All are decoded in batches: last bits may differ from previews decoded one by one.
    """
    clean = torch.cat([frame.x0 for frame in seen.frames if frame.x0 is not None])
    pictures = decode(artist.scene.pipe, clean, *seen.size(), at_once=artist.scene.spec.batch_size)
    logits = artist.judge.logits(np.stack([np.asarray(picture) for picture in pictures]))
    return rearrange(np.asarray(logits, float), "(k b) -> b k", k=len(seen.frames))


def _scores(seen: Seen, member: int) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for frame in seen.frames:
        for cell in frame.cells:
            value = float(frame.score[cell.block][member])
            found[str(cell)] = round(value, 5) if np.isfinite(value) else None
    return found


def _changes(seen: Seen, member: int) -> dict[str, float | None]:
    """Mean over hand tokens of the log variance of x0 so far, from the second watched step on."""
    block = main_block(seen.probes, seen.blocks)
    found: dict[str, float | None] = {}
    for frame in seen.frames[1:]:
        if block in frame.hand:
            hand = frame.hand[block][member]
            value = float(frame.x0_change[member][hand].mean()) if hand.any() else float("nan")
            found[str(frame.cells[0].timestep)] = round(value, 5) if np.isfinite(value) else None
    return found

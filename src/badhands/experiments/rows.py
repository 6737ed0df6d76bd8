"""Raw tables of the experiments: one JSON line a picture, drawn where they are missing, by one process or several."""

import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from badhands.diffusion.scene import Pair, Scene
from badhands.diffusion.spec import ModelSpec
from badhands.diffusion.workers import Workers
from badhands.probes.artifact import Probes
from badhands.study.journal import write_whole

Row = dict[str, Any]


@dataclass(frozen=True)
class Artist:
    """What draws and judges. Every process has its own."""

    scene: Scene
    probes: Probes
    judge: Any


Draw = Callable[[Artist, Sequence[Pair]], Iterator[Row]]
"""The rows of a batch, in the order of its pairs. With several processes it has to be picklable."""


def fill_rows(
    path: Path, pairs: Sequence[Pair], artist: Artist, draw: Draw, made_with: dict[str, Any], what: str, *,
    each: int = 1, batch: int | None = None, workers: int = 1,
) -> list[Row]:  # fmt: skip
    """Draw what a table lacks, a batch of pairs at a time; called again, it goes on.

    Several processes draw the very batches that one would, so the rows are the same but for the clocks.

    Args:
        made_with: what the table was made with; kept beside it, and compared when it is continued.
        each: rows for every pair.
        batch: pairs in a batch; None: the model's batch size.

    Raises:
        ValueError: the folder holds a table made with something else.
    """
    keep_making(path, made_with)
    rows = read_rows(path)
    rows = rows[: len(rows) // each * each]
    have = [(row["prompt"], row["seed"]) for row in rows[::each]]
    if any(key != (pair.prompt, pair.seed) for key, pair in zip(have, pairs, strict=False)):
        raise ValueError(f"{path} holds other pairs: give another folder")
    write_whole(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    size = batch or artist.scene.spec.batch_size
    batches = [pairs[start : start + size] for start in range(len(have), len(pairs), size)]
    bar = tqdm(total=len(pairs), initial=min(len(have), len(pairs)), desc=what, unit="pair")
    with path.open("ab") as stream, bar:
        for part in _in_order(artist, draw, batches, workers):
            assert len(part) % each == 0
            rows += part
            stream.write("".join(json.dumps(row) + "\n" for row in part).encode())
            stream.flush()
            bar.update(len(part) // each)
    return rows[: each * len(pairs)]


def _in_order(artist: Artist, draw: Draw, batches: Sequence[Sequence[Pair]], workers: int) -> Iterator[list[Row]]:
    scene = artist.scene
    workers = max(1, min(workers, len(batches)))
    make = (lambda _spec: artist) if workers == 1 else Hired.like(artist)
    waiting: dict[int, list[Row]] = {}
    with Workers(make, scene.spec, workers, threads=1) as pool:
        place = 0
        for k, rows in pool.map(partial(_task, draw), enumerate(batches)):
            waiting[k] = rows
            while place in waiting:
                yield waiting.pop(place)
                place += 1


def _task(draw: Draw, artist: Artist, task: tuple[int, Sequence[Pair]]) -> tuple[int, list[Row]]:
    return task[0], list(draw(artist, task[1]))


@dataclass(frozen=True)
class Hired:
    """Makes the artist of another process."""

    content: bytes
    """Pickled here, by value: thousands of small tensors shared through file descriptors would exhaust them."""

    @classmethod
    def like(cls, artist: Artist) -> "Hired":
        return cls(pickle.dumps((artist.scene.embeddings, artist.probes, artist.judge)))

    def __call__(self, spec: ModelSpec) -> Artist:
        embeddings, probes, judge = pickle.loads(self.content)
        scene = Scene(spec)
        scene.embeddings = embeddings
        return Artist(scene, probes, judge.to(spec.torch_device()))


def read_rows(path: Path) -> list[Row]:
    """Rows written so far; a torn last line is cut off, and its batch drawn again."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        write_whole(path, whole)
    return [json.loads(line) for line in whole.splitlines()]


def keep_making(path: Path, made_with: dict[str, Any]) -> None:
    """Write beside a table what it is made with, or compare with what is written there.

    Raises:
        ValueError: the table was made with something else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    keep = path.with_suffix(".made_with.json")
    if keep.exists() and json.loads(keep.read_text()) != json.loads(json.dumps(made_with)):
        raise ValueError(
            f"{path.parent} holds {path.name} of another model, other probes or other settings: give another folder "
            "(hydra.run.dir=...), or remove that file"
        )
    write_whole(keep, (json.dumps(made_with, indent=1) + "\n").encode())


def finish(pipe: Any) -> None:
    """Wait for what the pipeline's device has still to do: before a clock is read."""
    if pipe.transformer.device.type == "cuda":
        torch.cuda.synchronize(pipe.transformer.device)

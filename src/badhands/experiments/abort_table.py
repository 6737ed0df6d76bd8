"""The raw table of study=abort: fresh pairs, each drawn to the end once, with its score in every cell and a verdict.

Every policy, cost and interval is computed from this table, exactly: an image's evaluations under a policy are T, or
the number of steps up to the one that stopped it.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from badhands.cells import Cell
from badhands.diffusion.scene import Pair, Scene
from badhands.probes.artifact import Probes
from badhands.study.journal import write_whole
from badhands.watch.fitting import main_block
from badhands.watch.seen import Seen
from badhands.watch.watcher import watch

NAME = "images.jsonl"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows written so far; a torn last line is cut off, and its batch drawn again."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        write_whole(path, whole)
    return [json.loads(line) for line in whole.splitlines()]


def keep_making(path: Path, said: dict[str, Any]) -> None:
    """Write beside a table what it is made with, or compare with what is written there.

    Raises:
        ValueError: the table was made with something else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    keep = path.with_suffix(".made_with.json")
    if keep.exists() and json.loads(keep.read_text()) != json.loads(json.dumps(said)):
        raise ValueError(f"{path.parent} holds the images of another model or other probes: give another folder")
    write_whole(keep, (json.dumps(said, indent=1) + "\n").encode())


def fill_table(
    path: Path, pairs: Sequence[Pair], scene: Scene, probes: Probes, judge: Any, said: dict[str, Any]
) -> list[dict[str, Any]]:
    """Draw what is missing; called again, it goes on.

    Args:
        said: what the table was made with; kept beside it, and compared when it is continued.

    Raises:
        ValueError: the folder holds a table made with something else.
    """
    keep_making(path, said)
    rows = read_rows(path)
    if any((row["seed"], row["prompt"]) != (pair.seed, pair.prompt) for row, pair in zip(rows, pairs, strict=False)):
        raise ValueError(f"{path} holds other pairs: give another folder")
    if len(rows) >= len(pairs):
        return rows[: len(pairs)]
    bar = tqdm(total=len(pairs), initial=len(rows), desc="fresh images", unit="image")
    with path.open("ab") as stream, bar:
        for start in range(len(rows), len(pairs), scene.spec.batch_size):
            for row in _draw(pairs[start : start + scene.spec.batch_size], scene, probes, judge):
                rows.append(row)
                stream.write((json.dumps(row) + "\n").encode())
            stream.flush()
            bar.update(len(rows) - bar.n)
    return rows


def _draw(batch: Sequence[Pair], scene: Scene, probes: Probes, judge: Any) -> Iterator[dict[str, Any]]:
    begin = time.perf_counter()
    with watch(scene.pipe, probes, previews=False) as seen:
        latents = scene.latents(batch)
    drawn = time.perf_counter()
    pictures = np.stack([np.asarray(picture) for picture in scene.pictures(latents)])
    decoded = time.perf_counter()
    verdicts = judge.judge(pictures)
    judged = time.perf_counter()
    share = len(batch)
    for i, (pair, verdict) in enumerate(zip(batch, verdicts, strict=True)):
        yield {
            **asdict(pair), "verdict": verdict.verdict, "confidence": round(float(verdict.confidence), 5),
            "evaluations": {str(t): frame_steps for t, frame_steps in _steps(seen).items()},
            "num_steps": seen.frames[0].num_steps,
            "seconds": [(drawn - begin) / share, (decoded - drawn) / share, (judged - decoded) / share],
            "scores": _scores(seen, i), "x0_change": _changes(seen, i),
        }  # fmt: skip


def _steps(seen: Seen) -> dict[int, int]:
    """Trained timestep -> evaluations an image has cost when its score there is known."""
    return {frame.cells[0].timestep: frame.step + 1 for frame in seen.frames}


def _scores(seen: Seen, member: int) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for frame in seen.frames:
        for cell in frame.cells:
            value = float(frame.score[cell.block][member])
            found[str(Cell(cell.block, cell.timestep))] = round(value, 5) if np.isfinite(value) else None
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

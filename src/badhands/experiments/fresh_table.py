"""The table that abort and best of N are read from: fresh images, each drawn to the end once, every score kept.

Whatever a rule would have done is computed from it exactly: an image's evaluations under a rule are T, or the number of
steps up to the one that stopped it. Prompts come back with several seeds, so that seeds of one prompt can compete.
"""

import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from badhands.cells import Cell
from badhands.diffusion.scene import Pair, Scene
from badhands.probes.artifact import Probes
from badhands.study.journal import write_whole
from badhands.watch.fitting import main_block
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


def fill_rows(
    path: Path, pairs: Sequence[Pair], batch_size: int, draw: Callable[[Sequence[Pair]], Iterator[dict[str, Any]]],
    said: dict[str, Any], what: str, each: int = 1,
) -> list[dict[str, Any]]:  # fmt: skip
    """Draw what a table lacks, a batch of pairs at a time; called again, it goes on.

    Args:
        draw: rows of a batch, `each` for every pair, in the order of the pairs.
        said: what the table was made with; kept beside it, and compared when it is continued.

    Raises:
        ValueError: the folder holds a table made with something else.
    """
    keep_making(path, said)
    rows = read_rows(path)
    rows = rows[: len(rows) // each * each]
    have = [(row["prompt"], row["seed"]) for row in rows[::each]]
    if any(key != (pair.prompt, pair.seed) for key, pair in zip(have, pairs, strict=False)):
        raise ValueError(f"{path} holds other pairs: give another folder")
    write_whole(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    bar = tqdm(total=len(pairs), initial=min(len(have), len(pairs)), desc=what, unit="pair")
    with path.open("ab") as stream, bar:
        for start in range(len(have), len(pairs), batch_size):
            batch = pairs[start : start + batch_size]
            found = list(draw(batch))
            assert len(found) == each * len(batch)
            rows += found
            stream.write("".join(json.dumps(row) + "\n" for row in found).encode())
            stream.flush()
            bar.update(len(batch))
    return rows[: each * len(pairs)]


def fill_table(
    path: Path, pairs: Sequence[Pair], scene: Scene, probes: Probes, judge: Any, said: dict[str, Any]
) -> list[dict[str, Any]]:
    """The table's rows, drawn where they are missing. Raises as `fill_rows`."""

    def draw(batch: Sequence[Pair]) -> Iterator[dict[str, Any]]:
        return draw_rows(batch, scene, probes, judge)

    return fill_rows(path, pairs, scene.spec.batch_size, draw, said, "fresh images")


def draw_rows(batch: Sequence[Pair], scene: Scene, probes: Probes, judge: Any) -> Iterator[dict[str, Any]]:
    """One row an image: verdict, scores of every cell, the judge on every preview, and what each took."""
    clock = [time.perf_counter()]

    def lap() -> float:
        clock.append(time.perf_counter())
        return (clock[-1] - clock[-2]) / len(batch)

    with watch(scene.pipe, probes) as seen:
        latents = scene.latents(batch)
    drawn = lap()
    pictures = np.stack([np.asarray(picture) for picture in scene.pictures(latents)])
    decoded = lap()
    verdicts = judge.judge(pictures)
    judged = lap()
    previews = [[judge_logit(judge, seen.preview(f, i)) for f in seen.frames] for i in range(len(batch))]
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
            "preview": {str(f.cells[0].timestep): round(previews[i][k], 4) for k, f in enumerate(frames)},
        }  # fmt: skip


def judge_logit(judge: Any, picture: Image.Image | None) -> float:
    """The judge's logit of a good hand."""
    assert picture is not None
    return float(judge.logits(np.asarray(picture.convert("RGB"))[None])[0])


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

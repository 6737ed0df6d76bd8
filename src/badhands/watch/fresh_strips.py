"""The last stage of train.py: fresh images, drawn with the probes attached, that no fold has seen."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from badhands.cells import PSEUDO_BLOCKS, Cell
from badhands.diffusion.scene import Scene
from badhands.diffusion.spec import ModelSpec
from badhands.probes.artifact import Probes
from badhands.study.manifest import ImageEntry
from badhands.watch import watch
from badhands.watch.compatibility import early_block
from badhands.watch.strip import film_strip

Referee = Callable[[Image.Image], str]
"""Says good, bad, or something else of a finished image."""

TRIES = 4
"""Images drawn for each strip at most, when a referee sorts them, so that good and bad hands are both shown."""


def draw_strips(
    probes: Probes, spec: ModelSpec, entries: Sequence[ImageEntry], folder: Path, count: int, referee: Referee | None
) -> list[Path]:
    """Write strips/<n>.png, half of good and half of bad hands as far as the referee finds them, and tables/strips.csv.

    Args:
        entries: the study's images: its prompts are drawn again, with seeds above all of its own.
        referee: None shows the first `count` images as they come.

    Raises:
        ValueError: the model cannot be loaded, or the probes are not of this model.
    """
    blocks = shown_blocks(probes)
    pairs = fresh_pairs(entries, count * (TRIES if referee else 1))
    scene = Scene(spec, [prompt for prompt, _ in pairs])
    room = {"good": count - count // 2, "bad": count // 2} if referee else {"": count}
    rows: list[pd.DataFrame] = []
    written: list[Path] = []
    (folder / "strips").mkdir(parents=True, exist_ok=True)
    for start in range(0, len(pairs), spec.batch_size):
        if not any(room.values()):
            break
        batch = pairs[start : start + spec.batch_size]
        with watch(scene.pipe, probes, blocks=blocks) as seen:
            scene.draw([scene.embeddings[prompt] for prompt, _ in batch], [seed for _, seed in batch])
        scores = seen.rows()
        for member, (prompt, seed) in enumerate(batch):
            final = seen.final(member=member)
            verdict = referee(final) if referee and final is not None else ""
            if not room.get(verdict):
                continue
            room[verdict] -= 1
            title = f"{prompt} · seed {seed}"
            path = folder / "strips" / f"{len(written):02d}_seed{seed}{'_' + verdict if verdict else ''}.png"
            film_strip(seen, blocks, member=member, title=title, verdict=verdict or None).save(path)
            written.append(path)
            rows.append(scores[scores["member"] == member].assign(prompt=prompt, seed=seed, verdict=verdict))
    if rows:
        columns = ["prompt", "seed", "verdict", "block", "timestep", "step", "sigma", "score", "p_bad", "tokens"]
        pd.concat(rows)[columns].to_csv(folder / "tables" / "strips.csv", index=False)
    return written


def fresh_pairs(entries: Sequence[ImageEntry], count: int) -> list[tuple[str, int]]:
    """(prompt, seed): the study's prompts spread evenly, each with a seed that no image of the study has."""
    prompts = list(dict.fromkeys(entry.prompt for entry in entries))
    first = max(entry.seed for entry in entries) + 1
    spread = np.linspace(0, len(prompts) - 1, min(count, len(prompts))).round().astype(int)
    return [(prompts[spread[i % len(spread)]], first + i) for i in range(count)]


def shown_blocks(probes: Probes, count: int = 2) -> tuple[str, ...]:
    """The block that tells earliest (`early_block`), and those with the best mean AUROC after it."""
    scores: dict[str, Any] = probes.card.get("scores") or {}
    by_block: dict[str, list[float]] = {}
    for name, metrics in scores.items():
        block = Cell.parse(name).block
        if block not in PSEUDO_BLOCKS and "image_auroc" in metrics:
            by_block.setdefault(block, []).append(metrics["image_auroc"])
    best = sorted(by_block, key=lambda block: -float(np.mean(by_block[block])))
    return tuple(dict.fromkeys([early_block(probes), *best]))[:count]


def judge_referee() -> Referee:
    """The embedded models' judge."""
    from badhands.tiny_hands.judge import Judge

    judge = Judge.load()

    def referee(image: Image.Image) -> str:
        return judge.judge(np.array(image.convert("RGB"))[None])[0].verdict

    return referee

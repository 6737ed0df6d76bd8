"""Film strips of pictures that no fold has seen, for a run's report and its tracker."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from badhands.diffusion.models import ModelSpec
from badhands.probes.artifact import Probes
from badhands.watch.fitting import ranked_blocks
from badhands.watch.fresh import Scene, find_judge, fresh_pairs
from badhands.watch.strip import film_strip
from badhands.watch.watcher import Seen, watch

ROWS = 3
"""Blocks in a strip: those that speak first and best in the training study."""
TRIES = 8
"""Candidates for each strip: a rare verdict is looked for so long."""


def draw_strips(
    run_folder: Path | str,
    spec: ModelSpec,
    source: str,
    count: int,
    *,
    known: Collection[str] = (),
    pipe: Any = None,
    judge: Any = None,
) -> list[Path]:
    """Write strips/<number>_<verdict>_seed<seed>.png and tables/watch.csv into a run folder, from its probes.

    Half of the strips are of hands that the judge calls bad, half of good ones, as far as both are found among
    `TRIES` x `count` pictures; without a judge (a model of another size) they are the first pictures that come.

    Args:
        source: of prompts: `tiny_hands`, `hands` or a file. known: prompts of the study.
        pipe: a loaded pipeline, if there is one already.
        judge: anything with `.judge(uint8[n, h, w, 3])`; by default the embedded models' where it knows the size.

    Returns:
        the strips, bad hands first.
    """
    if count < 1:
        return []
    folder = Path(run_folder)
    probes = Probes.load(folder / "probes")
    judge = judge or find_judge(spec)
    pairs = fresh_pairs(source, count * (TRIES if judge else 1), known=known)
    scene = Scene(spec, [pair.prompt for pair in pairs], pipe)
    blocks = sorted(ranked_blocks(probes)[:ROWS], key=[c.block for c in probes.cells].index)
    wanted = {"bad": count - count // 2, "good": count // 2} if judge else {"": count}
    left = dict(wanted)
    found: list[tuple[str, int, Any, Seen, int]] = []
    for start in range(0, len(pairs), spec.batch_size):
        part = pairs[start : start + spec.batch_size]
        with watch(scene.pipe, probes, blocks=blocks) as seen:
            pictures = scene.pictures(scene.latents(part))
        verdicts = [""] * len(part)
        if judge:
            verdicts = [v.verdict for v in judge.judge(np.stack([np.asarray(p) for p in pictures]))]
        for i, (pair, verdict) in enumerate(zip(part, verdicts, strict=True)):
            if left.get(verdict, 0) > 0:
                left[verdict] -= 1
                found.append((verdict, pair.seed, pair.prompt, seen, i))
        if not any(left.values()):
            break
    return _write(folder, sorted(found, key=lambda f: f[:2]), blocks)


def _write(folder: Path, found: list[tuple[str, int, Any, Seen, int]], blocks: list[str]) -> list[Path]:
    (folder / "strips").mkdir(exist_ok=True)
    (folder / "tables").mkdir(exist_ok=True)
    paths, rows = [], []
    for number, (verdict, seed, prompt, seen, member) in enumerate(found):
        title = f"{prompt} · seed {seed} · not seen by any fold"
        path = folder / "strips" / f"{number}_{verdict or 'unjudged'}_seed{seed}.png"
        film_strip(seen, blocks, member=member, title=title, verdict=verdict or None).save(path)
        paths.append(path)
        table = seen.rows()
        table = table[table["member"] == member].drop(columns=["generation", "member", "stopped"])
        rows.append(table.assign(seed=seed, verdict=verdict, prompt=prompt))
    if rows:
        pd.concat(rows).to_csv(folder / "tables" / "watch.csv", index=False)
    return paths

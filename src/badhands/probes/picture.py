"""Does a block know more than the picture so far shows? Two judges of the preview, and the paired gain of the blocks.

A network trained on the same labels' previews, and a referee: the embedded models' judge, or a user's own detector.
The sentence "the model knows before it can be seen" is allowed only where a block beats both at the gate's level.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from badhands.cells import Cell
from badhands.probes.preview_cnn import cnn_scores, cut_out
from badhands.stats.design import Design
from badhands.stats.family import VERDICT_LEVEL
from badhands.stats.headline import fixed_scores
from badhands.stats.intervals import Scored
from badhands.stats.long_table import LongTable
from badhands.stats.threads import spread
from badhands.study.activations import ActivationCache
from badhands.study.classes import BAD, GOOD
from badhands.study.study import Study

Referee = Callable[[Sequence[Image.Image]], Sequence[float]]
"""Pictures -> a score each, higher for better hands; at most CHUNK pictures a call."""

CHUNK = 64

CNN, REFEREE = "preview_cnn", "preview_referee"
TITLES = {CNN: "network on the preview", REFEREE: "referee on the preview"}
DRAWS = 1
"""Fold draws for which networks are trained: each costs half a minute, the ridge a thousandth of that."""


def load_referee(name: str | None) -> Referee | None:
    """The callable that a dotted path names, e.g. my_package.detector.scores; None for None.

    Raises:
        ValueError: there is no such module or callable.
    """
    if not name:
        return None
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(import_module(module), attribute) if module else None
    except (ImportError, AttributeError) as error:
        raise ValueError(f"referee={name} cannot be imported ({error}): name a callable, package.module.name") from None
    if not callable(found):
        raise ValueError(f"referee={name} is not a callable: name one, package.module.name")
    return found  # pyright: ignore[reportReturnType]


@dataclass(frozen=True, eq=False)
class Previews:
    """Pictures so far of the labelled images of a run."""

    timesteps: tuple[int, ...]
    """Those of which every image has a picture."""
    pictures: list[NDArray[np.uint8]]
    """A picture [m, h, w, 3] a timestep."""
    hands: NDArray[np.uint8]
    """[t, m, side, side, 3], the labelled hands cut out."""

    @classmethod
    def of(cls, study: Study, cache: ActivationCache, design: Design, timesteps: Sequence[int]) -> "Previews | None":
        """None where some image has no previews (capture.previews=0), or pictures differ in size."""
        names = [cache.images[i].id for i in design.known]
        try:
            found = spread(study.previews, names)
        except ValueError:
            return None
        have = tuple(t for t in sorted(timesteps, reverse=True) if all(t in one for one in found))
        if not have or len({picture.shape for one in found for picture in one.values()}) > 1:
            return None
        masks = [hand_mask(cache, i) for i in design.known]
        pictures = [np.stack([one[t] for one in found]) for t in have]
        hands = spread(lambda at: np.stack([cut_out(p, mask) for p, mask in zip(at, masks, strict=True)]), pictures)
        return cls(have, pictures, np.stack(hands))


def hand_mask(cache: ActivationCache, image: int) -> NDArray[np.bool_]:
    """bool[h, w]: labelled hand tokens of one image."""
    mine = slice(*np.searchsorted(cache.tokens.image, [image, image + 1]))
    h, w = cache.images[image].grid
    mask = np.zeros(h * w, bool)
    mask[cache.tokens.token[mine][np.isin(cache.tokens.label[mine], (GOOD, BAD))]] = True
    return mask.reshape(h, w)


def picture_scores(
    previews: Previews,
    design: Design,
    headline: Scored,
    referee: Referee | None,
    device: torch.device | str = "cpu",
) -> dict[str, Scored]:
    """Both baselines, a readout a timestep, on the headline's images.

    Raises:
        ValueError: the referee gives something that is not a finite number.
    """
    folds = design.folds[:, design.known]
    names = [str(Cell("x0", t)) for t in previews.timesteps]
    trained = cnn_scores(previews.hands, design.good, folds[:DRAWS], design.seed, device)
    scores = {CNN: fixed_scores(names, trained, folds[:DRAWS], design, like=headline)}
    if referee is not None:
        seen = _referee_scores(previews.pictures, referee)
        draws = np.broadcast_to(seen[:, None], (len(seen), len(folds), seen.shape[1]))
        scores[REFEREE] = fixed_scores(names, draws, folds, design)  # it was fitted elsewhere: nothing is refitted
    return scores


def _referee_scores(pictures: list[NDArray[np.uint8]], referee: Referee) -> NDArray[np.float64]:
    """float64[t, m]."""
    out = np.empty((len(pictures), len(pictures[0])))
    for row, at in zip(out, tqdm(pictures, desc="referee", unit="timestep", leave=False), strict=True):
        for start in range(0, len(at), CHUNK):
            some = [Image.fromarray(pixels) for pixels in at[start : start + CHUNK]]
            said = np.asarray(referee(some), np.float64)
            if said.shape != (len(some),):
                raise ValueError(f"the referee gave an array of {said.shape} for {len(some)} pictures: one score each")
            row[start : start + len(some)] = said
    if not np.isfinite(out).all():
        raise ValueError(f"the referee gave {np.sum(~np.isfinite(out))} scores that are not finite: mend it")
    return out


def add_picture_rows(table: LongTable, scores: Mapping[str, Scored], headline: Scored, cells: Sequence[Cell]) -> None:
    """Rows of tables/baselines.csv: AUROC of each baseline, and what the best block of the timestep adds, paired."""
    n = len(headline.good)
    for control, one in scores.items():
        about = {"control": control, "title": TITLES[control], "probe": control, "split": "out_of_fold", "n": n}
        for k, name in enumerate(one.names):
            cell = Cell.parse(name)
            table.add(cell, "auroc", one.value[k], one.intervals[k], **about)
            best = best_block(headline, cells, cell.timestep)
            if best is not None:
                value, *interval = _gain(headline, best, one, name)
                table.add(cell, "gain_of_best_block", value, interval, **about)


def best_block(headline: Scored, cells: Sequence[Cell], timestep: int) -> Cell | None:
    """The block with the largest AUROC at a timestep: a choice that flatters it."""
    here = [cell for cell in cells if cell.timestep == timestep]
    return max(here, key=lambda cell: headline.value[headline.names.index(str(cell))], default=None)


def beyond_the_picture(scores: Mapping[str, Scored], headline: Scored, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Rows of tables/verdicts.csv: the largest gain of any block at any timestep over each baseline of that timestep.

    The interval pays for the choice: its level is the verdict's, shared out over all cells (Bonferroni). `other` is the
    timestep. A block has to beat every baseline in one and the same cell, so the row shown is of the cell whose
    smallest lower end is largest.
    """
    timesteps = {Cell.parse(name).timestep for one in scores.values() for name in one.names}
    tried = [cell for cell in cells if cell.timestep in timesteps]
    if not tried or not scores:
        return []
    level = 1 - (1 - VERDICT_LEVEL) / len(tried)
    gains = {
        cell: {name: _gain(headline, cell, one, str(Cell("x0", cell.timestep)), level) for name, one in scores.items()}
        for cell in tried
    }
    best = max(tried, key=lambda cell: min(lo for _, lo, _ in gains[cell].values()))
    return [
        {"verdict": "beyond_the_picture", "what": f"{name} {best}", "value": v, "lo": lo, "hi": hi, "other": len(tried)}
        for name, (v, lo, hi) in gains[best].items()
    ]


def _gain(headline: Scored, cell: Cell, baseline: Scored, name: str, level: float = 0.95) -> tuple[float, float, float]:
    """AUROC of a block minus that of a baseline on the same images, with its paired interval."""
    block = headline.only([str(cell)])
    other = baseline.only([name])
    # The baseline has no refits under permuted labels: its influence was widened when it was made, the block's is here.
    pair = Scored.joined([block.alone(), other.alone()])
    value, lo, hi = pair.combined([1.0, -1.0], level)
    return float(value[0]), float(lo[0]), float(hi[0])

"""How well the probes' mask meets the place that the judge calls malformed: intersection over union."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from badhands.stats.auroc import auroc
from badhands.stats.intervals import mean_interval
from badhands.watch.region import grown, region_tokens, telling_block, to_pixels
from badhands.watch.repaint import Canvas

MASKS = {"bad": "bad tokens", "bad, dilated": "bad tokens, dilated by one (mask.png)", "hand": "the whole hand",
         "random": "as many random hand tokens"}  # fmt: skip


def mask_row(canvas: Canvas, member: int, place: NDArray[np.bool_]) -> dict[str, float] | None:
    """IoU of each mask with bool[h, w] of malformed pixels, and the AUROC of P(bad) for malformed tokens within the
    hand; None where the judge sees nothing malformed or the probes see no hand."""
    seen, frame = canvas.seen, canvas.seen.of()[-1]
    bad, hand = (region_tokens(seen.probes, seen.grid, frame, member, what) for what in ("bad", "hand"))
    if not place.any() or not hand.any():
        return None
    rng = np.random.default_rng(canvas.pairs[member].seed)
    random = np.zeros(hand.size, bool)
    random[rng.permutation(np.flatnonzero(hand))[: bad.sum()]] = True
    tokens = {"bad": bad, "bad, dilated": grown(bad), "hand": hand, "random": random.reshape(hand.shape)}
    found = {name: round(iou(to_pixels(mask, place.shape), place), 5) for name, mask in tokens.items()}
    p_bad = frame.p_bad[telling_block(seen.probes, frame)][frame.place(member)].reshape(hand.shape)
    h, w = (a // b for a, b in zip(place.shape, hand.shape, strict=True))
    wrong = place.reshape(hand.shape[0], h, hand.shape[1], w).mean((1, 3)) >= 0.5
    area = float(auroc(p_bad[hand], wrong[hand]))
    return {**found, "auroc": area} if np.isfinite(area) else found


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks; 0 where both are empty."""
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 0.0


def mask_table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """mask.csv: mean IoU of each mask over the hands that the judge calls bad, with intervals over prompts."""
    kept = [row for row in rows if row["verdict"] == "bad" and row["mask"] is not None]
    lines = []
    for name, title in (*MASKS.items(), ("auroc", "P(bad) of malformed against other hand tokens (AUROC)")):
        have = [row for row in kept if name in row["mask"]]
        if not have:
            continue
        cluster = np.unique([row["prompt"] for row in have], return_inverse=True)[1].reshape(-1)
        value, lo, hi = mean_interval([row["mask"][name] for row in have], cluster)
        lines.append({"mask": title, "n": len(have), "iou": value, "iou_lo": lo, "iou_hi": hi})
    return pd.DataFrame(lines, columns=["mask", "n", "iou", "iou_lo", "iou_hi"])

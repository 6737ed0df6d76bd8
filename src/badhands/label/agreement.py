"""Agreement between two labellings: Cohen's kappa of verdicts and of tokens, intersection over union of masks.

Between annotators, and within one: every tenth image is labelled twice by the same person.
"""

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from badhands.label.differences import iou
from badhands.study.classes import BAD, GOOD, UNLABELLED
from badhands.study.labels import LabelRecord

Pairs = Sequence[tuple[LabelRecord, LabelRecord]]


def cohen_kappa(first: ArrayLike, second: ArrayLike) -> float:
    """Cohen (1960): (observed - expected agreement) / (1 - expected). NaN if empty, or if chance agrees always."""
    a, b = np.asarray(first), np.asarray(second)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"two lists of one length are compared, not {a.shape} and {b.shape}")
    if not a.size:
        return float("nan")
    values = np.union1d(a, b)
    expected = sum(float(np.mean(a == value) * np.mean(b == value)) for value in values)
    return float("nan") if expected == 1 else float((np.mean(a == b) - expected) / (1 - expected))


def agreement_table(
    labels: dict[tuple[str, str, int], LabelRecord], resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Every pair of labellings that share images.

    Args:
        labels: by (image id, annotator, repeat), as `LabelLog.latest_of_all` gives them.

    Returns:
        columns first, second, metric, n (images), value, lo, hi: the 95 % interval of a bootstrap over images.
        Metrics: verdict_agreement, verdict_kappa; token_kappa over tokens that both labelled; hand_iou, good_iou
        and bad_iou, means over the images where either marked such a token.
    """
    hands: dict[tuple[str, int], dict[str, LabelRecord]] = {}
    for (image_id, annotator, repeat), record in labels.items():
        hands.setdefault((annotator, repeat), {})[image_id] = record
    rows = []
    for one, other in combinations(sorted(hands), 2):
        if (one[1] and other[1]) or ((one[1] or other[1]) and one[0] != other[0]):
            continue  # a repetition is compared with its own annotator's first labels alone
        shared = sorted(hands[one].keys() & hands[other].keys())
        pairs = [(hands[one][image_id], hands[other][image_id]) for image_id in shared]
        pairs = [(a, b) for a, b in pairs if a.grid == b.grid]
        second = f"{other[0]} again" if other[1] else other[0]
        for name, measure, keep in _METRICS:
            usable = [pair for pair in pairs if keep(*pair)]
            if not usable:
                continue
            low, high = _interval(measure, usable, resamples, seed)
            rows.append((one[0], second, name, len(usable), measure(usable), low, high))
    return pd.DataFrame(rows, columns=["first", "second", "metric", "n", "value", "lo", "hi"])


def _verdicts(pairs: Pairs) -> tuple[list[str], list[str]]:
    return [str(a.hand_verdict) for a, _ in pairs], [str(b.hand_verdict) for _, b in pairs]


def _verdict_agreement(pairs: Pairs) -> float:
    first, second = _verdicts(pairs)
    return float(np.mean(np.array(first) == np.array(second)))


def _token_kappa(pairs: Pairs) -> float:
    both = [(a.classes != UNLABELLED) & (b.classes != UNLABELLED) for a, b in pairs]
    first = np.concatenate([a.classes[keep] for (a, _), keep in zip(pairs, both, strict=True)])
    second = np.concatenate([b.classes[keep] for (_, b), keep in zip(pairs, both, strict=True)])
    return cohen_kappa(first, second)


def _is_hand(record: LabelRecord) -> np.ndarray:
    return (record.classes == GOOD) | (record.classes == BAD)


def _mean_iou(mask: Callable[[LabelRecord], np.ndarray]) -> Callable[[Pairs], float]:
    return lambda pairs: float(np.mean([iou(mask(a), mask(b)) for a, b in pairs]))


def _either(mask: Callable[[LabelRecord], np.ndarray]) -> Callable[[LabelRecord, LabelRecord], bool]:
    return lambda a, b: _both_painted(a, b) and bool(np.any(mask(a) | mask(b)))


def _both_judged(a: LabelRecord, b: LabelRecord) -> bool:
    return a.hand_verdict is not None and b.hand_verdict is not None


def _both_painted(a: LabelRecord, b: LabelRecord) -> bool:
    return a.painted and b.painted


def _is_good(record: LabelRecord) -> np.ndarray:
    return record.classes == GOOD


def _is_bad(record: LabelRecord) -> np.ndarray:
    return record.classes == BAD


_METRICS: list[tuple[str, Callable[[Pairs], float], Callable[[LabelRecord, LabelRecord], bool]]] = [
    ("verdict_agreement", _verdict_agreement, _both_judged),
    ("verdict_kappa", lambda pairs: cohen_kappa(*_verdicts(pairs)), _both_judged),
    ("token_kappa", _token_kappa, _both_painted),
    ("hand_iou", _mean_iou(_is_hand), _either(_is_hand)),
    ("good_iou", _mean_iou(_is_good), _either(_is_good)),
    ("bad_iou", _mean_iou(_is_bad), _either(_is_bad)),
]


def _interval(measure: Callable[[Pairs], float], pairs: Pairs, resamples: int, seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    draws = [measure([pairs[i] for i in rng.integers(len(pairs), size=len(pairs))]) for _ in range(resamples)]
    finite = [draw for draw in draws if np.isfinite(draw)]
    if len(pairs) < 2 or not finite:
        return (float("nan"), float("nan"))
    low, high = np.percentile(finite, [2.5, 97.5])
    return (float(low), float(high))

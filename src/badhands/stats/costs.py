"""What a rule costs for each good hand it delivers, beside plain reseeding. Numbers only.

evaluations = sum over images of e (T, or k where it was stopped after k); delivered good hands = sum of [good and not
stopped]. Their quotient, over that of drawing everything to the end, is the cost ratio; with rates instead of counts it
is E / (1 - b) of method.md section 6. Intervals take prompts as independent, since seeds of one prompt are not.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from badhands.stats.intervals import quotient_interval, standard_error

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a rule did with each of n images."""

    method: str
    evaluations: Floats
    """[n], of the transformer."""
    seconds: Floats
    """[n], of everything: evaluations, previews decoded and judged, the finished picture."""
    delivered: NDArray[np.bool_]
    """[n]"""


def cost_row(
    outcome: Outcome, plain: Outcome, good: NDArray[np.bool_], prompt: NDArray[np.int64], kind: NDArray[np.int64]
) -> dict[str, Any]:
    """One line of a table: cost per good hand by both clocks, against `plain` on the same images.

    Args:
        prompt, kind: int64[n], which prompt, and which kind of prompt, for `price_of_every_kind`.
    """
    accepted, kept = (good & outcome.delivered).astype(float), (good & plain.delivered).astype(float)
    row: dict[str, Any] = {"method": outcome.method, "n": len(good)}
    spent, plainly = (outcome.evaluations, accepted), (plain.evaluations, kept)
    for name, value in (
        ("per_good", quotient_interval(spent, [1, -1], prompt)),
        ("ratio", quotient_interval([*spent, *plainly], [1, -1, -1, 1], prompt)),
        ("seconds_ratio", quotient_interval([outcome.seconds, accepted, plain.seconds, kept], [1, -1, -1, 1], prompt)),
        ("every_kind", price_of_every_kind(spent, plainly, kind, prompt)),
    ):
        row[name], row[f"{name}_lo"], row[f"{name}_hi"] = value
    row["stopped_good"] = _share(~outcome.delivered, good)
    row["stopped_rest"] = _share(~outcome.delivered, ~good)
    row["good_share"] = _share(good, outcome.delivered)
    row["seconds_per_good"] = float(outcome.seconds.sum() / accepted.sum()) if accepted.any() else np.inf
    return row


def price_of_every_kind(
    rule: tuple[Floats, Floats], plain: tuple[Floats, Floats], kind: NDArray[np.int64], prompt: NDArray[np.int64]
) -> tuple[float, float, float]:
    """Price of one good hand of *every* kind of prompt, over that of plain reseeding, with its interval.

    A rule that stops whatever a hard prompt draws is cheap per good hand and delivers easy prompts only. Here each kind
    has to deliver: the sum over kinds of (evaluations / good hands). Kinds of which plain reseeding delivers nothing
    are left out; a rule that delivers nothing of another costs infinitely much. The interval is linearised on the
    logarithm, as in `quotient_interval`.

    Args:
        rule, plain: (float[n] evaluations, float[n] good hands delivered).
    """
    n, count = len(kind), int(kind.max()) + 1
    known = np.bincount(kind, plain[1], minlength=count) > 0
    value, influence = [], np.zeros(n)
    for (spent, found), sign in ((rule, 1.0), (plain, -1.0)):
        cost, hands = (np.bincount(kind, of, minlength=count)[known] for of in (spent, found))
        if (hands == 0).any():
            return np.inf, 0.0, np.inf
        price, each, place = np.zeros(count), np.ones(count), known[kind]
        price[known], each[known] = cost / hands, hands
        value.append(price.sum())
        influence += sign * n * place * (spent - price[kind] * found) / each[kind] / price.sum()
    wide = float(t.ppf(0.975, max(int(prompt.max()), 1)) * standard_error(influence, prompt))
    ratio = float(value[0] / value[1])
    return ratio, ratio * float(np.exp(-wide)), ratio * float(np.exp(wide))


def _share(of: NDArray[np.bool_], among: NDArray[np.bool_]) -> float:
    return float(of[among].mean()) if among.any() else float("nan")

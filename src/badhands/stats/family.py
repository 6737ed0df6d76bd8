"""The gate: everything a report calls a finding shares one familywise error rate of 5 %.

All statistics of a run are computed under the same permutations of its labels. One that is to be a finding must exceed
the maximum of *all* of them in 96 % of the permutations (Westfall and Young 1993). The last 1 % is shared out over the
verdicts, which rest on intervals and not on permutations; they are asked only where some cell passed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from badhands.stats.design import p_value

ALPHA = 0.05
"""Of one false finding in a whole run in which nothing is to be found."""
CELLS, VERDICTS = 0.8 * ALPHA, 0.2 * ALPHA
"""How it is shared between what permutations test and what intervals test."""
VERDICT_NAMES = ("one_direction", "variance", "late_rise", "beyond_the_picture")
"""Every verdict a report may give; each gets its share whether it is asked or not."""
VERDICT_LEVEL = 1 - VERDICTS / len(VERDICT_NAMES)
"""Of the intervals on which verdicts rest."""


@dataclass
class Family:
    """The tested statistics of a run, in named groups."""

    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    value: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """[k] a group, large for a difference between the classes."""
    null: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """[permutations, k]: the same permutations in every group."""

    def add(self, group: str, names: Sequence[str], value: np.ndarray, null: np.ndarray) -> None:
        """Statistics should be about normal under permutation (squares as logarithms), so that none is the maximum
        only because its own null has a long tail."""
        assert null.shape[1:] == np.shape(value) == (len(names),)
        self.names[group] = tuple(names)
        self.value[group], self.null[group] = np.asarray(value, np.float64), np.asarray(null, np.float64)

    def p(self) -> dict[str, NDArray[np.float64]]:
        """Familywise p-values, [k] a group."""
        if not self.null:
            return {}
        units = {group: _units(np.concatenate([self.value[group][None], null])) for group, null in self.null.items()}
        highest = np.max([of[1:].max(1) for of in units.values()], axis=0)
        return {group: np.array([p_value(z, highest) for z in of[0]]) for group, of in units.items()}

    def found(self) -> dict[str, dict[str, float]]:
        """{group: {name: p}} of what passed."""
        return {
            group: {name: float(p) for name, p in zip(self.names[group], values, strict=True) if p <= CELLS}
            for group, values in self.p().items()
        }

    @property
    def open(self) -> bool:
        """Something passed, so that verdicts about it may be asked."""
        return any(self.found().values())

    def save(self, path: Path | str) -> None:
        arrays: dict[str, np.ndarray] = {}
        for group in self.names:
            arrays[f"{group}.names"] = np.array(self.names[group])
            arrays[f"{group}.value"], arrays[f"{group}.null"] = self.value[group], self.null[group].astype(np.float32)
        np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]

    @classmethod
    def load(cls, path: Path | str) -> "Family":
        family = cls()
        with np.load(path) as found:
            for group in dict.fromkeys(key.rsplit(".", 1)[0] for key in found.files):
                parts: Mapping[str, np.ndarray] = {k: found[f"{group}.{k}"] for k in ("names", "value", "null")}
                family.add(group, parts["names"].tolist(), parts["value"], parts["null"])
        return family


def _units(values: np.ndarray) -> NDArray[np.float64]:
    """In standard deviations over all labellings [1 + permutations, k], the true one among them; 0 where none varies.

    Units of the permutations alone would make the true labelling's tail the longer one: with 100 permutations it would
    pass in 6.6 instead of 4 % of studies in which nothing is to be found, with 24 in 23 %.
    """
    sd = values.std(0)
    return np.divide(values - values.mean(0), sd, out=np.zeros(values.shape), where=sd > 1e-12)

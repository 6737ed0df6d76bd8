"""doses.png: response to the strength, random directions beside it, and damage outside the hand."""

from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt

from badhands.figures.palette import GOOD, INK, NULL
from badhands.figures.style import WIDTH, save, styled


def draw_doses(table: pd.DataFrame, path: Path) -> Path:
    """Left: shift of the judge's logit with its interval over pairs. Right: pixels outside the hand."""
    real = table[table["random"].isna()].sort_values("strength")
    random = table[table["random"].notna()]
    with styled():
        figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 4.2), layout="constrained")
        bars = [real["shift"] - real["lo"], real["hi"] - real["shift"]]
        left.errorbar(real["strength"], real["shift"], yerr=bars, color=GOOD, marker="o", label="mean good − mean bad")
        left.scatter(random["strength"], random["shift"], color=NULL, s=14, zorder=3,
                     label=f"{len(random)} random directions, as long")  # fmt: skip
        left.axhline(0, color=INK, lw=1)
        left.set_ylabel("change of the judge's logit of a good hand")
        left.set_title(f"n = {int(real['n'].iloc[0])} pairs, each its own control")
        right.plot(real["strength"], real["outside"], color=GOOD, marker="o", zorder=2)
        right.scatter(random["strength"], random["outside"], color=NULL, s=14, zorder=3)
        right.set_ylabel("mean change outside the hand, of 255")
        right.set_title("damage elsewhere")
        for axis in (left, right):
            axis.set_xlabel("strength, in units of the difference")
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return save(figure, path)

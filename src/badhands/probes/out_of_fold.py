"""oof.npz of a run: every score that a probe gave to an image whose prompt it had not seen."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from badhands.cells import Cell
from badhands.probes.bank import ProbeBank
from badhands.probes.data import ProbeData
from badhands.stats.paired import OutOfFold

NAME = "oof.npz"


def save(path: Path, images: Sequence[str], data: ProbeData, banks: Sequence[ProbeBank]) -> None:
    """Scores of the headline probe: `images`, `bad`, `group` (prompt), `fold` [draws, n], `cells`, `score`
    [cells, draws, n] and `widening` of the images with a labelled hand. And of the token probes, per head,
    `<head>_rows` [n] (of the cache's token table), `<head>_logit` and `<head>_p` [cells, n] float32."""
    known = data.design.known
    blocks = data.headline.only([str(cell) for cell in data.cells])
    arrays: dict[str, np.ndarray] = {
        "images": np.array(images)[known],
        "bad": ~data.design.good,
        "group": np.array(data.prompts)[known],
        "fold": data.design.folds[:, known].astype(np.int64),
        "cells": np.array(blocks.names),
        "score": blocks.score,
        "widening": np.array(data.widening),
    }
    for bank in banks:
        arrays[f"{bank.task.head}_rows"] = bank.task.rows
        arrays[f"{bank.task.head}_logit"], arrays[f"{bank.task.head}_p"] = bank.logit.numpy(), bank.probability.numpy()
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]


def load(run_folder: Path | str) -> OutOfFold:
    """Image scores of a run, for paired comparisons.

    Raises:
        ValueError: the run has no out-of-fold scores.
    """
    path = Path(run_folder) / NAME
    if not path.is_file():
        raise ValueError(f"{run_folder} has no {NAME}: its probes were not fitted")
    with np.load(path) as found:
        return OutOfFold(
            tuple(found["images"].tolist()),
            found["bad"],
            tuple(found["group"].tolist()),
            found["fold"],
            tuple(Cell.parse(name) for name in found["cells"].tolist()),
            found["score"],
            float(found["widening"]),
        )

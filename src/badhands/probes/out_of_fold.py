"""oof.npz of a run: every score that a probe gave to an image whose prompt it had not seen."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from badhands.probes.bank import ProbeBank
from badhands.probes.data import ProbeData
from badhands.stats.paired import OUT_OF_FOLD


def save_out_of_fold(folder: Path, images: Sequence[str], data: ProbeData, banks: Sequence[ProbeBank]) -> None:
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
        arrays[f"{bank.trained_on.head}_rows"] = bank.trained_on.rows
        arrays[f"{bank.trained_on.head}_logit"], arrays[f"{bank.trained_on.head}_p"] = (
            bank.logit.numpy(),
            bank.probability.numpy(),
        )
    np.savez(folder / OUT_OF_FOLD, **arrays)  # pyright: ignore[reportArgumentType]

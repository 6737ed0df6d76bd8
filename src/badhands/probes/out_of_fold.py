"""oof.npz of a run: every score that a probe gave to an image whose prompt it had not seen."""

from pathlib import Path

import numpy as np

from badhands.cells import Cell
from badhands.probes.bank import ProbeBank
from badhands.probes.scores import mean_pool
from badhands.stats.folds import BAD_IMAGE
from badhands.stats.paired import OutOfFold

NAME = "oof.npz"


def save(
    path: Path,
    images: list[str],
    prompts: list[str],
    image_label: np.ndarray,
    folds: np.ndarray,
    banks: list[ProbeBank],
) -> None:
    """Image scores (`images`, `bad`, `group`, `fold`, `cells`, `score` [cells, images]: images with a labelled hand),
    and per head `<head>_rows` [n] (of the cache's token table), `<head>_logit` and `<head>_p` [cells, n] float32."""
    known = np.flatnonzero(image_label >= 0)
    arrays: dict[str, np.ndarray] = {
        "images": np.array(images)[known],
        "bad": image_label[known] == BAD_IMAGE,
        "group": np.array(prompts)[known],
        "fold": folds[known].astype(np.int64),
    }
    for bank in banks:
        task, logit = bank.task, bank.logit.numpy()
        arrays["cells"] = np.array([str(cell) for cell in bank.cells])
        arrays[f"{task.head}_rows"] = task.rows
        arrays[f"{task.head}_logit"], arrays[f"{task.head}_p"] = logit, bank.probability.numpy()
        if task.head == "good":
            arrays["score"] = np.stack([mean_pool(z, task.image, len(folds))[known] for z in logit.astype(np.float64)])
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
        )

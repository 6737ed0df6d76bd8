"""From fitted banks to rows of tables/scores.csv."""

from dataclasses import replace

import numpy as np
import torch

from badhands.cells import Cell
from badhands.probes.bank import ProbeBank
from badhands.probes.data import ProbeData
from badhands.probes.image_means import ImageMeans
from badhands.probes.nulls import p_value, permuted_labels, refit_null, ridge_null
from badhands.probes.scores import image_auroc, mean_pool, score_cell
from badhands.probes.tables import ScoreTable
from badhands.stats.folds import BAD_IMAGE, GOOD_IMAGE

SPLITS = {"good_vs_local": 1, "good_vs_global": 2}
FEWEST_OF_A_KIND = 4
"""Bad images of one kind of error below which its split is left out."""
RIDGE_PROBE = "ridge_means"


def add_scores(table: ScoreTable, data: ProbeData, bank: ProbeBank, control: str = "none") -> None:
    """All metrics of every cell of a bank; of controls the image metrics."""
    task = bank.task
    for i, cell in enumerate(bank.cells):
        logit, probability = bank.logit[i].double().numpy(), bank.probability[i].double().numpy()
        scores = score_cell(
            logit,
            probability,
            task.y,
            task.image,
            task.measure,
            data.image_label,
            data.weights,
            images_too=task.head == "good",
            tokens_too=control == "none",
        )
        where = {"x0_variance": Cell("x0", cell.timestep), "geometry": None, "prompt": None}.get(cell.block, cell)
        table.extend(where, scores, probe=data.settings.kind, head=task.head, control=control)


def add_kinds(table: ScoreTable, data: ProbeData, bank: ProbeBank) -> None:
    """The headline score for good images against bad ones of one kind of error, where labels carry the kind."""
    tokens, n = data.cache.tokens, len(data.image_label)
    for split, kind in SPLITS.items():
        has = np.bincount(tokens.image[tokens.kind == kind], minlength=n) > 0
        other = np.bincount(tokens.image[(tokens.kind != kind) & (tokens.kind != 0)], minlength=n) > 0
        label = np.where((data.image_label == BAD_IMAGE) & ~(has & ~other), -1, data.image_label)
        if (label == BAD_IMAGE).sum() < FEWEST_OF_A_KIND:
            continue
        for i, cell in enumerate(bank.cells):
            score = mean_pool(bank.logit[i].double().numpy(), bank.task.image, n)
            draws = image_auroc(score, label, data.weights)
            lo, hi = np.nanquantile(draws, [0.025, 0.975])
            value = float(image_auroc(score, label)[0])
            table.add(
                cell,
                "image_auroc",
                value,
                float(lo),
                float(hi),
                n=int((label >= 0).sum()),
                probe=data.settings.kind,
                split=split,
            )


def add_cheap_null(table: ScoreTable, data: ProbeData, means: ImageMeans) -> dict[str, float | str]:
    """p-values of every cell, and paid for the choice of the best one, from the ridge on image means.

    The statistic is the ridge's own AUROC, not the probe's: observed and null are fitted in the same way.
    """
    draws = permuted_labels(data.image_label, data.settings.permutations, data.settings.seed)
    labels = np.concatenate([data.image_label[None].astype(np.int32), draws])
    areas = ridge_null(means, data.folds, labels)
    observed, null = areas[0], areas[1:]
    single, family = p_value(observed, null), p_value(observed, null.max(1, keepdims=True))
    n = int((data.image_label >= 0).sum())
    for c, cell in enumerate(means.cells):
        lo, hi = np.quantile(null[:, c], [0.025, 0.975])
        common = {"n": n, "probe": RIDGE_PROBE, "split": "permutation"}
        table.add(cell, "ridge_auroc", observed[c], n=n, probe=RIDGE_PROBE)
        table.add(cell, "ridge_auroc_null", null[:, c].mean(), lo, hi, **common)
        table.add(cell, "image_auroc_p", single[c], **common)
        table.add(cell, "image_auroc_p_max", family[c], **common)
    best = int(observed.argmax())
    return {
        "cell": str(means.cells[best]),
        "auroc": float(observed[best]),
        "p_max": float(family[best]),
        "null_max_95": float(np.quantile(null.max(1), 0.95)),
        "permutations": len(null),
    }


def add_refit_null(table: ScoreTable, data: ProbeData, bank: ProbeBank, device: torch.device) -> None:
    """The same probe on permuted labels: its null, and selectivity = AUROC - mean AUROC on random labels."""
    settings = data.settings
    if settings.refits < 1 or settings.kind == "mlp":
        return
    labels = permuted_labels(data.image_label, settings.refits, settings.seed + 1)
    penalties = bank.penalty[:, -1].tolist()
    null = refit_null(bank.cells, data.read(bank.task), bank.task, replace(settings), penalties, labels, device)
    n_images = len(data.image_label)
    n = int((data.image_label >= 0).sum())
    observed = np.array(
        [image_auroc(mean_pool(z, bank.task.image, n_images), data.image_label)[0] for z in bank.logit.double().numpy()]
    )
    family = p_value(observed, null.max(1, keepdims=True))
    for c, cell in enumerate(bank.cells):
        common = {"n": n, "probe": settings.kind, "control": "random_labels", "split": "permutation"}
        table.add(cell, "image_auroc", null[:, c].mean(), null[:, c].min(), null[:, c].max(), **common)
        spread = null[:, c].std(ddof=1) / len(null) ** 0.5 if len(null) > 1 else np.nan
        value = observed[c] - null[:, c].mean()
        table.add(cell, "selectivity", value, value - 2 * spread, value + 2 * spread, **common)
        table.add(cell, "image_auroc_p_max_refit", family[c], **common)


def good_share(data: ProbeData) -> tuple[int, int]:
    """Good and bad images."""
    return int((data.image_label == GOOD_IMAGE).sum()), int((data.image_label == BAD_IMAGE).sum())

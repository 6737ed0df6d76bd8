"""From fitted banks and baselines to rows of tables/scores.csv and tables/baselines.csv."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy.special import expit

from badhands.cells import Cell
from badhands.probes.bank import ProbeBank
from badhands.probes.controls import Control
from badhands.probes.data import ProbeData
from badhands.probes.position import position_logit
from badhands.probes.scores import Score, TokenScores, image_score, image_scores, mean_pool, token_scores
from badhands.stats.folds import BAD_IMAGE
from badhands.stats.headline import headline, plain_features
from badhands.stats.intervals import Scored
from badhands.stats.long_table import LongTable

SPLITS = {"good_vs_local": 1, "good_vs_global": 2}
FEWEST_OF_A_KIND = 4
"""Bad images of one kind of error below which its split is left out."""
RIDGE = "ridge"


def add_scores(table: LongTable, data: ProbeData, bank: ProbeBank) -> None:
    """All metrics of every cell of a bank of token probes."""
    training = bank.trained_on
    for i, cell in enumerate(bank.cells):
        logit, probability = bank.logit[i].double().numpy(), bank.probability[i].double().numpy()
        of = TokenScores(logit, probability, training.y, training.image, training.measure, data.image_label, data.folds)
        scores = image_scores(of, data.cluster, data.widening) if training.head == "good" else []
        scores += token_scores(of, data.weights, data.widening, training.head)
        add_each(table, cell, scores, probe=data.settings.kind, head=training.head)


def add_each(table: LongTable, cell: Cell | None, scores: Iterable[Score], *, head: str, **about: Any) -> None:
    for score in scores:
        columns = {"head": head, "control": "none", "split": "out_of_fold", **about}
        table.add(cell, score.metric, score.value, (score.lo, score.hi), n=score.n, **columns)


def add_position(table: LongTable, data: ProbeData) -> None:
    """The hand head's control: token AUROC of the place on the grid alone, same rows and folds."""
    training = data.hand
    assert training is not None
    logit = position_logit(training, data.cache.tokens.token, data.grids)
    of = TokenScores(logit, expit(logit), training.y, training.image, training.measure, data.image_label, data.folds)
    scores = [one for one in token_scores(of, data.weights, data.widening, "hand") if one.metric == "token_auroc"]
    add_each(table, None, scores, probe="position", head="hand", control="position")


def add_kinds(table: LongTable, data: ProbeData, bank: ProbeBank) -> None:
    """Image AUROC of good images against bad ones of one kind of error, where labels carry the kind."""
    tokens, n = data.cache.tokens, len(data.image_label)
    for split, kind in SPLITS.items():
        has = np.bincount(tokens.image[tokens.kind == kind], minlength=n) > 0
        other = np.bincount(tokens.image[(tokens.kind != kind) & (tokens.kind != 0)], minlength=n) > 0
        label = np.where((data.image_label == BAD_IMAGE) & ~(has & ~other), -1, data.image_label)
        if (label == BAD_IMAGE).sum() < FEWEST_OF_A_KIND:
            continue
        for i, cell in enumerate(bank.cells):
            score = mean_pool(bank.logit[i].double().numpy(), bank.trained_on.image, n)
            one = image_score("image_auroc", score, label, data.folds, data.cluster, data.widening)
            add_each(table, cell, [one], head="good", probe=data.settings.kind, split=split)


def add_baseline(table: LongTable, data: ProbeData, control: Control, best: Scored) -> None:
    """The headline probe on what knows no block of the hand, and what the best block adds to it, paired.

    Args:
        best: the readout of the best block (one name).
    """
    readouts = control.readouts(data)
    if not readouts:
        return
    names = [f"{control.name}:{cell or ''}" for cell in readouts]
    found = headline(names, [plain_features(x) for x in readouts.values()], data.design)
    both, n = Scored.joined([best, found]), len(found.good)
    about = {"control": control.name, "title": control.title, "n": n, "probe": RIDGE, "split": "out_of_fold"}
    for k, (name, cell) in enumerate(zip(names, readouts, strict=True)):
        table.add(cell, "auroc", found.value[k], found.intervals[k], **about)
        gain, *interval = both.difference(name, best.names[0])
        table.add(cell, "gain_of_best_block", gain, interval, **about)

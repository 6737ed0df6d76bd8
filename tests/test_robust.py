"""Awkward data through the whole of train.py: a result, or one sentence that names the fix."""

import numpy as np
import pytest
import torch
from hydra.errors import CompactHydraException
from torch import Tensor

from badhands.cells import Cell, grid
from badhands.report.report import data_text
from badhands.report.run import Run
from badhands.study.choice import Choice, LabelChoice, choice_path, read_choice
from badhands.study.study import Study
from synthetic_study import write_study
from test_train import here

CELLS = grid(["single.0", "single.1"], [20, 3])
EMPTY, PLANTED = CELLS[0], CELLS[3]
SIZE = {"cells": CELLS, "images": 20, "prompts": 20, "d": 16, "shift": {PLANTED: 3.0}, "tokens": (5, 7), "not_hand": 4}
ALONE = ["logger=none", "data.images=null", "probe=mass_mean", "previews=false"]


def dead_and_massive(image: int, cell: Cell, x: Tensor) -> Tensor:
    """A constant channel, and every fifth one a thousand times the rest."""
    x = x.float().clone()
    x[:, 0] = 3.0
    x[:, 1::5] *= 1000
    return x.bfloat16()


def faint_with_a_constant_cell(image: int, cell: Cell, x: Tensor) -> Tensor:
    """Activations at 1e-7, and a cell that never changes."""
    return torch.full_like(x, 1e-7) if cell == EMPTY else x * 1e-7


@pytest.mark.parametrize(
    ("change", "size"),
    [
        (dead_and_massive, {}),
        (faint_with_a_constant_cell, {}),
        (None, {"d": 3072, "images": 16, "prompts": 16, "shift": {PLANTED: 40.0}}),
    ],
    ids=["dead and massive channels", "1e-7 and a constant cell", "3,072 channels of 16 images"],
)
def test_awkward_activations_give_a_result(change, size, tmp_path, monkeypatch):
    given = {} if change is None else {"change": change}
    write_study(tmp_path / "studies" / "made", **{**SIZE, **given, **size})
    here(tmp_path, monkeypatch, *ALONE)
    (folder,) = (tmp_path / "here").iterdir()
    run = Run.open(folder)
    assert run.failed is None and run.report.is_file()
    table = run.table("headline")
    auroc = table[table["metric"] == "auroc"].set_index(["block", "timestep"])["value"]
    assert len(auroc) == len(CELLS) and auroc.notna().all()
    assert auroc[PLANTED.block, PLANTED.timestep] > 0.75, "what is planted is still seen"
    if change is faint_with_a_constant_cell:
        assert auroc[EMPTY.block, EMPTY.timestep] == 0.5
    assert np.isfinite(run.table("global_direction")["value"]).all()


def test_a_row_that_is_not_finite_is_refused_where_it_is_written(tmp_path):
    def one_nan(image: int, cell: Cell, x: Tensor) -> Tensor:
        return torch.where(torch.arange(len(x))[:, None] == 2, torch.nan, x) if image == 3 and cell == PLANTED else x

    with pytest.raises(ValueError, match=r"image syn-0003: activations of single\.1/t3 are not finite"):
        write_study(tmp_path / "made", change=one_nan, **SIZE)


def test_five_images_are_told_to_be_too_few(tmp_path, monkeypatch):
    write_study(tmp_path / "studies" / "made", **{**SIZE, "images": 5, "prompts": 5})
    with pytest.raises(CompactHydraException, match="are too few: label at least 4 of each class"):
        here(tmp_path, monkeypatch, *ALONE)


def test_painted_labels_are_never_the_judge_s(tmp_path, monkeypatch):
    write_study(tmp_path / "studies" / "made", **SIZE)
    records = list(Study(tmp_path / "studies" / "made").labels.latest().values())
    assert LabelChoice("painted", None).counting(records[:1]) is None
    with pytest.raises(CompactHydraException, match=r"no record of a choice by labels=painted .*labels=judge"):
        here(tmp_path, monkeypatch, *ALONE, "labels=painted")


def test_the_report_says_how_many_labels_are_disputed_and_whose_won(tmp_path):
    root = tmp_path / "studies" / "made"
    write_study(root, **SIZE)
    study, rule = Study(root), LabelChoice("judge", "judge")
    choice = read_choice(root, rule)
    choice_path(root, rule).unlink()
    disputed = choice.ids[:3]
    Choice(rule, choice.images, labelled=20, bad=10, conflicts=disputed).write(root)
    from badhands.measures.describe import describe

    run = Run.begin(tmp_path / "run", {})
    again = read_choice(root, rule)
    describe(study, study.activations(None, again), run.folder, conflicts=again.conflicts)
    assert "People disagree about 3 of these images; the newest label counts, which is of judge 3." in data_text(run)

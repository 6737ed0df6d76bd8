"""Planted shared and unshared directions get the verdicts they deserve."""

import numpy as np
import pandas as pd
import pytest
import torch

from badhands.cells import grid
from badhands.probes.global_direction import make_splits, nearest, try_directions
from badhands.probes.image_means import ImageMeans
from badhands.probes.losses import Losses
from badhands.report.findings.facts import Facts
from badhands.report.findings.probed import answer as shares
from badhands.report.findings.probed import one_direction
from badhands.stats.design import Design
from badhands.stats.family import Family

CELLS = grid(["double.1", "single.2", "single.4"], [20, 15, 12, 8])
T = dict.fromkeys((20, 15, 12, 8), 20)
IMAGES, D = 120, 24
LABEL = (np.arange(IMAGES) % 2).astype(np.int32)


def planted(directions: torch.Tensor, strength: float = 1.2, seed: int = 0) -> ImageMeans:
    """Image means with a shift along one direction [cells, d] per cell and noise shared by the cells of an image."""
    generator = torch.Generator().manual_seed(seed)
    noise = 0.8 * torch.randn(1, IMAGES, D, generator=generator)
    noise = noise + 0.6 * torch.randn(len(CELLS), IMAGES, D, generator=generator)
    unit = directions / directions.norm(dim=1, keepdim=True)
    mean = noise + strength * torch.from_numpy(LABEL - 0.5).float()[None, :, None] * unit[:, None]
    c = len(CELLS)
    return ImageMeans(
        CELLS, mean, mean.square() + 1.0, torch.zeros(c, D), torch.zeros(c, 2, D), torch.zeros(c, 1, D),
        np.ones(IMAGES, bool),
    )  # fmt: skip


def answer(directions: torch.Tensor, **options) -> Losses:
    design = Design.of(LABEL, range(IMAGES), draws=1, permutations=24)
    trial = try_directions(planted(directions, **options), LABEL, design.base, T)
    return Losses(trial, design, widening=1.4)


def sentence(found: Losses, passed: bool = True) -> str:
    """What the report says, with a gate that is open or not."""
    family = Family()
    null = np.random.default_rng(0).normal(size=(100, 1))
    family.add("auroc", ["single.2/t8"], np.array([9.0 if passed else 0.0]), null)
    told = one_direction(Facts({"verdicts": pd.DataFrame(found.verdict_rows())}, family))
    assert told.claims == ("Undecided" not in told.sentence)
    return told.sentence


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


def loss(found: Losses, kind: str, method: str) -> float:
    return found.own(found.cells_tried(kind, method)).value - found.method(kind, method).value


def test_a_shared_direction_is_one():
    found = answer(normal(1, D).expand(len(CELLS), D), strength=2.0)
    assert sentence(found).startswith("Is there one good/bad direction? Yes"), sentence(found)
    for kind in ("block", "timestep", "window"):
        assert loss(found, kind, "rank1") < 0.02 < 0.1 < loss(found, "none", "random1")


def test_directions_of_their_own_are_not_one():
    found = answer(normal(len(CELLS), D), strength=2.0)
    assert "direction? No" in sentence(found), sentence(found)
    assert loss(found, "block", "rank1") > 0.15 and found.own().value > 0.7


def test_directions_shared_within_a_block_cross_timesteps_but_not_blocks():
    found = answer(normal(3, D).repeat_interleave(4, 0), strength=2.0)
    assert loss(found, "timestep", "rank3") < 0.05  # three directions hold three blocks
    assert loss(found, "timestep", "nearest") < 0.05
    assert loss(found, "block", "rank1") > 0.1
    gain = found.method("timestep", "rank3").minus(found.method("timestep", "rank1"))
    assert found.interval(gain)[0] > 0  # and one does not
    assert "direction? Yes" not in sentence(found)


@pytest.mark.parametrize(
    ("own", "three", "said"),
    [
        ((0.0, 0.04), (-0.02, 0.03), "yes"),
        ((0.007, 0.087), (-0.016, 0.049), "undecided"),
        ((0.067, 0.211), (0.02, 0.1), "no"),
    ],
)
def test_a_loss_that_may_be_less_than_what_counts_as_none_is_undecided(own, three, said):
    assert shares(*(pd.Series({"lo": lo, "hi": hi}) for lo, hi in (own, three))) == said


def test_without_an_open_gate_nothing_is_decided():
    assert "Undecided" in sentence(answer(normal(1, D).expand(len(CELLS), D), strength=2.0), passed=False)


def test_what_cannot_be_told_is_undecided():
    assert "Undecided" in sentence(answer(normal(len(CELLS), D), strength=0.2))


@pytest.mark.parametrize("case", ["few images of many channels", "constant cells"])
def test_degenerate_input_gives_numbers(case):
    images, width = (16, 600) if case == "few images of many channels" else (40, 8)
    label = (np.arange(images) % 2).astype(np.int32)
    mean = torch.randn(len(CELLS), images, width, generator=torch.Generator().manual_seed(1))
    if case == "constant cells":
        mean[:3] = 7.0
    c = len(CELLS)
    means = ImageMeans(CELLS, mean, mean.square() + (mean != 7.0), torch.zeros(c, width), torch.zeros(c, 2, width),
                       torch.zeros(c, 1, width), np.ones(images, bool))  # fmt: skip
    design = Design.of(label, range(images), draws=1, permutations=24, n_folds=3)
    trial = try_directions(means, label, design.base, T)
    table = Losses(trial, design, 1.0).table({20: (0, 1.0), 15: (5, 0.8), 12: (8, 0.6), 8: (12, 0.4)})
    assert table["value"].between(-1, 1).all()


def test_the_number_of_threads_changes_nothing():
    # So many rows that the batched LU of torch 2.13 fails with four threads.
    cells, images, width = grid([f"single.{i}" for i in range(8)], [20, 8]), 16, 600
    c, mean = len(cells), torch.randn(16, images, width, generator=torch.Generator().manual_seed(1))
    means = ImageMeans(cells, mean, mean.square() + 1, torch.zeros(c, width), torch.zeros(c, 2, width),
                       torch.zeros(c, 1, width), np.ones(images, bool))  # fmt: skip
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            found.append(try_directions(means, np.arange(images) % 2, np.arange(images) // 2 % 5, T))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0].own, found[1].own)
    np.testing.assert_array_equal(found[0].transfer, found[1].transfer)
    for name, values in found[0].scores.items():
        np.testing.assert_array_equal(values, found[1].scores[name])


def test_the_transfer_matrix_is_by_from_and_to():
    within = normal(3, D).repeat_interleave(4, 0)
    found = answer(within, strength=2.0)
    same = np.repeat(np.arange(3), 4)[:, None] == np.repeat(np.arange(3), 4)[None]
    transfer = found.transfer_table()["value"].to_numpy().reshape(len(CELLS), -1)
    assert transfer[same].mean() > 0.8 and abs(transfer[~same].mean() - 0.5) < 0.2
    own = [found.own(slice(c, c + 1)).value for c in range(len(CELLS))]
    assert transfer.diagonal() == pytest.approx(own, abs=1e-6)


def test_left_out_cells_are_left_out():
    splits = make_splits(CELLS, T)
    assert [s.kind for s in splits] == ["none", *["block"] * 3, *["timestep"] * 4, "window"]
    for kind in ("block", "timestep"):
        assert (sum(s.held_out.astype(int) for s in splits if s.kind == kind) == 1).all()
    for split in splits[1:]:
        assert (split.held_out != split.train).all()
    assert {CELLS[i].timestep for i in np.flatnonzero(splits[-1].held_out)} == {8}


def test_nearest_prefers_the_neighbouring_block_or_timestep():
    train = np.array([c.block != "single.2" for c in CELLS])
    found = CELLS[nearest(CELLS, 5, train)]
    assert (found.block, found.timestep) == ("double.1", 15)

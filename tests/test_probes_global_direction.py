"""Planted shared and unshared directions get the verdicts they deserve."""

import numpy as np
import pytest
import torch

from badhands.cells import grid
from badhands.probes.global_direction import make_splits, nearest, try_directions
from badhands.probes.image_means import ImageMeans
from badhands.probes.recovery import fast_auroc, recover
from badhands.probes.scores import resample
from badhands.stats.folds import make_folds

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


def answer(directions: torch.Tensor, **options):
    means = planted(directions, **options)
    folds = make_folds(LABEL, range(IMAGES), 5)
    return recover(try_directions(means, LABEL, folds, T), LABEL, resample(IMAGES, 150))


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


def at(found, kind, method):
    return next(row for row in found.rows if (row.kind, row.method) == (kind, method))


def test_a_shared_direction_is_one():
    found = answer(normal(1, D).expand(len(CELLS), D))
    assert found.verdict == "yes", found.sentence
    for kind in ("block", "timestep", "window"):
        assert at(found, kind, "rank1").recovery[0] > 0.9
        assert at(found, kind, "rank1").recovery[1] > at(found, "none", "random1").recovery[2]
    assert found.sentence.startswith("Is there one good/bad direction? Yes: 60 good and 60 bad images")


def test_directions_of_their_own_are_not_one():
    found = answer(normal(len(CELLS), D))
    assert found.verdict == "no", found.sentence
    assert at(found, "block", "rank1").recovery[0] < 0.4
    assert found.cell_auroc["", "own"].mean() > 0.7


def test_directions_shared_within_a_block_cross_timesteps_but_not_blocks():
    found = answer(normal(3, D).repeat_interleave(4, 0), strength=1.5)
    assert at(found, "timestep", "rank3").recovery[0] > 0.85  # three directions hold three blocks
    assert at(found, "timestep", "nearest").recovery[0] > 0.85
    assert at(found, "block", "rank1").recovery[0] < 0.5
    assert found.rank_gain["timestep"][1] > 0  # and one does not
    assert found.verdict != "yes"


def test_nothing_planted_is_undecided():
    found = answer(normal(len(CELLS), D), strength=0.0)
    assert found.verdict == "undecided", found.sentence


def test_the_transfer_matrix_is_by_from_and_to():
    within = normal(3, D).repeat_interleave(4, 0)
    found = answer(within, strength=2.0)
    same = np.repeat(np.arange(3), 4)[:, None] == np.repeat(np.arange(3), 4)[None]
    assert found.transfer[same].mean() > 0.8 and abs(found.transfer[~same].mean() - 0.5) < 0.2
    assert np.allclose(found.transfer.diagonal(), found.cell_auroc["", "own"], atol=1e-6)


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


@pytest.mark.parametrize("shape", [(7,), (3, 7)])
def test_auroc_by_ranks(shape):
    score = np.random.default_rng(0).normal(size=(*shape[:-1], 7))
    good, bad = np.array([0, 2, 4]), np.array([1, 3, 6])
    expected = (score[..., good][..., :, None] > score[..., bad][..., None, :]).mean((-1, -2))
    assert np.allclose(fast_auroc(score, good, bad), expected)

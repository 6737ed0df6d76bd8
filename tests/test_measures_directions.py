"""Directions: unbiased length, cosines, and the agreement that shared images alone produce."""

import numpy as np
import pytest
import torch

from badhands.measures.contrasts import Contrast
from badhands.measures.directions import (
    CellStack,
    agreement,
    cosines,
    direction,
    expected_gap,
    participation_ratio,
    squared_lengths,
)
from badhands.measures.nulls import labellings, over_permutations
from badhands.measures.sides import CellSums, noise, observed, sides
from badhands.stats.design import Design, p_value


def many_cells(j: int, d: int, cells: int, seed: int, shift: float, shared: float = 0.8, uneven: bool = False):
    """`cells` cells over the same j images, whose image effects are shared; one direction planted in all of them."""
    rng = np.random.default_rng(seed)
    role = np.arange(j) % 2 == 0
    tokens = rng.integers(3, 25, j) if uneven else np.full(j, 8)
    together = rng.normal(size=(j, d))
    v = np.zeros(d)
    v[0] = shift
    sums = []
    chosen = Contrast("good_vs_bad", np.arange(j), np.arange(j), role, np.arange(j), np.arange(j), role,
                      tokens, tokens.astype(float))  # fmt: skip
    for _ in range(cells):
        mean = shared * together + np.sqrt(1 - shared**2) * rng.normal(size=(j, d)) + role[:, None] * v
        s = mean * tokens[:, None] + rng.normal(size=(j, d)) * np.sqrt(tokens)[:, None]
        q = (s**2) / tokens[:, None] + tokens[:, None] * 1.0
        sums.append(CellSums.of(chosen, s, q))
    return chosen, sums, v


@pytest.mark.parametrize("uneven", [False, True])
def test_squared_length_is_unbiased(uneven):
    plug, corrected = [], []
    for seed in range(150):
        chosen, sums, _ = many_cells(16, 12, 1, seed, shift=1.0, uneven=uneven)
        found = direction(chosen, sums[0])
        plug.append(found.v @ found.v)
        corrected.append(found.squared)
    error = np.std(corrected) / np.sqrt(len(corrected))
    assert abs(np.mean(corrected) - 1.0) < 3 * error
    assert np.mean(plug) > 2.0


def test_noise_of_equal_weights_is_the_textbook_formula():
    means = np.random.default_rng(0).normal(size=(9, 4))
    np.testing.assert_allclose(noise(means, np.full(9, 1 / 9)), means.var(0, ddof=1) / 9)


def test_disjoint_halves_agree_with_the_unbiased_square():
    chosen, sums, _ = many_cells(40, 10, 2, seed=1, shift=1.5)
    stack = CellStack(chosen, sums, (len(sums), len(sums[0].mean)), False)
    halves = stack.inner_products_halves(400, seed=0)
    for k in range(2):
        assert halves[k, k] == pytest.approx(direction(chosen, sums[k]).squared_standard, rel=0.15)


def test_stack_directions_equal_single_ones_and_their_cosines():
    chosen, sums, _ = many_cells(20, 7, 3, seed=2, shift=1.0, uneven=True)
    for raw in (True, False):
        stack = CellStack(chosen, sums, (len(sums), len(sums[0].mean)), raw)
        alone = [direction(chosen, one) for one in sums]
        v = np.stack([one.v if raw else one.v_standard for one in alone])
        found = stack.directions(torch.from_numpy(chosen.good.astype(np.float32))[None])[0].numpy()
        np.testing.assert_allclose(cosines(found), cosines(v), atol=1e-5)


def agreed(chosen, sums, permutations: int, seed: int):
    """Agreement of standardised directions, resolved cell by cell at 5 %."""
    design = Design.of(chosen.role.astype(int), range(len(chosen.role)), seed=seed, permutations=permutations)
    labels = labellings(chosen, design)
    can = []
    for one in sums:
        lengths = squared_lengths(one)
        value = lengths(sides(one, observed(chosen)))[0, 1].numpy()
        p = p_value(value, over_permutations(one, labels, lengths)[:, 1].numpy())
        can.append(p < 0.05 and direction(chosen, one).squared_standard > 0)
    return agreement(CellStack(chosen, sums, (len(sums), len(sums[0].mean)), False), np.array(can), labels, 20, seed)


def test_random_labels_agree_between_cells_and_are_not_resolved():
    """The trap: cosines far from 0 with labels at random. The null shows the same, the correction refuses to speak."""
    resolved, inside, quoted, values = 0, 0, 0, []
    for seed in range(20):
        chosen, sums, _ = many_cells(30, 20, 3, seed=50 + seed, shift=0.0)
        found = agreed(chosen, sums, 200, seed)
        values.append(found.cosine[0, 1])
        inside += found.null_low[0, 1] <= found.cosine[0, 1] <= found.null_high[0, 1]
        resolved += found.resolved.sum()
        quoted += np.isfinite(found.corrected[0, 1])
    assert np.mean(values) > 0.4
    assert inside >= 17
    assert resolved <= 8 and quoted <= 3


def test_one_planted_direction_has_corrected_cosine_one():
    values = []
    for seed in range(8):
        chosen, sums, _ = many_cells(60, 30, 2, seed=80 + seed, shift=2.0, shared=0.0)
        found = agreed(chosen, sums, 100, 0)
        assert found.resolved.all()
        assert found.cosine[0, 1] < 0.95
        values.append(found.corrected[0, 1])
    assert np.mean(values) == pytest.approx(1.0, abs=0.05)


def test_gap_in_sample_is_what_the_formula_expects_of_random_labels():
    gaps, expected = [], []
    for seed in range(20):
        chosen, sums, _ = many_cells(40, 30, 1, seed=120 + seed, shift=0.0)
        v = direction(chosen, sums[0]).v_standard
        means = sums[0].s.double().numpy() / chosen.n[:, None] @ v
        good = chosen.role
        within = np.sqrt((means[good].var() + means[~good].var()) / 2)
        gaps.append((means[good].mean() - means[~good].mean()) / within)
        expected.append(expected_gap(chosen, participation_ratio(chosen, sums[0], raw=False)))
    assert np.mean(gaps) == pytest.approx(np.mean(expected), rel=0.25)
    assert np.mean(gaps) > 0.8

"""The gate lets through what is there, and something false in one run of twenty at most."""

import numpy as np

from badhands.stats.design import FEWEST_PERMUTATIONS
from badhands.stats.family import CELLS, VERDICT_LEVEL, VERDICT_NAMES, VERDICTS, Family


def family(rng: np.random.Generator, shift: float = 0.0) -> Family:
    """Three groups of twenty correlated statistics, one of them with a long tail."""
    common = rng.normal(size=(401, 1))
    made = Family()
    for k, group in enumerate(("db", "auroc", "length")):
        drawn = 0.6 * common + 0.8 * rng.normal(size=(401, 20))
        if k == 2:
            drawn = np.exp(drawn)
        drawn[0, :3] += shift
        made.add(group, [f"{group}{i}" for i in range(20)], drawn[0], drawn[1:])
    return made


def test_one_run_in_twenty_at_most_has_a_false_finding_however_much_is_tested():
    rng = np.random.default_rng(0)
    opened = sum(family(rng).open for _ in range(300))
    assert opened <= 300 * 0.04 + 2 * np.sqrt(300 * 0.04 * 0.96)
    assert opened >= 3  # and the gate can open at all


def test_few_permutations_let_no_more_through_and_the_fewest_can_open_it():
    rng, opened = np.random.default_rng(0), 0
    for _ in range(300):
        made = Family()
        drawn = rng.normal(size=(1 + FEWEST_PERMUTATIONS, 60))
        made.add("db", list(map(str, range(60))), drawn[0], drawn[1:])
        opened += made.open
    assert 3 <= opened <= 300 * CELLS + 3 * np.sqrt(300 * CELLS * (1 - CELLS))
    assert 1 / FEWEST_PERMUTATIONS > CELLS >= 1 / (1 + FEWEST_PERMUTATIONS)


def test_what_is_planted_passes_and_nothing_else(tmp_path):
    made = family(np.random.default_rng(1), shift=12.0)
    found = made.found()
    assert set(found["db"]) == {"db0", "db1", "db2"} and set(found["auroc"]) == {"auroc0", "auroc1", "auroc2"}
    made.save(tmp_path / "family.npz")
    assert Family.load(tmp_path / "family.npz").found() == found


def test_a_larger_family_asks_for_more():
    made = family(np.random.default_rng(2), shift=3.4)
    alone = Family()
    alone.add("db", made.names["db"], made.value["db"], made.null["db"])
    assert (alone.p()["db"] <= made.p()["db"]).all() and (alone.p()["db"] < made.p()["db"]).any()


def test_a_statistic_that_never_varies_finds_nothing():
    made = Family()
    made.add("constant", ["x"], np.array([0.5]), np.full((50, 1), 0.5))
    assert not made.open and made.p()["constant"][0] == 1 and not Family().open


def test_cells_and_verdicts_share_five_percent():
    assert CELLS + len(VERDICT_NAMES) * (1 - VERDICT_LEVEL) < 0.0501 and VERDICTS < CELLS

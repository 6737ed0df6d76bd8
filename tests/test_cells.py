import pytest

from badhands.cells import Cell, evenly, grid, in_order


def test_a_cell_reads_back_from_its_key():
    for cell in (Cell("single.8", 20), Cell("double.12", 3), Cell("x0", 1)):
        assert Cell.parse(str(cell)) == cell


def test_order_is_the_networks_and_timesteps_count_down():
    cells = in_order(
        [Cell("single.10", 3), Cell("single.2", 20), Cell("double.3", 3), Cell("xt", 20), Cell("double.3", 20)]
    )
    assert [str(c) for c in cells] == ["xt/t20", "double.3/t20", "double.3/t3", "single.2/t20", "single.10/t3"]


def test_grid_holds_every_pair_once():
    assert len(grid(["single.8", "double.1", "single.8"], [20, 3])) == 4


@pytest.mark.parametrize("text", ["single.8", "single.8/20", "triple.1/t3", "single/t3", "single.8/t3x", "../t3"])
def test_other_text_is_refused_with_the_right_form(text):
    with pytest.raises(ValueError, match=r"single\.8"):
        Cell.parse(text)


def test_of_many_cells_some_are_taken_evenly_and_of_few_all():
    everything = grid([*(f"double.{i}" for i in range(19)), *(f"single.{i}" for i in range(38))], range(1, 21))
    some = evenly(everything, 96)
    blocks, timesteps = dict.fromkeys(c.block for c in some), dict.fromkeys(c.timestep for c in some)
    assert 80 <= len(some) <= 96 and len(some) == len(blocks) * len(timesteps)
    assert {"double.0", "single.37"} <= set(blocks) and {20, 1} <= set(timesteps) and some == in_order(some)
    assert evenly(everything[:96], 96) == everything[:96]
    assert len(evenly(grid(["single.0"], range(1, 201)), 96)) == 96

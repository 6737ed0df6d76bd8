import pytest

from badhands.cells import Cell, grid, in_order


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

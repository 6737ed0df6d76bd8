import numpy as np
import pytest
from PIL import Image, ImageColor

from badhands.figures.palette import BAD, GOOD
from badhands.figures.sheets import Labelled, borders, outline, sheet


def test_the_border_of_a_region_is_its_outer_token_edges():
    region = np.zeros((4, 5), bool)
    region[1, 1:3] = True  # two tokens side by side: six edges, none between them
    edges = {frozenset(line) for line in borders(region)}
    assert len(edges) == 6
    assert frozenset({(2, 1), (2, 2)}) not in edges
    assert borders(np.zeros((3, 3), bool)) == []


def test_a_region_at_the_edge_of_the_picture_is_closed():
    assert len(borders(np.ones((2, 3), bool))) == 10


def test_outlines_carry_the_palette_and_leave_the_inside_alone():
    classes = np.zeros((16, 16), np.uint8)
    classes[2:6, 2:6], classes[9:14, 9:14], classes[0, 0] = 1, 2, 3
    picture = np.asarray(outline(Image.new("RGB", (64, 64), "#ffffff"), classes, side=128))
    seen = {tuple(int(v) for v in colour) for colour in picture.reshape(-1, 3)}
    assert seen == {(255, 255, 255), ImageColor.getrgb(GOOD), ImageColor.getrgb(BAD)}
    assert (picture[26:38, 26:38] == 255).all()  # inside the good region: tokens 2..5 are pixels 16..47
    assert tuple(picture[16, 30]) == ImageColor.getrgb(GOOD)


def test_non_square_pictures_keep_their_shape_and_their_token_edges():
    classes = np.zeros((2, 4), np.uint8)
    classes[0, 3] = 2
    picture = outline(Image.new("RGB", (64, 32), "#ffffff"), classes, side=128)
    assert picture.size == (128, 64)
    red = np.argwhere((np.asarray(picture) != 255).any(-1))
    assert red[:, 1].min() in (95, 96) and red[:, 0].max() in (31, 32, 33)


def test_a_sheet_holds_every_picture():
    pictures = [
        Labelled(Image.new("RGB", (64, 64), "#123456"), np.zeros((16, 16), np.uint8), f"image-{k}") for k in range(5)
    ]
    page = sheet(pictures, columns=4, side=64)
    assert page.width == 4 * 70 + 6 and page.height == 2 * (64 + 14 + 6) + 6
    with pytest.raises(ValueError, match="no labelled image"):
        sheet([])

import pytest
import torch
from scipy import ndimage

from badhands.tiny_hands.anatomy import ERRORS, sample_hands
from badhands.tiny_hands.attributes import (
    BACKGROUND_RGB,
    VOCABULARY,
    attributes_of,
    caption,
    every_caption,
    random_captions,
)
from badhands.tiny_hands.renderer import render, to_uint8, token_mask


def test_a_seed_gives_the_same_pictures_whatever_is_drawn_beside_them():
    hands = sample_hands(20, seed=3, bad_share=0.5)
    again = sample_hands(20, seed=3, bad_share=0.5)
    whole = render(hands)
    assert torch.equal(whole.images, render(again).images)
    assert torch.equal(whole.images[7:9], render(hands[7:9]).images)
    assert not torch.equal(whole.images, render(sample_hands(20, seed=4, bad_share=0.5)).images)


def test_pictures_are_rgb_in_range_and_masks_hold_a_hand():
    rendered = render(sample_hands(50, seed=0))
    assert rendered.images.shape == (50, 3, 64, 64) and rendered.masks.shape == (50, 64, 64)
    assert rendered.images.min() >= 0 and rendered.images.max() <= 1
    assert to_uint8(rendered.images).shape == (50, 64, 64, 3)
    share = rendered.masks.float().mean((1, 2))
    assert share.min() > 0.08 and share.max() < 0.6


@pytest.mark.parametrize("direction", range(4))
def test_fingers_are_where_the_caption_points(direction):
    codes = torch.zeros(40, 7, dtype=torch.int64)
    codes[:, 3] = direction
    images = render(sample_hands(40, seed=1, codes=codes)).images
    sides = (images[:, :, 0], images[:, :, :, -1], images[:, :, -1], images[:, :, :, 0])  # top, right, bottom, left
    drawn = [((side - side.median(2, keepdim=True).values).abs().amax(1) > 0.2).sum(1) for side in sides]
    # The arm leaves the picture on the side opposite to the fingers, and there alone.
    assert (drawn[(direction + 2) % 4] >= 4).float().mean() > 0.95
    assert (drawn[direction] == 0).float().mean() > 0.95


def test_left_and_right_hands_are_mirror_images():
    codes = torch.zeros(1, 7, dtype=torch.int64)
    left = sample_hands(1, seed=5, codes=codes)
    right_codes = codes.clone()
    right_codes[:, 2] = 1
    right = sample_hands(1, seed=5, codes=right_codes)
    flat = {"centre": torch.zeros(1, 2), "angle": torch.zeros(1), "shade": left.shade * torch.tensor([0.0, 0.0, 1.0])}
    one, two = (render(type(h)(**{**vars(h), **flat})).images for h in (left, right))
    assert torch.allclose(one, two.flip(3), atol=1e-5)


@pytest.mark.parametrize(("count", "seed"), [(2, 0), (3, 1), (4, 2), (5, 3), (6, 4)])
def test_every_digit_is_seen(count, seed):
    """Across the fingers, away from the palm, a spread hand shows as many stripes as it has fingers."""
    codes = torch.zeros(300, 7, dtype=torch.int64)  # pale skin, drawn in ink, pointing upwards
    codes[:, 0] = 2
    hands = sample_hands(300, seed, 1.0 if count != 4 else 0.0, ("fingers",), codes)
    hands = hands[hands.digits == count + 1]
    still = {"angle": torch.zeros(len(hands)), "centre": torch.zeros(len(hands), 2)}
    hands = type(hands)(**{**vars(hands), **still})
    images, masks = render(hands).images, render(hands).masks
    core = masks & (images.amin(1) > 0.4)
    # Above the palm every finger is a piece of its own, parted from its neighbours by ink.
    pieces = [ndimage.label(mask[:24].numpy()) for mask in core]
    seen = [int((ndimage.sum_labels(labels > 0, labels, range(1, n + 1)) >= 6).sum()) for labels, n in pieces]
    assert sum(n == count for n in seen) > 0.7 * len(seen), seen


@pytest.mark.parametrize("error", ERRORS)
def test_each_planted_error_changes_the_picture_and_says_its_kind(error):
    good, bad = sample_hands(30, seed=2), sample_hands(30, seed=2, bad_share=1.0, errors=(error,))
    assert good.is_good.all() and not bad.is_good.any()
    assert bool(bad.is_global.all()) == (error == "fingers")
    assert torch.equal(good.codes, bad.codes)
    if error == "fingers":
        assert set(bad.digits.tolist()) <= {3, 4, 6, 7}
    else:
        assert (bad.digits == 5).all()
    difference = (render(good).images - render(bad).images).abs().amax(1) > 0.1
    assert (difference.flatten(1).sum(1) > 10).float().mean() > 0.95


def test_fingers_are_four_pixels_thick_at_the_smallest_size():
    codes = torch.zeros(500, 7, dtype=torch.int64)
    hands = sample_hands(500, seed=0, codes=codes)
    diameters = 2 * hands.radii[:, 1:5] * hands.scale[:, None, None, None]
    assert diameters.min() >= 4.0


def test_backgrounds_are_the_captions():
    hands = sample_hands(60, seed=8)
    border = to_uint8(render(hands).images).float() / 255
    corner = torch.stack([border[:, i, j] for i in (1, 62) for j in (1, 62)], 1).median(1).values
    nearest = torch.cdist(corner, torch.tensor(BACKGROUND_RGB)).argmin(1)
    assert (nearest == hands.codes[:, 4]).float().mean() > 0.95


def test_token_masks_are_the_majority_of_their_pixels():
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, :4, :2] = True  # half of token 0
    mask[0, 8:12, 8:9] = True  # a quarter of token (2, 2)
    tokens = token_mask(mask)
    assert tokens[0, 0, 0] and tokens.sum() == 1


def test_captions_read_back_and_differ():
    captions = every_caption()
    assert len(set(captions)) == len(captions) == 4608
    for text in captions[::97]:
        assert caption(attributes_of(text)) == text
    assert random_captions(50, seed=1)[:20] == random_captions(20, seed=1)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"skin": "violet"}, "unknown skin 'violet'"), ({"nails": "red"}, "unknown attribute 'nails'")],
)
def test_unknown_attributes_are_refused_with_the_known_ones(change, words):
    attributes = {name: options[0] for name, options in VOCABULARY.items()}
    with pytest.raises(ValueError, match=words):
        caption({**attributes, **change})
    with pytest.raises(ValueError, match="is missing"):
        caption({"size": "small"})
    with pytest.raises(ValueError, match="not a caption"):
        attributes_of("a photo of a hand")
    with pytest.raises(ValueError, match="unknown error"):
        sample_hands(1, 0, 1.0, ("melted",))
    with pytest.raises(ValueError, match="between 0 and 1"):
        sample_hands(1, 0, 1.5)

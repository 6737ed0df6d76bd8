"""Masks that learn: from sketches that know the hand they come out, from sketches that don't they do not."""

import numpy as np
import pytest

from badhands.cells import Cell
from badhands.label.desk import labelling_order
from badhands.label.differences import iou
from badhands.label.mask_table import mask_table
from badhands.study.classes import BAD, GOOD, NOT_HAND
from badhands.study.sketches import CHANNELS, read_sketch, sketch_path, write_sketch
from demo_study import make_study
from label_site import InProcess, chromium, open_page, served, settled


def with_sketches(root, images=30, blind=False):
    """The drawn study with a sketch for each image, in which hand tokens lie apart by a planted direction."""
    study = make_study(root, images=images)
    rng = np.random.default_rng(0)
    direction = rng.standard_normal(CHANNELS)
    hands = {}
    for (image_id, _), record in study.labels.latest().items():
        hands[image_id] = np.isin(record.classes, (GOOD, BAD))
        seen = rng.permutation(hands[image_id].ravel()) if blind else hands[image_id].ravel()
        sketch = rng.standard_normal((256, CHANNELS)) + seen[:, None] * direction
        write_sketch(sketch_path(root, "0" * 12, image_id), sketch.astype(np.float16), Cell("single.4", 8))
    return study, hands


def paint(site, hands, ids):
    for number, image_id in enumerate(ids):
        runs = [[int(GOOD if inside else NOT_HAND), 1] for inside in hands[image_id].ravel()]
        change = site.change(image_id, classes=runs, verdict="good", change=f"{number:08d}{image_id}")
        assert site.json("POST", f"/api/labels/{image_id}", change)[0] == 200


def learned(site, image_id):
    offered = site.json("GET", f"/api/proposals/{image_id}", query=b"annotator=anna")[1]
    return next((one for one in offered if one["source"] == "learned"), None)


def test_after_every_eight_painted_images_the_others_are_offered_a_mask(tmp_path):
    study, hands = with_sketches(tmp_path / "study")
    site, ids = InProcess(study), labelling_order(hands)
    paint(site, hands, ids[:7])
    assert learned(site, ids[20]) is None
    paint(site, hands, ids[7:8])
    first = learned(site, ids[20])
    assert first["images"] == 8 and len(first["chance"]) == 256 and first["quality"] is False
    assert learned(site, ids[0]) is None, "a painted image needs no proposal"
    for image_id in ids[20:]:
        mask = np.array(learned(site, image_id)["chance"]) >= 50
        assert iou(mask, hands[image_id].ravel()) > 0.9
    paint(site, hands, ids[8:15])
    assert learned(site, ids[20]) == first, "fitted again after eight more, not before"
    paint(site, hands, ids[15:16])
    assert learned(site, ids[20])["images"] == 16
    assert learned(site, ids[20])["chance"] != first["chance"]
    assert site.json("GET", "/api/proposals/img0000", query=b"annotator=ben")[1][0]["source"] == "judge"


def test_sketches_that_do_not_know_the_hand_give_masks_at_chance(tmp_path):
    study, hands = with_sketches(tmp_path / "study", blind=True)
    (row,) = [row for row in mask_table(study, "judge", draws=2).itertuples() if row.images == 16]
    share = np.mean([hand.mean() for hand in hands.values()])
    assert row.iou < share + 0.1
    study, _ = with_sketches(tmp_path / "other")
    table = mask_table(study, "judge", draws=2)
    assert table.images.tolist() == [8, 16] and (table.iou > 0.9).all() and (table.lowest <= table.iou).all()
    assert table.of.tolist() == [22, 14]


def test_a_missing_or_damaged_sketch_offers_nothing_and_breaks_nothing(tmp_path):
    study, hands = with_sketches(tmp_path / "study", images=12)
    site, ids = InProcess(study), labelling_order(hands)
    path = sketch_path(study.root, "0" * 12, ids[10])
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match="draw the image again"):
        read_sketch(path, 256)
    sketch_path(study.root, "0" * 12, ids[11]).unlink()
    paint(site, hands, ids[:8])
    assert learned(site, ids[9]) is not None
    assert learned(site, ids[10]) is None and learned(site, ids[11]) is None
    with pytest.raises(ValueError, match="16 are needed"):
        mask_table(study, "judge")
    with pytest.raises(ValueError, match="float16"):
        write_sketch(path, np.zeros((256, CHANNELS)), Cell("single.4", 8))


def test_on_the_page_one_key_accepts_a_learned_mask_and_the_slider_moves_it(tmp_path):
    study, hands = with_sketches(tmp_path / "study", images=20)
    site, ids = InProcess(study), labelling_order(hands)
    for image_id in ids:
        site.json("POST", f"/api/labels/{image_id}", site.change(image_id, verdict="bad", change=f"triage{image_id}"))
    with served(study) as address, chromium() as browser:
        page = open_page(browser, address, fragment=f"#paint/{ids[0]}")
        for image_id in ids[:8]:
            page.wait_for_function("id => badhands.item.id === id && badhands.view.drawn", arg=image_id)
            runs = hands[image_id].ravel().astype(int).tolist()
            page.evaluate(
                "runs => badhands.change({classes: Uint8Array.from(runs, (one) => one ? 2 : 3), verdict: 'bad'})", runs
            )
            page.keyboard.press("Enter")
        page.wait_for_selector("#proposals >> text=Accept learned from 8")
        assert page.evaluate("badhands.item.id") == ids[8]
        offered = "[...badhands.view.proposed].filter((value) => value === 2).length"
        usual = page.evaluate(offered)
        page.locator("#threshold").fill("95")
        assert page.evaluate(offered) <= usual
        page.locator("#threshold").fill("50")
        page.focus("canvas.mask")
        page.keyboard.press("q")
        page.wait_for_function("id => badhands.item.id !== id", arg=ids[8])
        settled(page)
        record = study.labels.latest()[ids[8], "anna"]
        assert record.accepted_proposal and record.verdict == "bad"
        assert iou(record.classes == BAD, hands[ids[8]]) > 0.9


def test_a_sketch_is_the_projection_of_the_normalised_tokens():
    import torch

    from badhands.extraction.sketch import sketch_rows

    rows = torch.randn(50, 128, generator=torch.Generator().manual_seed(0)) * 3 + 1
    rows[:, 5] = 4000  # a massive channel
    sketch = sketch_rows(rows.bfloat16())
    assert sketch.shape == (50, CHANNELS) and sketch.dtype == np.float16 and np.isfinite(sketch).all()
    wide = torch.randn(300, 512, generator=torch.Generator().manual_seed(1))
    near = sketch_rows(wide).astype(np.float64)
    true = torch.nn.functional.layer_norm(wide, (512,)).double()
    ratio = torch.cdist(torch.from_numpy(near), torch.from_numpy(near)) / torch.cdist(true, true) * (512 / 64) ** 0.5
    pairs = ratio[~torch.eye(300, dtype=torch.bool)]
    assert 0.95 < pairs.mean() < 1.05 and pairs.std() < 0.15, "distances are kept"

"""Labels out and back in: nothing changes, and packed masks are those that the formats' own tools write and read."""

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from badhands.label.exchange import FORMATS, export_labels, import_labels
from badhands.label.exchange.coco import compress, counts, decompress, from_counts
from badhands.label.exchange.label_studio import pack, unpack
from badhands.study.classes import BAD, GLOBAL, GOOD, LOCAL, NOT_HAND
from badhands.study.labels import LabelRecord
from demo_study import make_study

MASKS = arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40)))

SMALL = np.zeros((5, 7), bool)
SMALL[1:4, 2:5] = SMALL[0, 6] = True
LARGE = np.zeros((40, 64), bool)
LARGE[3:30, 5:50] = True
LARGE[10:12, 20:22] = False


def test_coco_counts_are_those_of_pycocotools():
    # written by pycocotools 2.0's encode for the same masks
    assert compress(counts(SMALL)) == ";320004NN"
    ones = "0" * 28
    assert compress(counts(LARGE)).startswith("[6k0=" + ones)
    assert compress(counts(LARGE)).endswith("]a0")


def test_label_studio_streams_are_read_as_its_own_converter_wrote_them():
    # label_studio_sdk 2.0, converter.brush.encode_rle: it mixes runs with single values, which pack() never writes
    written = [
        0,
        0,
        0,
        140,
        57,
        27,
        254,
        23,
        0,
        143,
        254,
        112,
        11,
        127,
        247,
        192,
        45,
        255,
        223,
        0,
        183,
        255,
        136,
        192,
        0,
    ]
    assert np.array_equal(unpack(written, 5, 7), SMALL)
    # The beginning of a published project's stream (3332 x 2527 pixels): header and first run of 65,536 zeros.
    published = [2, 1, 233, 240, 57, 27, 255, 255, 255, 0, 255, 255, 224, 31]
    assert pack(np.zeros((2527, 3332), bool))[: len(published)] == published


@settings(max_examples=200, deadline=None)
@given(MASKS)
def test_masks_survive_both_packings(mask):
    assert np.array_equal(from_counts(counts(mask), *mask.shape), mask)
    assert decompress(compress(counts(mask))) == counts(mask)
    assert np.array_equal(unpack(pack(mask), *mask.shape), mask)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 255), max_size=60))
def test_torn_brush_streams_are_refused(data):
    with contextlib.suppress(ValueError):
        assert unpack(data, 5, 7).shape == (5, 7)


@pytest.mark.parametrize("text", ["", "~", "\x00", "P", ";32000", "o" * 40])
def test_malformed_coco_texts_are_refused(text):
    with pytest.raises(ValueError):
        from_counts(decompress(text), 5, 7)


def records(study, rng):
    """Labels of two people, one with a repetition: every class, both kinds, notes in several scripts."""
    out = []
    for entry in study.manifest.entries:
        classes = rng.integers(0, 4, entry.grid).astype(np.uint8)
        classes[: entry.grid[0] // 2] = NOT_HAND
        kinds = np.where(classes == BAD, rng.integers(0, 3, entry.grid), 0).astype(np.uint8)
        out.append(
            LabelRecord(entry.id, "anna", "2026-01-01T00:00:00.000+00:00", 3.5, classes, kinds, "bad", "Daumen 親指")
        )
    first = study.manifest.entries[0]
    good = np.full(first.grid, GOOD, np.uint8)
    out.append(LabelRecord(first.id, "anna", "2026-01-02T00:00:00.000+00:00", 2.0, good, verdict="good", repeat=1))
    out.append(LabelRecord(first.id, "ben", "2026-01-02T00:00:00.000+00:00", 2.0, good * 0, verdict="skip"))
    out.append(LabelRecord(study.manifest.entries[1].id, "ben", "2026-01-03T00:00:00.000+00:00", 1.0, good + 2,
                           verdict="no_hand", accepted_proposal=True))  # fmt: skip
    return out


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("size", "patch"), [((64, 64), 4), ((96, 48), 8)])
def test_every_format_gives_back_what_went_out(tmp_path, form, size, patch):
    study = make_study(tmp_path / "out", images=3, size=size, patch=patch, judged=False)
    for record in records(study, np.random.default_rng(0)):
        study.labels.append(record)
    sent = study.labels.latest_of_all()
    path = tmp_path / ("masks" if form == "png" else "labels.json")
    assert export_labels(study, list(sent.values()), form, path) == 6
    fresh = make_study(tmp_path / "in", images=3, size=size, patch=patch, judged=False)
    assert len(import_labels(fresh, form, path, "unnamed")) == 6
    got = fresh.labels.latest_of_all()
    assert got.keys() == sent.keys()
    for key, record in sent.items():
        expected = record.to_json()
        if record.kinds is not None and not record.kinds.any():
            expected["kinds"] = None
        assert got[key].to_json() == expected
    assert import_labels(fresh, form, path, "unnamed") == []  # importing again adds nothing


def test_foreign_masks_land_on_the_nearest_tokens(tmp_path):
    study = make_study(tmp_path / "study", images=1, judged=False)
    values = np.zeros((64, 64), np.uint8)
    values[8:17, 8:16] = 2  # two tokens, 1/4 of two more
    folder = tmp_path / "masks"
    folder.mkdir()
    Image.fromarray(values).save(folder / "img0000.png")
    (record,) = import_labels(study, "png", folder, "anna")
    assert (record.annotator, record.verdict) == ("anna", "bad")
    assert np.argwhere(record.classes == BAD).tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]


def test_a_plain_coco_file_with_polygons_and_plain_counts(tmp_path):
    study = make_study(tmp_path / "study", images=1, judged=False)
    mask = np.zeros((64, 64), bool)
    mask[32:36, 0:8] = True
    content = {
        "images": [{"id": 7, "file_name": "somewhere/img0000.png", "width": 64, "height": 64}],
        "categories": [{"id": 1, "name": "good"}, {"id": 2, "name": "bad"}],
        "annotations": [
            {"image_id": 7, "category_id": 1, "segmentation": [[0, 0, 15, 0, 15, 15, 0, 15]]},
            {"image_id": 7, "category_id": 2, "segmentation": {"size": [64, 64], "counts": counts(mask)}},
        ],
    }
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(content))
    (record,) = import_labels(study, "coco", path, "anna")
    assert ((record.classes == GOOD).sum(), (record.classes == BAD).sum()) == (16, 2)
    content["categories"][0]["name"] = "cat"
    path.write_text(json.dumps(content))
    before = study.labels.path.read_bytes()
    with pytest.raises(ValueError, match=r"'cat' is unknown: rename"):
        import_labels(study, "coco", path, "anna")
    assert study.labels.path.read_bytes() == before


@pytest.mark.parametrize("form", FORMATS)
def test_files_that_do_not_fit_are_refused_as_a_whole(tmp_path, form):
    study = make_study(tmp_path / "study", images=2, judged=False)
    other = make_study(tmp_path / "other", images=3, judged=False)
    for record in records(other, np.random.default_rng(1)):
        other.labels.append(record)
    path = tmp_path / "file"
    export_labels(other, list(other.labels.latest_of_all().values()), form, path)
    with pytest.raises(ValueError, match="img0002"):
        import_labels(study, form, path, "anna")
    for text in ["[]", "{}", "[{}]", '{"images": 3}', "nonsense"]:
        if form != "png":
            path.write_text(text)
            if (form, text) == ("label_studio", "[]"):
                continue  # an empty project is a project
            with pytest.raises(ValueError):
                import_labels(study, form, path, "anna")
    assert not study.labels.path.exists()


def test_kinds_have_names_in_the_files(tmp_path):
    study = make_study(tmp_path / "study", images=1, judged=False)
    classes = np.full((16, 16), BAD, np.uint8)
    kinds = np.full((16, 16), LOCAL, np.uint8)
    kinds[8:] = GLOBAL
    study.labels.append(LabelRecord("img0000", "anna", "", 0, classes, kinds))
    export_labels(study, study.labels.records(), "coco", tmp_path / "c.json")
    content = json.loads((tmp_path / "c.json").read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    assert [names[a["category_id"]] for a in content["annotations"]] == ["bad_hand_local", "bad_hand_global"]
    assert content["annotations"][0]["bbox"] == [0, 0, 64, 32]

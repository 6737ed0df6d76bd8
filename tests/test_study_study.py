"""A study finds every way in which its own folder can be wrong, and names it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from badhands.cells import Cell
from badhands.study.activations import write_image
from badhands.study.choice import Choice, ChosenImage, LabelChoice
from badhands.study.classes import BAD, NOT_HAND
from badhands.study.labels import LabelRecord
from badhands.study.manifest import ImageEntry, Manifest, pixel_sha256
from badhands.study.study import Study, study_folder


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 24, 3), dtype=np.uint8))


def label(image_id: str, grid=(4, 6)) -> LabelRecord:
    classes = np.full(grid, NOT_HAND, np.uint8)
    classes[0, 1] = BAD
    return LabelRecord(image_id, "judge", "", 0.0, classes)


@pytest.fixture
def study(tmp_path):
    study = Study.create(tmp_path / "study")
    study.write_fingerprint("f0", {"model": "none"})
    for i, name in enumerate(["a", "b"]):
        picture(i).save(study.image_path(name))
        study.manifest.append(
            ImageEntry(name, f"prompt {i}", i, "f0", pixel_sha256(picture(i)), 24, 16, (4, 6), {"style": "x"}, f"p{i}")
        )
        study.labels.append(label(name))
        meta = {"prompt": f"prompt {i}", "seed": i, "grid": [4, 6], "steps": {1: [0, 1.0]}}
        meta |= {"annotator": "judge", "label_digest": label(name).digest}
        tokens = np.array([0, 1], np.int32)
        classes, kinds = label(name).classes.ravel()[tokens], np.zeros(2, np.uint8)
        tensors = {Cell("single.0", 1): torch.full((2, 3), float(i))}
        write_image(study.activations_folder("f0"), name, tensors, tokens, classes, kinds, meta)
    return study


def test_a_sound_study_has_no_problems(study):
    assert study.check() == []
    assert study.image("a").tobytes() == picture(0).tobytes()
    assert [info.id for info in study.activations().images] == ["a", "b"]
    assert study.manifest.by_id["b"].axes == {"style": "x"} and study.manifest.by_id["b"].patch == 4
    assert study.fingerprint("f0") == {"model": "none"}


def test_a_changed_pixel_is_found_and_named(study):
    pixels = np.array(picture(0))
    pixels[3, 5, 1] ^= 1
    Image.fromarray(pixels).save(study.image_path("a"))
    (problem,) = study.check()
    assert problem.startswith("image a: the pixels of")
    with pytest.raises(ValueError, match="image a: the pixels of"):
        study.image("a")


def test_a_missing_or_torn_picture_is_named(study):
    path = study.image_path("a")
    path.write_bytes(path.read_bytes()[:200])
    study.image_path("b").unlink()
    first, second = study.check()
    assert "image a" in first and "cannot be read" in first
    assert "image b" in second and "is missing" in second
    assert len(study.check(pixels=False)) == 1


def test_a_truncated_activation_file_is_named(study):
    path = study.activation_path("f0", "b")
    path.write_bytes(path.read_bytes()[:-1])
    (problem,) = study.check()
    assert "b.safetensors is damaged" in problem


def test_a_label_of_a_missing_image_and_one_on_a_wrong_grid_are_named(study):
    study.labels.append(label("ghost"))
    study.labels.append(label("b", (6, 4)))
    first, second = study.check()
    assert "'ghost'" in first and "manifest lacks" in first
    assert "'b'" in second and "6 x 4" in second and "4 x 6" in second


def test_two_prompts_with_one_id_and_two_images_with_one_id_are_named(study):
    entry = study.manifest.by_id["a"]
    study.manifest.append(replace(entry, id="c", prompt="another", prompt_id="p0", seed=9))
    picture(0).save(study.image_path("c"))
    (problem,) = study.check()
    assert "two prompts have the id 'p0'" in problem
    lines = study.manifest.path.read_text().splitlines()
    study.manifest.path.write_text("\n".join([*lines[:2], lines[0]]) + "\n")
    (problem,) = study.check()
    assert "two lines have the id 'a'" in problem
    with pytest.raises(ValueError, match="two lines"):
        _ = study.manifest.by_id


def test_activations_of_an_unknown_image_or_another_fingerprint_are_named(study):
    folder = study.activations_folder("f0")
    (folder / "a.safetensors").rename(folder / "ghost.safetensors")
    (study.root / "activations" / "f1").mkdir()
    (folder / "b.safetensors").rename(study.root / "activations" / "f1" / "b.safetensors")
    study.fingerprint_path("f0").unlink()
    problems = study.check()
    assert sum("fingerprints/f0.json is missing" in p for p in problems) == 2
    assert any("ghost.safetensors: activations of an image that the manifest lacks" in p for p in problems)
    assert any("the image was made with fingerprint f0" in p for p in problems)


def test_an_image_id_is_never_given_twice(study):
    entry = study.manifest.by_id["a"]
    assert not study.manifest.append(entry)
    with pytest.raises(ValueError, match="another image 'a'"):
        study.manifest.append(replace(entry, seed=5))
    assert len(study.manifest.entries) == 2


def test_changed_labels_are_noticed(study):
    records = study.labels.latest()
    images = tuple(ChosenImage(name, "bad", who, record.digest, "") for (name, who), record in records.items())
    choice = Choice(LabelChoice("judge", "judge"), images)
    assert study.relabelled(choice) == []
    changed = label("b")
    changed.classes[3, 3] = BAD
    study.labels.append(changed)
    assert study.relabelled(choice) == ["b"]


def test_workers_whose_lines_came_in_any_order_end_with_one_file(tmp_path):
    def entry(name):
        return ImageEntry(name, "p", 0, "f", "s", 16, 16, (4, 4))

    one, two = Manifest(tmp_path / "one.jsonl"), Manifest(tmp_path / "two.jsonl")
    for name in "abcd":
        one.append(entry(name))
    for name in "dbac":
        two.append(entry(name))
    two.sort({name: i for i, name in enumerate("abcd")})
    assert one.path.read_bytes() == two.path.read_bytes()
    two.append(entry("e"))
    assert [e.id for e in two.entries] == list("abcde")


@pytest.mark.parametrize("name", ["../x", ".hidden", "", "a" * 65, "a b", "a/b", "é"])
def test_ids_that_could_leave_the_folder_are_refused(study, name):
    with pytest.raises(ValueError, match="cannot be an id"):
        study.image_path(name)


def test_several_fingerprints_must_be_chosen_from(study):
    with pytest.raises(ValueError, match="no study at"):
        Study(study.root / "nowhere")
    folder = study.root / "activations" / "f2"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(study.activation_path("f0", "a").read_bytes())
    with pytest.raises(ValueError, match="several, name one of f0, f2"):
        study.activations()
    assert len(study.activations("f2").images) == 1


def test_a_bare_name_is_a_study_under_outputs():
    assert study_folder("tiny_clean").parts[-2:] == ("studies", "tiny_clean")
    assert str(study_folder("./x/y")) == "x/y"


def test_rests_of_killed_writers_are_cleared(study):
    rest = study.activations_folder("f0") / ".z.safetensors.tmp"
    rest.write_bytes(b"x")
    Study.create(study.root)
    assert not rest.exists() and study.check() == []

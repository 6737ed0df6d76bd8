"""What a careless user does: each gives a result that is true, or one sentence that names the fix."""

from dataclasses import replace

import numpy as np
import pytest
import yaml
from hydra.errors import CompactHydraException
from hypothesis import given, settings
from hypothesis import strategies as st

from badhands.cells import grid
from badhands.probes.artifact import Probes
from badhands.report.report import data_text
from badhands.report.run import Run
from badhands.stats.design import Design, p_value
from badhands.stats.family import Family
from badhands.stats.headline import headline, plain_features
from badhands.study.activation_file import ImageFile, write_image
from badhands.study.choice import Choice, LabelChoice, read_choice
from badhands.study.labels import LabelRecord
from badhands.study.selection import Selection, select
from badhands.study.study import Study
from synthetic_study import FINGERPRINT, write_study
from test_train import here

CELLS = grid(["single.0", "single.1"], [20, 3])
PLANTED = CELLS[3]
SIZE = {"cells": CELLS, "images": 24, "prompts": 24, "d": 16, "shift": {PLANTED: 3.0}, "tokens": (5, 7), "not_hand": 4}
ALONE = ["logger=none", "data.images=null", "probe=mass_mean", "previews=false", "data.permutations=200"]


def train(tmp_path, monkeypatch, **size) -> Run:
    write_study(tmp_path / "studies" / "made", **{**SIZE, **size})
    return trained(tmp_path, monkeypatch)


def trained(tmp_path, monkeypatch) -> Run:
    here(tmp_path, monkeypatch, *ALONE)
    (folder,) = (tmp_path / "here").iterdir()
    return Run.open(folder)


def test_one_prompt_gives_a_result_that_speaks_of_this_prompt_alone(tmp_path, monkeypatch):
    """And its probes assume the model's own share of bad hands, not that of the balanced study."""
    root = tmp_path / "studies" / "made"
    write_study(root, **{**SIZE, "prompts": 1})
    choice = read_choice(root, LabelChoice("judge", "judge"))
    Choice(choice.rule, choice.images, labelled=60, bad=45).write(root)
    run = trained(tmp_path, monkeypatch)
    assert Probes.load(run.folder / "probes").bad_rate == 0.75
    assert "All images are of one prompt: what is found holds for this prompt" in " ".join(data_text(run))
    table = run.table("headline")
    found = table[table["metric"] == "auroc"].set_index(["block", "timestep"])["value"]
    assert found.idxmax() == (PLANTED.block, PLANTED.timestep) and found.max() > 0.8


@pytest.mark.parametrize(("prompts", "fix"), [(2, "add prompts$"), (4, r"add prompts, or set data\.folds=4$")])
def test_few_prompts_are_told_with_a_fix_that_works(prompts, fix):
    label, text = np.arange(24) % 2, np.arange(24) // 2 % prompts
    with pytest.raises(ValueError, match=f"from {prompts} prompts, and those of one share a fold: .*; {fix}"):
        Design.of(label, text)
    if prompts == 4:
        assert Design.of(label, text, n_folds=4).n_folds == 4


def test_twelve_images_without_a_difference_claim_nothing(tmp_path, monkeypatch):
    run = train(tmp_path, monkeypatch, images=12, prompts=12, shift=0.0)
    assert "No cell tells good from bad images" in run.folder.joinpath("findings.json").read_text()
    assert "undecided" in run.report.read_text()


def test_the_report_says_what_labels_are_matched_on_and_what_is_left(tmp_path, monkeypatch):
    run = train(tmp_path, monkeypatch)
    assert "They are not matched: some prompts may give more bad hands" in " ".join(data_text(run))
    table = run.table("images").assign(axes=[f'{{"size": "s{i % 2}", "view": "v{i % 3}"}}' for i in range(24)])
    table.to_csv(run.folder / "tables" / "images.csv", index=False)
    config = run.folder / "config.yaml"
    config.write_text(yaml.safe_dump({**run.config, "labels": {**run.config["labels"], "match": ["size"]}}))
    text = " ".join(data_text(Run.open(run.folder)))
    assert "matched on size: images that agree in all of these share a fold" in text and "Not matched: view." in text


def test_copies_under_new_ids_are_refused_and_named(tmp_path):
    write_study(tmp_path, **SIZE)
    study = Study(tmp_path)
    folder = study.activations_folder(FINGERPRINT)
    for name, pixels in (("syn-0000", "one"), ("syn-0001", "two"), ("syn-0002", "one")):
        file = ImageFile(folder / f"{name}.safetensors")
        classes, kinds = (file.table(table).numpy() for table in ("classes", "kinds"))
        cells = {cell: tensor for cell, tensor in file.read_all().items() if cell in CELLS}
        meta = {**file.meta, "image_sha256": pixels}
        write_image(folder, name, cells, file.tokens, classes, kinds, meta, replace=True)
    with pytest.raises(ValueError, match="1 images are copies of others to the pixel, such as syn-0002 of syn-0000"):
        select(study.activations(), Selection(("single.0", "single.1"), (20, 3)))


def test_a_number_of_tokens_that_tells_the_label_is_told(tmp_path, monkeypatch):
    """Nothing but the size of the hand differs: that is said to reach 1.0, and no block does."""
    run = train(tmp_path, monkeypatch, images=40, prompts=40, shift=0.0, tokens=(20, 24), bad_tokens=8)
    table = run.table("baselines")
    size = table[(table["control"] == "geometry") & (table["metric"] == "auroc")]
    assert size["value"].iloc[0] > 0.95
    page = run.report.read_text()
    assert "hand size and place alone reach 1.00" in page and "part of what is read out may be the size" in page


def test_labels_matched_on_nothing_are_still_people_s(tmp_path, monkeypatch):
    """`labels.match=none` once read as four axes n, o, n, e."""
    write_study(tmp_path / "studies" / "made", **SIZE)
    rule = LabelChoice.of({"source": "painted", "annotator": None, "balanced": True, "seed": 0, "match": "none"})
    assert rule == LabelChoice("painted", None)
    assert LabelChoice.of({**vars(rule), "match": "style"}).match == ("style",)
    with pytest.raises(CompactHydraException, match=r"no record of a choice by labels=painted labels\.match=\[\] "):
        here(tmp_path, monkeypatch, *ALONE, "labels=painted", "labels.match=none")
    study = Study(tmp_path / "studies" / "made")
    records = [record for (_, who), record in study.labels.latest().items() if who == "judge"]
    assert len(records) == 24 and not any(rule.counting([record]) for record in records)


def test_an_image_that_was_called_both_counts_once_by_its_newest_label(tmp_path):
    write_study(tmp_path, **SIZE)
    study, rule = Study(tmp_path), LabelChoice("judge", "judge")
    choice = read_choice(tmp_path, rule)
    assert len(set(choice.ids)) == len(choice.ids)
    first: LabelRecord = study.labels.latest()[choice.ids[0], "judge"]
    turned = replace(first, classes=np.where(first.classes == 1, 2, np.where(first.classes == 2, 1, first.classes)),
                     kinds=np.zeros_like(first.classes))  # fmt: skip
    study.labels.append(turned)
    assert study.relabelled(choice) == [choice.ids[0]], "and a run on the old label is refused"
    assert rule.counting([first, turned]) is turned


@pytest.mark.parametrize("kind", ["one class alone", "single images", "uneven"])
def test_strata_that_cannot_exchange_labels_find_nothing(kind):
    """What a stratum says of the label is the same in every permutation, so however well it is read, p is 1."""
    stratum = np.arange(40) if kind == "single images" else np.arange(40) // 4
    bad_in = {"uneven": [1, 3]}.get(kind, [0, 4])
    label = np.array([int(i % 4 >= bad_in[i // 4 % 2]) for i in range(40)])
    design = Design.of(label, range(40), stratum, permutations=100)
    x = np.random.default_rng(0).normal(size=(40, 3)) * 0.1
    x[:, 0] += np.array([label[stratum == s].mean() for s in stratum])
    found = headline(["x"], [plain_features(x)], design)
    family = Family()
    family.add("auroc", found.names, found.value, found.null)
    if kind == "uneven":
        assert found.null.mean() > 0.6 and family.p()["auroc"][0] > 0.04, "what the stratum tells is in the null too"
    else:
        assert family.p()["auroc"][0] == 1 and p_value(found.value, found.null)[0] == 1


@given(
    st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 40), st.sampled_from([None, 1, 3, 8]), st.integers(2, 6)
)
@settings(max_examples=120, deadline=None)
def test_any_design_is_refused_in_one_sentence_or_keeps_its_promises(seed, images, prompts, strata, n_folds):
    rng = np.random.default_rng(seed)
    label, text = rng.integers(-1, 2, images), rng.integers(0, prompts, images)
    stratum = None if strata is None else text % strata
    try:
        design = Design.of(label, text, stratum, n_folds=n_folds, draws=2, seed=seed, permutations=24)
    except ValueError as error:
        said = str(error)
        assert "\n" not in said and any(fix in said for fix in ("label", "add prompts", "data.folds=")), said
        return
    for fold in (design.base, *design.folds):
        for same in np.unique(text) if len(np.unique(text)) > 1 else ():
            assert len(set(fold[text == same])) == 1, "images of one text share a fold"
    assert all({0, 1} <= set(label[design.base == k]) for k in range(n_folds))
    good, keys = design.good, design.stratum[design.known]
    for drawn in design.labellings:
        assert all(drawn[keys == key].sum() == good[keys == key].sum() for key in np.unique(keys))
    assert np.array_equal(design.labellings[0], good)


def test_constant_scores_are_one_half_with_p_one():
    design = Design.of(np.arange(40) % 2, range(40), permutations=100)
    found = headline(["constant"], [plain_features(np.full((40, 5), 7.3))], design)
    family = Family()
    family.add("auroc", found.names, found.value, found.null)
    assert found.value[0] == 0.5 and family.p()["auroc"][0] == 1 and not family.open


def test_a_labelling_that_is_drawn_again_counts_as_reached_whatever_its_rounding():
    """Eight images have 70 labellings, so the true one comes back every 70 draws, in other digits."""
    rng = np.random.default_rng(0)
    null = rng.normal(size=(1000, 1))
    null[:14] = 5 - 1e-6
    assert p_value(np.array([5.0]), null)[0] == pytest.approx(15 / 1001)
    assert p_value(np.array([5.0]), np.delete(null, slice(14), 0))[0] == pytest.approx(1 / 987)

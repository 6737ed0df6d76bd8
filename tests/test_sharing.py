"""Probes and studies to the Hub and back, against a local stand-in that speaks as the Hub does. Nothing leaves."""

import json
import logging
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from badhands import Probes
from badhands.label.exchange.png_masks import read_masks
from badhands.probes.hub import write_folder
from badhands.publish.__main__ import publish
from badhands.publish.dataset import export_study, import_study
from badhands.study.privacy import private_things, pseudonyms, without_paths
from badhands.study.study import Study
from hub_standin import serving
from run_folder import BEST, write_run
from synthetic_study import write_study
from watch_probes import make_probes

TOKEN = "hf_" + "AbCdEfGh" * 4


@pytest.fixture
def hub(monkeypatch, tmp_path):
    for name in ("HF_HOME", "HF_HUB_CACHE", "HF_XET_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # its wire format is hf_xet's own
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    with serving(TOKEN) as standin:
        monkeypatch.setenv("HF_ENDPOINT", standin.url)
        yield standin


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    root = tmp_path_factory.mktemp("studies") / "made"
    write_study(root, images=6, prompts=3, d=8)
    made = Study(root)
    record = next(iter(made.labels.latest().values()))
    made.labels.append(
        replace(record, annotator="anna.example", time="2026-11-25T09:00:00Z", note="thumb?", seconds=4.5)
    )
    return made


# Probes --------------------------------------------------------------------------------------------------------------


def test_probes_come_back_from_the_hub_as_they_were_sent(hub, tmp_path):
    run = write_run(tmp_path / "run")
    probes = make_probes()
    address = probes.push_to_hub("me/hands", license="mit", base_model="owner/model", run=run.folder)
    assert address.endswith("/me/hands") and hub.visibility == {"models/me/hands": "private"}
    assert set(hub.repos["models/me/hands"]) == {"probes.safetensors", "card.json", "probe_card.json", "README.md"}
    back = Probes.from_hub("me/hands", width=128)
    assert back.cells == probes.cells and back.thresholds == probes.thresholds and back.steps == probes.steps
    for key, readout in probes.readouts.items():
        assert torch.equal(back.readouts[key].weight, readout.weight) and back.readouts[key].platt == readout.platt
    with pytest.raises(ValueError, match="this model has 64"):
        Probes.from_hub("me/hands", width=64)


def test_the_model_card_names_library_base_model_licence_auroc_controls_and_cautions(hub, tmp_path):
    run = write_run(tmp_path / "run")
    make_probes().push_to_hub("me/hands", license="mit", base_model="owner/model", run=run.folder)
    text = hub.repos["models/me/hands"]["README.md"].decode()
    head = yaml.safe_load(text.split("---")[1])
    assert (head["library_name"], head["base_model"], head["license"]) == ("badhands", "owner/model", "mit")
    metric = head["model-index"][0]["results"][0]["metrics"][0]
    assert metric["value"] == pytest.approx(0.9) and str(BEST) in metric["name"]
    assert "| single.1/t12 | 0.900 | 0.850 to 0.950 |" in text and "30 good and 30 bad" in text
    card = json.loads(hub.repos["models/me/hands"]["probe_card.json"])
    assert {"random_feature", "capacity_sweep", "shuffled_source", "x0"} <= set(card["controls"])
    assert card["controls"]["shuffled_source"]["p_of_best_cell"] == 0.01
    assert not card["controls"]["random_feature"]["run"]  # never said of what was not run
    assert card["bad_rate_of_study"] == 0.5 and len(card["what_not_to_conclude"]) >= 4


def test_without_a_run_the_card_claims_no_score(tmp_path):
    folder = write_folder(make_probes(), tmp_path, license="mit")
    text = (folder / "README.md").read_text()
    assert "no score is known" in text and "model-index" not in text
    assert "everything the run tests; not run" in text


def test_no_path_of_this_machine_and_no_token_leaves(hub, tmp_path, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    probes = make_probes()
    card = {**probes.card, "study": "/home/anna/studies/mine", "generation": {"weights": "/root/models/flux"}}
    replace(probes, card=card).push_to_hub("me/hands", license="mit")
    sent = b"".join(hub.repos["models/me/hands"].values())
    assert b"/home" not in sent and b"/root" not in sent and b"anna" not in sent and b"mine" in sent
    told = capsys.readouterr()
    files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert TOKEN not in caplog.text + told.out + told.err and TOKEN.encode() not in sent + files


def test_private_words_in_a_card_stop_the_push_before_anything_is_sent(hub):
    probes = replace(make_probes(), card={"model": "tiny", "notes": "ask anna@example.org"})
    with pytest.raises(ValueError, match=r"card.json.notes holds an e-mail address"):
        probes.push_to_hub("me/hands", license="mit")
    assert not hub.repos and not hub.requests


def test_a_wrong_login_or_name_is_one_sentence(hub, monkeypatch):
    with pytest.raises(ValueError, match=r"model me/none cannot be had from the Hub"):
        Probes.from_hub("me/none")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "Wrong" * 6)
    with pytest.raises(ValueError, match=r"does not let you write to me/hands \(401\): log in once"):
        make_probes().push_to_hub("me/hands", license="mit")


# Studies -------------------------------------------------------------------------------------------------------------


def same(one: Study, other: Study, names: bool) -> None:
    assert one.manifest.entries == other.manifest.entries
    for entry in one.manifest.entries:
        assert np.array_equal(one.image(entry.id), other.image(entry.id))
    records, again = list(one.labels.latest().values()), list(other.labels.latest().values())
    for record, read in zip(records, again, strict=True):
        kept = record if names else replace(record, annotator=read.annotator, note="", time="")
        assert kept.to_json() == read.to_json() and read.digest == record.digest


@pytest.mark.parametrize("names", [False, True])
def test_a_study_comes_back_with_the_same_pixels_prompts_and_labels(study, tmp_path, names):
    back = import_study(export_study(study, tmp_path / "out", license="mit", names=names), tmp_path / "again")
    same(study, back, names)
    assert back.check() == []
    assert {r.annotator for r in back.labels.latest().values()} == {"judge", "anna.example" if names else "annotator_1"}


def test_names_notes_and_times_stay_here_without_consent(study, tmp_path):
    folder = export_study(study, tmp_path / "out", license="mit")
    content = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"anna" not in content and b"thumb?" not in content and b"09:00" not in content
    named = export_study(study, tmp_path / "named", license="mit", names=True)
    told = b"".join(path.read_bytes() for path in named.rglob("*") if path.is_file())
    assert b"anna.example" in told and b"thumb?" in told


def test_parquet_masks_and_card_say_the_same(study, tmp_path):
    folder = export_study(study, tmp_path / "out", license="cc-by-4.0")
    labels = pd.read_parquet(folder / "data" / "labels.parquet")
    masks = read_masks(folder / "masks", {entry.id: entry for entry in study.manifest.entries}, "judge")
    by_id = {(record.image_id, record.annotator): record for record in masks}
    for row in labels.to_dict("records"):
        assert np.array_equal(by_id[row["image_id"], row["annotator"]].classes.ravel(), row["classes"])
    head = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert head["license"] == "cc-by-4.0" and [c["config_name"] for c in head["configs"]] == ["images", "labels"]
    assert "6 images of 3 prompts, 7 labels" in (folder / "README.md").read_text()


def test_the_command_sends_a_study_and_brings_it_back(hub, study, tmp_path):
    told = publish(study=str(study.root), probes=None, out=None, repo="me/study", license="mit")
    assert told.startswith("sent to ") and "datasets/me/study" in hub.repos
    told = publish(study=str(tmp_path / "again"), probes=None, out=None, repo="me/study", license=None, back=True)
    assert "6 images, 7 labels" in told
    same(study, Study(tmp_path / "again"), names=False)


def test_a_private_prompt_stops_the_export_before_a_file_is_written(study, tmp_path):
    root = tmp_path / "study"
    import_study(export_study(study, tmp_path / "out", license="mit"), root)
    path = root / "manifest.jsonl"
    path.write_text(path.read_text().replace('"prompt":"', '"prompt":"write to me@example.org, ', 1))
    with pytest.raises(ValueError, match=r"the prompt of image [\w-]+ holds an e-mail address"):
        export_study(Study(root), tmp_path / "never", license="mit")
    assert not (tmp_path / "never").exists()


def test_a_changed_picture_is_noticed_on_the_way_back(study, tmp_path):
    folder = export_study(study, tmp_path / "out", license="mit")
    rows = pd.read_parquet(folder / "data" / "images.parquet")
    other = tmp_path / "other.png"
    Image.new("RGB", (64, 64), "red").save(other)
    rows["image"] = [{"bytes": other.read_bytes(), "path": "x.png"} for _ in range(len(rows))]
    rows.to_parquet(folder / "data" / "images.parquet")
    with pytest.raises(ValueError, match="are not those of its row"):
        import_study(folder, tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"study": None, "out": "x"}, "one of them"),
        ({"study": "a", "out": None}, "give out=FOLDER"),
        ({"study": "a", "out": "x", "license": None}, "give license="),
        ({"study": None, "probes": "p", "out": "x", "back": True}, "name it with study="),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        publish(**{"probes": None, "repo": None, "license": "mit", **options})


@pytest.mark.parametrize(
    ("text", "things"),
    [
        ("a hand, photo by j.doe@mail.example", ["an e-mail address"]),
        ("/home/anna/flux", ["a path of this machine"]),
        (r"weights in C:\models\flux", ["a path of this machine"]),
        ("token hf_abcdefghijklmnop12", ["an access token"]),
        ("https://me:secret@example.org/x", ["an address with a password"]),
        ("call +49 170 1234567", ["a telephone number"]),
        ("two hands and/or a 50/50 bet, black-forest-labs/FLUX.1-dev@0123456789abcdef", []),
    ],
)
def test_private_things_are_named_and_others_left_alone(text, things):
    assert [t for t in private_things(text) if t in things] == things and bool(private_things(text)) == bool(things)


def test_pseudonyms_follow_the_order_and_machines_keep_their_name():
    assert pseudonyms(["zoe", "judge", "adam", "zoe"], ("judge",)) == {
        "zoe": "annotator_1", "judge": "judge", "adam": "annotator_2"
    }  # fmt: skip
    assert without_paths({"a": ["/x/y/z", 3], "b": "owner/name"}) == {"a": ["z", 3], "b": "owner/name"}

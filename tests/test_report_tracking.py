"""What a tracker promises, read back from the files it wrote. No network, no account."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import wandb

from badhands.report import headline
from badhands.report.local_trackers import TensorBoardTracker
from badhands.report.run import Run
from badhands.report.session import Session
from badhands.report.tracking import CsvTracker, NoTracker, Tracker, WandbTracker
from run_folder import BEST, auroc_of, write_run
from wandb_log import offline_runs


@pytest.fixture(autouse=True)
def no_account(tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(home / name))
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for name in ("WANDB_MODE", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


def track(folder: Path, tracker: Tracker, **fields: str) -> Run:
    run = write_run(folder, tracker=tracker, **fields)
    run.report.write_text("<p>report</p>")
    tracker.finish(run)
    return run


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wandb") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
            patch.setenv(name, str(folder.parent / name))
        for name in ("WANDB_MODE", "WANDB_DATA_DIR"):
            patch.delenv(name, raising=False)
        track(folder, WandbTracker(notes="why"), group="a_sweep")
    (run,) = offline_runs(folder)
    return run


def test_a_run_is_named_grouped_and_tagged_and_carries_its_configuration(offline):
    assert offline.name == "tiny_clean post logistic" and offline.group == "a_sweep" and offline.job_type == "train"
    assert offline.tags == ("tiny_clean", "logistic")
    assert offline.config["model"] == {"name": "tiny_clean"} and offline.config["choices"]["probe"] == "logistic"
    assert {"commit", "overrides", "data", "question"} <= set(offline.config)
    assert offline.exit_code == 0


def test_curves_are_native_lines_over_the_step(offline):
    assert offline.metrics["curve/*"] == "step"
    rows = [row for row in offline.history if "curve/auroc/single.1" in row]
    assert [row["step"] for row in rows] == [0, 8, 17] and [row["timestep"] for row in rows] == [20, 12, 3]
    assert rows[1]["curve/auroc/single.1"] == pytest.approx(auroc_of(BEST)) and rows[1]["sigma"] == pytest.approx(0.6)
    for curve in ("d_b", "d_b_corrected"):
        assert (
            sum(f"curve/{curve}/{block}" in row for row in offline.history for block in ("double.0", "single.0")) == 6
        )
    assert {"curves/auroc_table", "curves/d_b_table"} <= offline.keys()


def test_figures_strips_tables_report_and_probes_are_there(offline):
    promised = {"data/sheet_good", "data/sheet_bad", "measures/pca", "watch/strips", "cells", "report"}
    assert promised <= offline.keys()
    assert len([f for f in offline.files if f.suffix == ".png"]) == 4
    assert {("probes", "probes"), ("tables", "tables")} <= {
        (kind, name.split("-")[0]) for kind, name in offline.artifacts
    }


def test_the_summary_holds_the_numbers_for_comparison(offline):
    seen = offline.summary
    assert seen["best_cell"] == str(BEST) and seen["best_auroc"] == pytest.approx(0.9) and seen["best_p"] == 0.01
    assert seen["d_b_peak_cell"] == str(BEST) and seen["d_b_peak"] == pytest.approx(1.4)
    assert seen["direction_loss"] == pytest.approx(0.03) and seen["cells_found"] == 1
    assert {"auroc/double.0", "auroc/single.1", "mean_auroc", "images", "early_auroc", "seconds/probes"} <= set(seen)


def test_each_run_of_a_process_is_its_own_even_after_a_failure(tmp_path):
    """The second run must not continue the first one's, and the failed one ends as failed with what it had."""
    first, second = (write_run(tmp_path / name, probe=name) for name in ("lda", "svm"))
    with pytest.raises(RuntimeError, match="boom"), Session(first, WandbTracker()) as session, session.stage("probes"):
        raise RuntimeError("boom")
    with Session(second, WandbTracker()) as session, session.stage("probes"):
        pass
    (failed,), (well,) = offline_runs(first.folder), offline_runs(second.folder)
    assert failed.exit_code == 1 and well.exit_code == 0
    assert failed.summary["best_cell"] == str(BEST) and {"cells"} <= failed.keys()
    assert "boom" in (first.folder / "report.html").read_text() and not Run.open(first.folder).finished
    assert "boom" in (first.folder / "error.txt").read_text()
    assert Run.open(second.folder).finished


def test_online_without_a_login_is_refused_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(wandb, "login", lambda **_: False)
    run = write_run(tmp_path / "run")
    with pytest.raises(ValueError, match="wandb login"), Session(run, WandbTracker(mode="online")):
        raise AssertionError("nothing may be computed")
    with pytest.raises(ValueError, match="offline or online"):
        WandbTracker(mode="on").begin(run)


def test_no_key_reaches_the_log(tmp_path, monkeypatch):
    key = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setenv("WANDB_API_KEY", key)
    track(tmp_path / "run", WandbTracker())
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or key.encode() not in path.read_bytes(), path


def test_everything_that_wandb_sync_would_send_lies_in_the_run_folder_and_no_table_holds_a_picture(offline):
    """`wandb sync` sends the files that the log names, from where it names them: all must be there, and stay there."""
    media = {name for row in offline.history for name in _named_files(row)}
    assert {Path(name).parts[1] for name in media} == {"images", "table", "html"} and len(media) >= 8
    assert media <= set(offline.promised)
    sent = [offline.folder / "files" / name for name in offline.promised] + list(offline.staged)
    assert len(offline.staged) >= 2 + 6 + 4  # probes, tables as CSV, tables of the page
    for path in sent:
        assert path.is_file() and offline.folder.parents[1] in path.parents, path
    for path in sent:
        assert path.suffix != ".json" or "image-file" not in path.read_text()


def _named_files(row: dict) -> set[str]:
    """Media files that one history row names: an entry is one dict, or one key a field."""
    fields = {f"{key}.{name}": v for key, value in row.items() if isinstance(value, dict) for name, v in value.items()}
    named = {**row, **fields}
    return {
        name
        for key, value in named.items()
        if key.rsplit(".", 1)[-1] in ("path", "filenames")
        for name in (value if isinstance(value, list) else [value])
    }


def test_the_run_after_a_wandb_run_stages_its_tables_in_its_own_folder(tmp_path):
    for name in ("one", "two"):
        track(tmp_path / name, WandbTracker())
        (run,) = offline_runs(tmp_path / name)
        assert run.staged and all(tmp_path / name in path.parents and path.is_file() for path in run.staged)
    assert "WANDB_DATA_DIR" not in os.environ


READ_TRACKIO = """
import json, sys
from pathlib import Path
from trackio.sqlite_storage import SQLiteStorage as store
from badhands.report import headline
from badhands.report.local_trackers import TrackioTracker
from test_report_tracking import track
track(Path(sys.argv[1]), TrackioTracker(), group="a_sweep")
(name,) = store.get_runs("badhands")
artifacts = store.get_artifacts("badhands")
print(json.dumps([name, store.get_run_config("badhands", name), store.get_logs("badhands", name), artifacts]))
"""


def test_trackio_holds_the_same_content_as_wandb_without_an_account(tmp_path, offline):
    """In a process of its own: trackio decides where its files lie when it is imported."""
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", READ_TRACKIO, str(tmp_path / "a_run")], env=environment,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    name, config, logs, artifacts = json.loads(done.stdout.splitlines()[-1])
    assert name == f"{offline.name} a_run" and config["_Group"] == offline.group
    for key, value in offline.config.items():
        assert key.startswith(("_wandb", "commit")) or config[key] == value, key
    assert tuple(config["tags"]) == offline.tags

    axes = ("timestep", "sigma")
    curves = {(row["step"], k): v for row in logs for k, v in row.items() if k.startswith("curve/") or k in axes}
    at_wandb = {(row["step"], k): v for row in offline.history for k, v in row.items()
                if k.startswith("curve/") or k in axes}  # fmt: skip
    assert curves == at_wandb and len(curves) == 3 * (9 + 2)
    ended = next(row for row in logs if "failed" in row)
    assert ended["failed"] == ""
    for key, value in headline.summary(Run.open(tmp_path / "a_run")).items():
        assert ended[f"summary/{key}"] == value, key
        assert key.startswith("seconds/") or offline.summary[key] == value, key

    named = {key: value["file_path"] for row in logs for key, value in row.items() if "file_path" in str(value)}
    media = {key: tmp_path / "trackio" / "media" / name for key, name in named.items()}
    sheets = {"data/sheet_good", "data/sheet_bad"}
    assert set(media) == {*sheets, "measures/pca", "watch/strips/00_seed7_bad", "report"}
    pictures = {path.read_bytes() for key, path in media.items() if key != "report"}
    assert pictures == {path.read_bytes() for path in offline.files if path.suffix == ".png"}
    assert media["report"].read_text() == "<p>report</p>"
    cells = next(row["cells"]["_value"] for row in logs if "cells" in row)
    assert len(cells) == 9 and str(BEST) in {row["cell"] for row in cells}
    assert {one["type"] for one in artifacts} == {"probes", "tables"}


def test_tensorboard_holds_curves_pictures_configuration_and_summary(tmp_path, offline):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = track(tmp_path / "run", TensorBoardTracker())
    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    held = {(e.step, key): e.value for key in events.Tags()["scalars"] for e in events.Scalars(key)}
    at_wandb = {(row["step"], k): v for row in offline.history for k, v in row.items() if k.startswith("curve/")}
    assert {k: v for k, v in held.items() if k[1].startswith("curve/")} == pytest.approx(at_wandb)
    assert held[17, "timestep"] == 3
    strip = "watch/strips/00_seed7_bad"
    assert set(events.Tags()["images"]) == {"data/sheet_good", "data/sheet_bad", "measures/pca", strip}
    assert events.Images(strip)[0].width == 60 and events.Images(strip)[0].height == 20
    (config,), (summary,) = (events.Tensors(f"{key}/text_summary") for key in ("config", "summary"))
    assert b"Does it know?" in config.tensor_proto.string_val[0]
    assert f"best_cell: {BEST}".encode() in summary.tensor_proto.string_val[0]


def test_csv_holds_the_curves_and_the_summary(tmp_path):
    run = track(tmp_path / "run", CsvTracker())
    curves = pd.read_csv(run.folder / "metrics.csv")
    assert list(curves) == ["key", "step", "timestep", "sigma", "value"] and len(curves) == 27
    one = curves[(curves["key"] == f"auroc/{BEST.block}") & (curves["timestep"] == BEST.timestep)]
    assert one["value"].item() == pytest.approx(auroc_of(BEST))
    assert json.loads((run.folder / "summary.json").read_text())["best_cell"] == str(BEST)


def test_none_writes_nothing(tmp_path):
    before = {path.name for path in write_run(tmp_path / "other").folder.rglob("*")}
    run = track(tmp_path / "run", NoTracker())
    assert {path.name for path in run.folder.rglob("*")} - before == {"report.html"}

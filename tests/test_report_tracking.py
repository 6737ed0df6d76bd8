"""What a tracker promises, read back from the files it wrote. No network, no account."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import wandb

from badhands.report.session import Session
from badhands.report.tracking import CsvTracker, NoTracker, Tracker, WandbTracker
from badhands.run import Run
from run_folder import BEST, auroc_of, write_run
from wandb_log import offline_runs


@pytest.fixture(autouse=True)
def no_account(tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(home / name))
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)


def track(folder: Path, tracker: Tracker, **fields: str) -> Run:
    run = write_run(folder, tracker=tracker, **fields)
    run.report.write_text("<p>report</p>")
    tracker.finish(run)
    return run


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wandb") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
            patch.setenv(name, str(folder.parent / name))
        patch.delenv("WANDB_MODE", raising=False)
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


def test_wandb_keeps_every_picture_as_a_file_of_its_own_and_none_in_a_table(offline):
    """Pictures inside tables are lost on `wandb sync`; media of the history must lie beside the log to be sent."""
    files = {path.relative_to(path.parents[len(path.parts) - path.parts.index("files") - 2]): path
             for path in offline.files}  # fmt: skip
    promised, seen = set(), 0
    for row in offline.history:
        nested: dict[str, dict] = {}
        for key, value in row.items():
            if isinstance(value, dict):
                nested[key] = value
            elif "." in key:
                nested.setdefault(key.rsplit(".", 1)[0], {})[key.rsplit(".", 1)[1]] = value
        for entry in nested.values():
            promised |= {name for name in [entry.get("path"), *(entry.get("filenames") or [])] if name}
            seen += entry.get("_type") == "table-file"
    assert seen >= 1 and len(promised) >= 6
    for name in promised:
        assert any(str(path).endswith(name.removeprefix("media/")) for path in files.values()), name
    for path in offline.files:
        if path.suffix == ".json" and "table" in path.parts:
            assert "image-file" not in path.read_text()


READ_TRACKIO = """
import json, sys
from pathlib import Path
from trackio.sqlite_storage import SQLiteStorage as store
from test_report_tracking import track
track(Path(sys.argv[1]), TrackioTracker())
(name,) = store.get_runs("badhands")
kinds = [a["type"] for a in store.get_artifacts("badhands")]
print(json.dumps([name, store.get_run_config("badhands", name), store.get_logs("badhands", name), kinds]))
"""


def test_trackio_holds_the_same_content_without_an_account(tmp_path):
    """In a process of its own: trackio decides where its files lie when it is imported."""
    pytest.importorskip("trackio")
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", READ_TRACKIO, str(tmp_path / "run")], env=environment,
                          capture_output=True, text=True, check=True)  # fmt: skip
    name, config, logs, kinds = json.loads(done.stdout.splitlines()[-1])
    assert name == "tiny_clean post logistic run"
    assert config["model"] == {"name": "tiny_clean"} and config["choices"]["probe"] == "logistic"
    rows = [row for row in logs if "curve/auroc/single.1" in row]
    assert [row["step"] for row in rows] == [0, 8, 17] and [row["timestep"] for row in rows] == [20, 12, 3]
    assert rows[1]["curve/auroc/single.1"] == pytest.approx(auroc_of(BEST))
    media = [value for row in logs for value in row.values() if isinstance(value, dict) and "file_path" in value]
    assert len(media) == 5 and all((tmp_path / "trackio" / "media" / one["file_path"]).is_file() for one in media)
    keys = {key for row in logs for key in row}
    assert {"data/sheet_good", "measures/pca", "watch/strips/00_seed7_bad", "cells", "report"} <= keys
    ended = next(row for row in logs if "summary/best_cell" in row)
    assert ended["summary/best_cell"] == str(BEST) and ended["failed"] == ""
    assert set(kinds) == {"probes", "tables"}


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

"""train.py as it is called: one sweep of three jobs on a synthetic study, the middle one of which must fail."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from omegaconf import open_dict

from badhands.cells import grid
from badhands.home import ROOT
from badhands.probes.artifact import Probes
from badhands.replicate.power import PowerCurve
from badhands.report.compare import compare_folders as compare
from badhands.report.run import Run, runs_under
from badhands.report.sweep import CompareRuns
from badhands.study.selection import Selection, choose_images, image_table, select
from badhands.study.study import Study
from entry_points import load
from synthetic_study import write_study
from wandb_log import offline_runs

CELLS = grid(["single.0", "single.1", "x0"], [20, 3])
TRIAL = [
    "debug=smoke",
    "capture.blocks=[single.0,single.1]",
    "capture.timesteps=[20,3]",
    "labels.match=[]",
    "strips=0",
    "analysis.contrasts=[good_vs_bad]",
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("outputs")
    write_study(folder / "studies" / "made", images=30, prompts=15, cells=CELLS, d=16, shift=2.0, tokens=(8, 14))
    return folder


def call(outputs: Path, *overrides: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "BADHANDS_OUTPUTS": str(outputs), "OMP_NUM_THREADS": "1", "HOME": str(outputs)}
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        environment[name] = str(outputs / "cache")
    command = [sys.executable, str(ROOT / "train.py"), *overrides, "study=made"]
    return subprocess.run(command, env=environment, cwd=outputs, capture_output=True, text=True, check=False)


@dataclass
class Sweep:
    folder: Path
    done: subprocess.CompletedProcess

    @property
    def runs(self) -> list[Run]:
        return runs_under(self.folder)


@pytest.fixture(scope="module")
def sweep(outputs) -> Sweep:
    """Jobs 0 and 2 run; job 1 asks for more images than there are."""
    done = call(outputs, "-m", "data.images=24,900,20", "probe=mass_mean", *TRIAL)
    (folder,) = (outputs / "runs").glob("*/*_sweep")
    return Sweep(folder, done)


def test_a_failed_job_takes_no_other_with_it_and_is_told_in_one_sentence(sweep):
    assert sweep.done.returncode == 1
    assert "error: data.images=900 needs 450 good and 450 bad images; there are 15 and 15" in sweep.done.stderr
    assert "Traceback" not in sweep.done.stderr
    assert [run.finished for run in sweep.runs] == [True, False, True]
    assert sweep.runs[1].failed.name == "data" and sweep.runs[1].report.is_file()


def test_every_job_is_one_wandb_run_of_one_group(sweep):
    found = [offline_runs(run.folder) for run in sweep.runs]
    assert [len(runs) for runs in found] == [1, 1, 1]
    assert {runs[0].group for runs in found} == {sweep.folder.name}
    assert [runs[0].exit_code for runs in found] == [0, 1, 0]
    assert len({runs[0].name for runs in found}) == 3 and all("mass_mean" in runs[0].tags for runs in found)
    assert {"best_cell", "best_p"} <= set(found[0][0].summary)
    assert {"measures/db_curves", "measures/pca", "data/sheet_bad", "cells", "report"} <= found[0][0].keys()


def test_a_run_prints_its_headline_and_leaves_everything_in_its_folder(sweep):
    run = sweep.runs[0]
    assert "mean over cells" in sweep.done.stdout and str(run.report) in sweep.done.stdout
    assert {"images", "cells", "scores", "global_direction"} <= set(run.tables())
    assert {"sheet_good", "sheet_bad", "db_curves", "pca"} <= set(run.figures())
    assert [stage.name for stage in run.stages][:4] == ["logger", "data", "measures", "probes"]
    assert (run.folder / ".hydra" / "overrides.yaml").is_file() and run.commit
    probes = Probes.load(run.folder / "probes", fingerprint="0123456789ab", width=16)
    assert probes.card["study"] == "made" and probes.card["generation"] == {"model": "synthetic"}


def test_the_sweep_ends_with_a_comparison(sweep):
    page = (sweep.folder / "compare.html").read_text()
    table = pd.read_csv(sweep.folder / "compare.csv")
    assert list(table["data.images"]) == [24, 900, 20] and table["stopped"].notna().tolist() == [False, True, False]
    pairs = pd.read_csv(sweep.folder / "compare_pairs.csv")
    assert len(pairs) == 3 and pairs["value"].notna().sum() == 1
    told = pairs[pairs["value"].notna()].iloc[0]
    assert told["images"] == 20 and told["cells"] == 4 and told["lo"] <= told["value"] <= told["hi"]
    assert "data:image/png" in page and "stopped in its stage" in page and "900" in page


def test_detection_against_the_number_of_images_is_a_figure_of_the_comparison(sweep, outputs, monkeypatch):
    monkeypatch.setattr("badhands.study.study.OUTPUTS", outputs)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", ["study=made", *TRIAL])
    with open_dict(cfg):
        cfg.hydra = {"mode": "MULTIRUN", "sweep": {"dir": str(sweep.folder)}}
    for callback in (PowerCurve(subsamples=2), CompareRuns()):
        callback.on_multirun_end(cfg)
    curve = pd.read_csv(sweep.folder / "power.csv")
    assert list(curve["images"]) == [20, 24] and (curve["subsamples"] == 2).all()
    assert (curve["detected"] == 1).all() and (curve["lo"] < 0.5).all(), "the planted difference is large; two are few"
    page = (sweep.folder / "compare.html").read_text()
    assert "Share of 2 subsamples of the study" in page and "Power" in page


def test_any_runs_can_be_compared_by_hand(sweep, tmp_path):
    first, _, third = sweep.runs
    page = compare([first.folder, third.folder], tmp_path)
    assert page.is_file() and len(pd.read_csv(tmp_path / "compare.csv")) == 2
    with pytest.raises(ValueError, match="two or more"):
        compare([first.folder], tmp_path)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("capture.timesteps=[20,12]", r"python extract\.py model=tiny_hands labels=judge capture=post study=made"),
        ("study=nowhere", "python extract.py"),
        ("logger.mode=online", "wandb login"),
        ("data.kinds=both", "all, local, global"),
        ("data.images=4", "at least 4 good"),
        ("probe.kind=forest", "unknown probe 'forest'"),
    ],
)
def test_bad_input_is_one_sentence(outputs, override, sentence, monkeypatch):
    """What Hydra makes of it on the terminal is tested above; here it is what the sentence says."""
    logger = [] if "logger" in override else ["logger=none"]
    with pytest.raises(CompactHydraException, match=sentence):
        here(outputs, monkeypatch, *logger, override)


def test_what_was_computed_before_a_failure_is_kept(outputs, monkeypatch):
    """Probes that cannot be fitted leave the measures, their report and their CSV."""

    def broken(*_, **__):
        raise ValueError("broken probes")

    monkeypatch.setattr("badhands.probes.stage.fit_probes", broken)
    with pytest.raises(CompactHydraException, match="broken probes"):
        here(outputs, monkeypatch, "logger=csv", "probe.kind=mass_mean")
    run = Run.open(outputs / "here" / "logger=csv probe.kind=mass_mean")
    assert not run.finished and run.failed.name == "probes" and len(run.table("cells"))
    assert "stopped in its stage" in run.report.read_text()
    assert set(pd.read_csv(run.folder / "metrics.csv")["key"].str.split("/").str[0]) == {
        "auroc",
        "d_b",
        "d_b_corrected",
    }
    assert "mean_auroc" in json.loads((run.folder / "summary.json").read_text())


def here(outputs: Path, monkeypatch, *overrides: str) -> None:
    """One job in this process, in the run folder outputs/here/<overrides>; a process of its own costs ten seconds."""
    monkeypatch.setenv("BADHANDS_OUTPUTS", str(outputs))
    monkeypatch.setattr("badhands.study.study.OUTPUTS", outputs)
    monkeypatch.setattr("wandb.login", lambda **_: False)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", ["study=made", *TRIAL, *overrides], return_hydra_config=True)
    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = str(outputs / "here" / " ".join(overrides))
        HydraConfig.instance().set_config(cfg)
        del cfg["hydra"]
    load("train").main.__wrapped__(cfg)


def test_a_smaller_choice_of_images_is_part_of_a_larger_one(outputs):
    cache = Study(outputs / "studies" / "made").activations()
    few, more = (set(choose_images(cache, Selection(("single.0",), (20,), images=n))) for n in (12, 24))
    assert few < more and len(few) == 12
    table = image_table(cache).iloc[sorted(few)]
    assert (table["class"] == "bad").sum() == 6


def test_kinds_of_error_choose_among_the_bad_images_alone(outputs):
    cache = Study(outputs / "studies" / "made").activations()
    table = image_table(cache)
    local = table.iloc[choose_images(cache, Selection(("single.0",), (20,), kinds="local"))]
    assert set(local.loc[local["class"] == "bad", "kind"]) == {"local"}
    assert (local["class"] == "good").sum() == (table["class"] == "good").sum()


def test_a_run_reads_the_cells_it_asked_for_and_the_latents_beside_them(outputs):
    cache = select(Study(outputs / "studies" / "made").activations(), Selection(("single.1",), (3,)))
    assert [str(cell) for cell in cache.cells] == ["x0/t3", "single.1/t3"]

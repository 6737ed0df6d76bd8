"""`python -m badhands.report` and `.report.compare` on run folders named by multiruns, with commas and equal signs."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from badhands.home import paths_as
from run_folder import write_run

NAMES = ("0_data.images=24,experiment=label_noise", '1_it\'s [odd], "quoted" = $x')


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    sweep = tmp_path_factory.mktemp("sweep")
    return [write_run(sweep / name, probe=probe).folder for name, probe in zip(NAMES, ("lda", "svm"), strict=True)]


def call(module: str, *words: object, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", module, *map(str, words)], cwd=folder, capture_output=True, text=True)


def test_leading_paths_reach_hydra_unchanged_and_options_stay(runs):
    words = [*map(str, runs), "out=here", "--cfg", "job"]
    first, *rest = paths_as("runs", many=True, words=words)
    (override,) = OverridesParser.create().parse_overrides([first])
    assert override.value() == [str(run) for run in runs] and rest == ["out=here", "--cfg", "job"]
    (one, *_) = paths_as("run", words=[str(runs[1]), "figures=true"])
    assert OverridesParser.create().parse_overrides([one])[0].value() == str(runs[1])
    assert paths_as("run", words=["--help"]) == ["--help"] and paths_as("run", words=["run=x"]) == ["run=x"]


def test_compare_takes_runs_or_the_folder_that_holds_them_and_leaves_nothing_else_behind(runs, tmp_path):
    for at, words in (("both", runs), ("folder", [runs[0].parent])):
        (tmp_path / at).mkdir()
        done = call("badhands.report.compare", *words, folder=tmp_path / at)
        assert done.returncode == 0, done.stderr
        names = {path.name for path in (tmp_path / at).iterdir()}
        assert names == {"compare.html", "compare.csv", "compare_pairs.csv"}
        assert list(pd.read_csv(tmp_path / at / "compare.csv")["run"]) == list(NAMES)


def test_a_report_is_written_again_and_errors_are_one_sentence(runs, tmp_path):
    (runs[1] / "report.html").unlink(missing_ok=True)
    done = call("badhands.report", runs[1], folder=tmp_path)
    assert done.returncode == 0 and (runs[1] / "report.html").is_file(), done.stderr
    for words, said in (((), "say which run"), ((tmp_path,), "holds no run"), (("nowhere",), "holds no run"),
                        ((runs[0], "figures=true"), "no tables/agreement.csv")):  # fmt: skip
        done = call("badhands.report", *words, folder=tmp_path)
        assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []

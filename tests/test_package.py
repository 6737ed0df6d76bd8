"""badhands as its users install it: a wheel in a new venv, and an empty folder."""

import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import badhands
from badhands import __main__ as cli
from badhands.home import ROOT

MEGABYTES = 60


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A new venv with the wheel; its dependencies are those of this one, so that nothing is fetched."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text("\n".join(p for p in sys.path if p.endswith("site-packages")))
    python = str(folder / "bin" / "python")
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    return folder / "bin"


def call(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "BADHANDS_OUTPUTS")}
    environment |= {"OMP_NUM_THREADS": "1", "HOME": str(folder), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [str(installed / "badhands"), *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_wheel_holds_everything_a_study_needs_and_is_small(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = {str(path.relative_to(ROOT)) for path in (ROOT / "conf").rglob("*.yaml")}
    assert {f"badhands/{name}" for name in ours | {"extract.py", "train.py"}} <= names
    shipped = (ROOT / "src" / "badhands").rglob("*.safetensors")
    assert {str(path.relative_to(ROOT / "src")) for path in shipped} <= names
    assert not any("test" in name.split("/")[0] or "__pycache__" in name for name in names)
    assert wheel.stat().st_size < MEGABYTES * 1e6


def test_a_study_begins_in_an_empty_folder(installed, tmp_path):
    done = call(installed, tmp_path, "extract", "labels=painted", "images=2", "model.batch_size=2", "workers=1")
    assert done.returncode == 0, done.stderr
    assert "badhands.label" in done.stdout  # images are there; labels are the next step
    (study,) = (tmp_path / "outputs" / "studies").iterdir()
    assert len(list((study / "images").glob("*.png"))) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]


def test_training_finds_its_configuration_and_answers_in_one_sentence(installed, tmp_path):
    done = call(installed, tmp_path, "train", "study=none_here", "logger=none")
    assert done.returncode == 1 and "there is no study at" in done.stderr and "Traceback" not in done.stderr
    (run,) = (tmp_path / "outputs" / "runs").glob("*/*")
    assert f'"commit": "v{badhands.__version__}"' in (run / "run.json").read_text()


def test_every_command_answers_to_help(capsys):
    cli.main([])
    told = capsys.readouterr().out
    assert all(name in told for name in ("extract", "train", "label", "watch", "compare", "rehearse"))
    for name in cli.FILES:
        assert (ROOT / f"{name}.py").is_file()
    with pytest.raises(SystemExit) as stopped:
        cli.main(["trian"])
    assert stopped.value.code == 2 and "no command 'trian'" in capsys.readouterr().err


def test_the_package_itself_is_the_command():
    done = subprocess.run([sys.executable, "-m", "badhands", "report"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "say which run" in done.stderr


def test_a_module_command_is_the_module_itself(monkeypatch):
    called = []
    monkeypatch.setattr("runpy.run_module", lambda name, **_: called.append((name, sys.argv[1:])))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    cli.main(["compare", "one", "two"])
    assert called == [("badhands.report.compare", ["one", "two"])]


def test_versions_agree_and_dependencies_have_upper_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == badhands.__version__
    extras = [item for of in project["optional-dependencies"].values() for item in of]
    unbounded = [item for item in project["dependencies"] + extras if "<" not in item and "badhands[" not in item]
    assert not unbounded

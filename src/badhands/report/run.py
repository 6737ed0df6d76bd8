"""A run folder: what one `train.py` wrote, while it runs and afterwards."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from badhands.home import INSTALLED, ROOT, __version__


@dataclass
class Stage:
    """One line of a run's history."""

    name: str
    seconds: float = 0.0
    error: str | None = None
    """The sentence of the exception that ended the stage."""


@dataclass
class Run:
    """One run folder.

        tables/*.csv  figures/*.png  moments.npz  probes/  strips/  report.html
        run.json      commit, command, stages with their seconds and errors
        config.yaml   the whole configuration, resolved

    Everything that shows or compares runs (report, trackers, comparison) reads these files and nothing else, so a run
    that failed half-way is shown as far as it came.
    """

    folder: Path
    name: str = ""
    group: str | None = None
    """The multirun that this run belongs to."""
    tags: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    choices: dict[str, str] = field(default_factory=dict)
    """The option chosen in each configuration group: {"probe": "logistic", ...}."""
    commit: str = ""
    started: str = ""
    stages: list[Stage] = field(default_factory=list)
    finished: bool = False

    @classmethod
    def open(cls, folder: Path | str) -> "Run":
        """A run that exists.

        Raises:
            ValueError: there is no run in that folder.
        """
        folder = Path(folder)
        path = folder / "run.json"
        if not path.is_file():
            raise ValueError(f"{folder} holds no run (no run.json): give a folder that train.py has written")
        fields = json.loads(path.read_text())
        fields["stages"] = [Stage(**stage) for stage in fields["stages"]]
        return cls(folder, **{**fields, "tags": tuple(fields["tags"]), "overrides": tuple(fields["overrides"])})

    @classmethod
    def begin(cls, folder: Path | str, config: dict[str, Any], **fields: Any) -> "Run":
        """Start a run in `folder` and write down how it was started. `config` is the whole configuration, resolved."""
        run = cls(Path(folder), commit=git_commit(), started=time.strftime("%Y-%m-%d %H:%M:%S %Z"), **fields)
        for name in ("tables", "figures"):
            (run.folder / name).mkdir(parents=True, exist_ok=True)
        (run.folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        run.write()
        return run

    def write(self) -> None:
        fields = asdict(self)
        del fields["folder"]
        (self.folder / "run.json").write_text(json.dumps(fields, indent=1) + "\n")

    @contextmanager
    def stage(self, name: str, after: Callable[[], None] | None = None) -> Iterator[Stage]:
        """Time a stage and keep its error; `after` is called either way, so what was computed so far can be logged."""
        stage = Stage(name)
        self.stages.append(stage)
        begin = time.perf_counter()
        try:
            yield stage
        except BaseException as error:
            said = str(error) or "no message"
            stage.error = said if isinstance(error, ValueError) else f"{type(error).__name__}: {said}"
            raise
        finally:
            stage.seconds = round(time.perf_counter() - begin, 3)
            self.write()
            if after is not None:
                after()

    @property
    def config(self) -> dict[str, Any]:
        return yaml.safe_load((self.folder / "config.yaml").read_text())

    @property
    def failed(self) -> Stage | None:
        """The stage that ended the run, if one did."""
        return next((stage for stage in self.stages if stage.error), None)

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    def table(self, name: str) -> pd.DataFrame:
        """A table by its name without .csv; an empty frame when the run did not come so far."""
        path = self.folder / "tables" / f"{name}.csv"
        return _read(path, path.stat().st_mtime_ns).copy() if path.is_file() else pd.DataFrame()

    def tables(self) -> dict[str, Path]:
        return {path.stem: path for path in sorted((self.folder / "tables").glob("*.csv"))}

    def figures(self) -> dict[str, Path]:
        return {path.stem: path for path in sorted((self.folder / "figures").glob("*.png"))}

    def strips(self) -> dict[str, Path]:
        """Overlay film strips of fresh (prompt, seed) pairs."""
        return {path.stem: path for path in sorted((self.folder / "strips").glob("*.png"))}


@lru_cache(maxsize=16)
def _read(path: Path, written: int) -> pd.DataFrame:
    """Report, tracker and comparison ask for the same few tables many times; `written` changes when a table does."""
    return pd.read_csv(path)


def git_commit() -> str:
    """The commit of this checkout, with `+changes` when tracked files differ from it; empty outside a repository.

    Installed from a wheel: the version, `v0.1.0`. The folder above may be a repository, but it is not this one.
    """
    if INSTALLED:
        return f"v{__version__}"
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def runs_under(folder: Path | str) -> list[Run]:
    """Every run in a folder (a sweep, or a day), in the order of their job numbers and names."""

    def key(path: Path) -> tuple[int, str]:
        number = path.parent.name.split("_")[0]
        return (int(number) if number.isdigit() else 0, str(path))

    return [Run.open(path.parent) for path in sorted(Path(folder).glob("*/run.json"), key=key)]

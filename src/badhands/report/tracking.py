"""Where the results of a run are tracked: W&B, one CSV file, or nowhere; trackio and TensorBoard: `local_trackers.py`.

A tracker reads the run folder and nothing else. It is told after every stage, so a run that fails half-way is tracked
as far as it came; `finish` is always called, so that the next run of a multirun gets a W&B run of its own.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from badhands.cells import block_key
from badhands.report.headline import summary
from badhands.report.results import cells_table
from badhands.report.run import Run
from badhands.report.series import Curve, series

Value = float | int | str


class Tracker(Protocol):
    """What a run calls. `stage` is the name of the stage that has just ended; it becomes the section of its keys."""

    def begin(self, run: Run) -> None: ...

    def log(self, run: Run, stage: str) -> None: ...

    def finish(self, run: Run) -> None: ...


class NoTracker:
    """`logger=none`: the run folder is all there is."""

    def begin(self, run: Run) -> None: ...

    def log(self, run: Run, stage: str) -> None: ...

    def finish(self, run: Run) -> None: ...


class CsvTracker:
    """`logger=csv`: metrics.csv (key, step, timestep, sigma, value: the curves) and summary.json in the run folder."""

    def begin(self, run: Run) -> None:
        self._seen: set[str] = set()

    def log(self, run: Run, stage: str) -> None:
        rows = [curve.rows() for curve in series(run, skip=self._seen)]
        if rows:
            path = run.folder / "metrics.csv"
            pd.concat(rows).to_csv(path, mode="a", header=not path.exists(), index=False)

    def finish(self, run: Run) -> None:
        (run.folder / "summary.json").write_text(json.dumps(summary(run), indent=1) + "\n")


@dataclass
class WandbTracker:
    """`logger=wandb`: one W&B run for a run folder, written offline unless asked otherwise.

    Raises:
        ValueError: online without a login, or an unknown mode (from `begin`, before anything is computed).
    """

    project: str = "badhands"
    entity: str | None = None
    mode: str = "offline"
    """offline (default) or online. There is no field for a key: `wandb login` or WANDB_API_KEY hold it."""
    job_type: str = "train"
    notes: str | None = None
    _seen: set[str] = field(default_factory=set, repr=False)
    _wandb: Any = field(default=None, repr=False)
    _data_dir: str | None = field(default=None, repr=False)

    def begin(self, run: Run) -> None:
        import wandb

        if self.mode not in ("offline", "online"):
            raise ValueError(f"logger.mode={self.mode}: write offline or online (or logger=csv, logger=none)")
        if self.mode == "online" and not wandb.login(prompt=False, verify=False):
            raise ValueError(
                "logger.mode=online needs a W&B login: run `wandb login` once, or leave logger.mode=offline"
            )
        self._seen = set()
        # Tables are staged there until they are sent. W&B's own place is the home folder, where a later clean-up would
        # leave an offline run that can no longer be sent whole.
        self._data_dir = os.environ.get("WANDB_DATA_DIR")
        os.environ.setdefault("WANDB_DATA_DIR", str(run.folder.absolute() / "wandb"))
        self._wandb = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,  # pyright: ignore[reportArgumentType]
            dir=str(run.folder),
            name=run.name,
            group=run.group,
            job_type=self.job_type,
            tags=list(run.tags),
            notes=self.notes,
            config={**run.config, "commit": run.commit, "choices": run.choices, "overrides": list(run.overrides)},
            settings=wandb.Settings(silent=True, disable_git=True, console="off"),
            reinit="finish_previous",
        )
        # One x axis for all curves. It counts up, as W&B draws it; timestep (down) and sigma stand in the same rows,
        # so either can be chosen in the panel.
        for name in ("step", "timestep", "sigma"):
            self._wandb.define_metric(name, hidden=name != "step")
        self._wandb.define_metric("curve/*", step_metric="step", summary="none")

    def log(self, run: Run, stage: str) -> None:
        import wandb

        self._log_curves(run)
        media: dict[str, Any] = {}
        for name, path in self._new(run.figures()):
            media[f"{stage}/{name}"] = wandb.Image(str(path))
        for name, path in self._new(run.strips()):
            media.setdefault(f"{stage}/strips", []).append(wandb.Image(str(path), caption=name))
        if media:
            self._wandb.log(media)
        for name, path in self._new({"probes": run.folder / "probes"}):
            self._artifact(name, path, probe_card(path))

    def finish(self, run: Run) -> None:
        """Write the summary and end the run; a failed run ends with exit code 1, which W&B shows as failed."""
        import wandb

        if self._wandb is None:
            return
        try:
            self._wandb.summary.update(summary(run))
            cells = cells_table(run)
            if len(cells):
                self._wandb.log({"cells": wandb.Table(dataframe=cells)})
            self._artifact("tables", run.folder / "tables")
            if run.report.is_file():
                self._wandb.log({"report": wandb.Html(run.report.read_text(encoding="utf-8"), inject=False)})
        finally:
            self._wandb.finish(exit_code=1 if run.failed else 0)
            self._wandb = None
            if self._data_dir is None:
                os.environ.pop("WANDB_DATA_DIR", None)

    def _artifact(self, name: str, folder: Path, metadata: dict[str, Any] | None = None) -> None:
        """All files of a folder, as the artifact <name>-<run id>."""
        import wandb

        artifact = wandb.Artifact(f"{name}-{self._wandb.id}", type=name, metadata=metadata)
        for path in sorted(folder.iterdir()):
            artifact.add_file(str(path), policy="immutable")  # sent from the run folder, without a second copy
        self._wandb.log_artifact(artifact)

    def _new(self, files: dict[str, Path]) -> Iterator[tuple[str, Path]]:
        for name, path in files.items():
            if path.exists() and str(path) not in self._seen:
                self._seen.add(str(path))
                yield name, path

    def _log_curves(self, run: Run) -> None:
        """Each curve as history rows over `step`, which W&B overlays between runs, and as one chart of all blocks."""
        import wandb

        curves = list(series(run, skip=self._seen))
        for row in curve_history(curves):
            self._wandb.log(row)
        for curve in curves:
            blocks = sorted(curve.lines, key=block_key)
            chart = wandb.plot.line_series(
                xs=curve.steps,
                ys=[[None if pd.isna(y) else float(y) for y in curve.lines[block]] for block in blocks],
                keys=blocks,
                title=curve.title,
                xname="step (0 is pure noise)",
            )
            self._wandb.log({f"curves/{curve.name}": chart})


def curve_history(curves: Iterable[Curve]) -> list[dict[str, Value]]:
    """One history row a step: step, timestep, sigma, and `curve/<name>/<block>` of every curve that has a value."""
    rows: dict[int, dict[str, Value]] = {}
    for curve in curves:
        for block, line in curve.lines.items():
            for step, value in zip(curve.steps, line, strict=True):
                if pd.notna(value):
                    rows.setdefault(step, {})[f"curve/{curve.name}/{block}"] = float(value)
        for step, timestep, sigma in zip(curve.steps, curve.timesteps, curve.sigmas, strict=True):
            rows.setdefault(step, {}).update(step=step, timestep=timestep, sigma=sigma)
    return [row for _, row in sorted(rows.items())]


def probe_card(folder: Path) -> dict[str, Any]:
    """The probes' card as the artifact's metadata, without its longer lists."""
    path = folder / "card.json"
    if not path.is_file():
        return {}
    card = json.loads(path.read_text())
    return {key: value for key, value in card.items() if isinstance(value, str | int | float | bool)}

"""`logger=trackio` and `logger=tensorboard`: local dashboards without an account, with the content of the W&B run."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from badhands.report.headline import summary
from badhands.report.results import cells_table
from badhands.report.run import Run
from badhands.report.series import series
from badhands.report.tracking import curve_history, probe_card


@dataclass
class TrackioTracker:
    """One trackio run for a run folder: in TRACKIO_DIR, or where trackio keeps its files. `trackio show` opens it.

    Raises:
        ValueError: trackio is not installed (from `begin`, before anything is computed).
    """

    project: str = "badhands"
    _seen: set[str] = field(default_factory=set, repr=False)
    _run: Any = field(default=None, repr=False)

    def begin(self, run: Run) -> None:
        try:
            import trackio
        except ImportError:
            raise ValueError("logger=trackio needs trackio: pip install 'badhands[trackio]'") from None
        self._seen = set()
        config = {**run.config, "commit": run.commit, "choices": run.choices, "overrides": list(run.overrides)}
        self._run = trackio.init(
            project=self.project,
            name=f"{run.name} {run.folder.name}",  # a name is a run's key there: two runs of one kind must differ
            group=run.group,
            config={**config, "tags": list(run.tags), "folder": run.folder.name},
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )

    def log(self, run: Run, stage: str) -> None:
        import trackio

        for row in curve_history(series(run, skip=self._seen)):
            step = int(row.pop("step"))  # a word of its own there, as an argument
            trackio.log(row, step=step)
        media = {key: trackio.Image(str(path), caption=path.stem) for key, path in pictures(run, stage, self._seen)}
        if media:
            trackio.log(media)
        probes = run.folder / "probes"
        if probes.is_dir() and str(probes) not in self._seen:
            self._seen.add(str(probes))
            self._artifact("probes", probes, probe_card(probes))

    def finish(self, run: Run) -> None:
        """Log summary, cells, tables and report, and end the run; a failed one says so in `failed`."""
        import trackio

        if self._run is None:
            return
        try:
            ended = {f"summary/{key}": value for key, value in summary(run).items()}
            trackio.log({**ended, "failed": run.failed.name if run.failed else ""})
            cells = cells_table(run)
            if len(cells):
                trackio.log({"cells": trackio.Table(dataframe=cells)})
            self._artifact("tables", run.folder / "tables")
            if run.report.is_file():
                trackio.log({"report": trackio.Html(str(run.report), inject=False)})
        finally:
            trackio.finish()
            self._run = None

    def _artifact(self, name: str, folder: Path, metadata: dict[str, Any] | None = None) -> None:
        """All files of a folder, as the artifact <name>-<run folder>."""
        import trackio

        artifact = trackio.Artifact(f"{name}-{self._run.name}".replace(" ", "-"), type=name, metadata=metadata)
        for path in sorted(folder.iterdir()):
            artifact.add_file(str(path))
        trackio.log_artifact(artifact)


@dataclass
class TensorBoardTracker:
    """Event files in `<run folder>/tensorboard`: curves, pictures, configuration and summary (tables stay CSV).

    Raises:
        ValueError: TensorBoard is not installed (from `begin`, before anything is computed).
    """

    _seen: set[str] = field(default_factory=set, repr=False)
    _writer: Any = field(default=None, repr=False)

    def begin(self, run: Run) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError("logger=tensorboard needs it: pip install 'badhands[tensorboard]'") from None
        self._seen, self._writer = set(), SummaryWriter(run.folder / "tensorboard")
        self._writer.add_text("config", f"```\n{(run.folder / 'config.yaml').read_text()}\n```")

    def log(self, run: Run, stage: str) -> None:
        for row in curve_history(series(run, skip=self._seen)):
            for key, value in row.items():
                self._writer.add_scalar(key, value, int(row["step"]))
        for key, path in pictures(run, stage, self._seen):
            self._writer.add_image(key, np.asarray(Image.open(path).convert("RGB")), dataformats="HWC")

    def finish(self, run: Run) -> None:
        if self._writer is not None:
            self._writer.add_text("summary", "\n".join(f"    {key}: {value}" for key, value in summary(run).items()))
            self._writer.close()
            self._writer = None


def pictures(run: Run, stage: str, seen: set[str]) -> Iterator[tuple[str, Path]]:
    """Figures and film strips that were not in `seen` yet, as (`<stage>/<name>`, file); `seen` grows."""
    for kind, files in (("", run.figures()), ("strips/", run.strips())):
        for name, path in files.items():
            if str(path) not in seen:
                seen.add(str(path))
                yield f"{stage}/{kind}{name}", path

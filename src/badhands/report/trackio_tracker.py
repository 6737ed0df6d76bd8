"""`logger=trackio`: a local dashboard without an account, with the content of the W&B run."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from badhands.report.headline import summary
from badhands.report.results import cells_table
from badhands.report.series import series
from badhands.report.tracking import curve_history, probe_card
from badhands.run import Run


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
            trackio.log(row, step=int(row["step"]))
        media: dict[str, Any] = {}
        for kind, files in (("", run.figures()), ("strips/", run.strips())):
            for name, path in files.items():
                if str(path) not in self._seen:
                    self._seen.add(str(path))
                    media[f"{stage}/{kind}{name}"] = trackio.Image(str(path), caption=name)
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

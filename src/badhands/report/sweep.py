"""At the end of a multirun: compare its runs, in its folder."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class CompareRuns(Callback):
    """Hydra callback. Writes compare.html and compare.csv into the sweep folder.

    A job that fails makes Hydra's sweepers raise before `on_multirun_end`, so once a run of the sweep has failed the
    comparison is also written after every job.
    """

    def on_job_end(self, config: DictConfig, job_return: Any, **kwargs: Any) -> None:
        if not _is_multirun(config):
            return
        from badhands.report.run import runs_under

        folder = Path(config.hydra.sweep.dir)
        if any(run.failed for run in runs_under(folder)):
            self._compare(folder)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        self._compare(Path(config.hydra.sweep.dir))

    def _compare(self, folder: Path) -> None:
        from badhands.report.compare import compare
        from badhands.report.run import runs_under

        runs = runs_under(folder)
        if len(runs) < 2:
            return
        page = compare(runs, folder)
        print(f"comparison of {len(runs)} runs: {page}")


def _is_multirun(config: DictConfig) -> bool:
    return str(config.hydra.mode).endswith("MULTIRUN")

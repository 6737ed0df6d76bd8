"""At the end of a multirun: compare its runs, in its folder."""

import logging
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

log = logging.getLogger(__name__)


class CompareRuns(Callback):
    """Hydra callback. Writes compare.html and compare.csv into the sweep folder.

    A job that fails makes Hydra's sweepers raise before `on_multirun_end`, so once a run of the sweep has failed the
    comparison is also written after every job.

    Args:
        power: subsamples of each number of images for the curve of detection against it; 0: no curve.
    """

    def __init__(self, power: int = 0) -> None:
        self.power = power

    def on_job_end(self, config: DictConfig, job_return: Any, **kwargs: Any) -> None:
        if not _is_multirun(config):
            return
        from badhands.run import runs_under

        folder = Path(config.hydra.sweep.dir)
        if any(run.failed for run in runs_under(folder)):
            self._compare(folder)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        if self.power:
            self._power(config, folder)
        self._compare(folder)

    def _power(self, config: DictConfig, folder: Path) -> None:
        """power.csv: its figure is part of the comparison. A study that cannot be read leaves the runs as they are."""
        from badhands.measures.power import power_curve
        from badhands.null import open_study
        from badhands.run import runs_under

        sizes = sorted({len(run.table("images")) for run in runs_under(folder) if run.finished})
        try:
            choice, subsample = open_study(config, config.data.fingerprint)
            curve = power_curve(subsample, choice.strata, [n for n in sizes if n % 2 == 0], self.power, folder)
            curve.to_csv(folder / "power.csv", index=False, float_format="%.4g")
        except ValueError as error:
            log.warning("no curve of detection against images: %s", error)

    def _compare(self, folder: Path) -> None:
        from badhands.report.compare import compare
        from badhands.run import runs_under

        runs = runs_under(folder)
        if len(runs) < 2:
            return
        page = compare(runs, folder)
        print(f"comparison of {len(runs)} runs: {page}")


def _is_multirun(config: DictConfig) -> bool:
    return str(config.hydra.mode).endswith("MULTIRUN")

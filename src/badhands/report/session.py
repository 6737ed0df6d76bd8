"""A run while it runs: stages in order, each timed, tracked and kept, whatever happens to the next one."""

import cProfile
import io
import logging
import pstats
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from badhands.figures.table import draw_figures
from badhands.report.findings.write import write_findings
from badhands.report.report import write_report
from badhands.report.run import Run
from badhands.report.tracking import Tracker

log = logging.getLogger(__name__)


class Session:
    """Context manager round the stages of a run.

    On the way out, with or without an exception, the report is written and the tracker is finished: what was computed
    so far is kept, and the next job of a multirun starts clean.
    """

    def __init__(self, run: Run, tracker: Tracker, profile: bool = False):
        self.run = run
        self.tracker = tracker
        self.profile = profile
        """Write profile_<stage>.txt beside the results."""

    def __enter__(self) -> "Session":
        with self.run.stage("logger"):
            self.tracker.begin(self.run)
        return self

    @contextmanager
    def stage(self, name: str, tells: bool = False) -> Iterator[None]:
        """One stage. `tells`: from its tables figures and findings are made, even if it fails half-way."""
        profiler = cProfile.Profile() if self.profile else None
        log.info("%s ...", name)
        try:
            with self.run.stage(name) as stage:
                if profiler is not None:
                    profiler.enable()
                try:
                    yield
                finally:
                    if tells:
                        tell(self.run)
        except BaseException:
            (self.run.folder / "error.txt").write_text(traceback.format_exc())
            raise
        finally:
            if profiler is not None:
                profiler.disable()
                self._write_profile(name, profiler)
            log.info("%s: %.1f s", name, stage.seconds)
            self.tracker.log(self.run, name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run.finished = error is None
        self.run.write()
        try:
            write_report(self.run)
        finally:
            self.tracker.finish(self.run)

    def _write_profile(self, name: str, profiler: cProfile.Profile) -> None:
        text = io.StringIO()
        pstats.Stats(profiler, stream=text).sort_stats("cumulative").print_stats(60)
        (self.run.folder / f"profile_{name}.txt").write_text(text.getvalue())


def tell(run: Run) -> None:
    """Figures and findings.json, from the tables that there are."""
    draw_figures(run.folder)
    if (run.folder / "family.npz").is_file():  # the gate that sentences have to ask
        write_findings(run.folder)

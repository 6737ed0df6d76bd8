"""`python -m badhands.report RUN`: write a run's report again; `figures=true` draws its figures again, too."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from badhands.home import command, paths_as


@command("report")
def main(cfg: DictConfig) -> None:
    from badhands.figures.table import draw_figures
    from badhands.report.report import write_report
    from badhands.report.run import Run

    if cfg.run is None:
        raise ValueError("say which run: python -m badhands.report outputs/runs/<day>/<time>")
    run = Run.open(Path(str(cfg.run)))
    for path in draw_figures(run.folder, again=True) if cfg.figures else ():
        print(path)
    print(write_report(run))


if __name__ == "__main__":
    sys.argv[1:] = paths_as("run")
    main()

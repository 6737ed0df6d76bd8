"""`python -m badhands.compare RUN RUN ... out=FOLDER`: runs side by side; see `badhands.report.compare`."""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from badhands import CONF_DIR
from badhands.arguments import paths_as


@hydra.main(config_path=str(CONF_DIR), config_name="compare", version_base="1.3")
def main(cfg: DictConfig) -> None:
    from badhands.report.compare import compare_folders

    try:
        print(compare_folders([Path(str(run)) for run in cfg.runs], Path(cfg.out)))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    sys.argv[1:] = paths_as("runs", many=True)
    main()

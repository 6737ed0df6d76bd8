"""python -m badhands.rehearse model=flux_dev: what a study would cost on this machine, before anything is downloaded.

Configuration: conf/rehearse.yaml; guide: docs/models.md.
"""

import sys
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from badhands.home import OUTPUTS, command


@command("rehearse")
def main(cfg: DictConfig) -> None:
    from badhands.rehearse.rehearsal import Rehearsal

    options: Any = OmegaConf.to_container(cfg, resolve=True)
    job = HydraConfig.get()
    passed = [item for item in job.overrides.task if item.startswith(("model.", "capture"))]
    try:
        choice = str(job.runtime.choices["model"])
        print(Rehearsal.of(choice, passed, options, OUTPUTS).run())
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command begins anew")


if __name__ == "__main__":
    main()

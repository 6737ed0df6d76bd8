"""python -m badhands.experiments: does knowing help? Abort, best of N, repair, steering, ablation, and one page.

Configuration: conf/experiments.yaml; guide: docs/experiments.md.
"""

import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from badhands.home import command


@command("experiments")
def main(cfg: DictConfig) -> None:
    options: Any = OmegaConf.to_container(cfg, resolve=True)
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        print(run(options, folder))
    except KeyboardInterrupt:
        sys.exit(f"interrupted; the same command goes on from what is in {folder}")


def run(options: dict[str, Any], folder: Path) -> str:
    """Do what conf/experiments.yaml says, into `folder`; returns what to print.

    Raises:
        ValueError: an option that does not fit, in one sentence, before anything is drawn.
    """
    from badhands.experiments.experiment import EXPERIMENTS, Bench

    only = options["only"] or list(EXPERIMENTS)
    wanted = [only] if isinstance(only, str) else list(only)
    for name in wanted:
        if name not in EXPERIMENTS:
            raise ValueError(f"only={name}: use some of {', '.join(EXPERIMENTS)}")
    settings = {name: EXPERIMENTS[name].settings(**_tuples(options.get(key) or {})) for name, key in _keys(EXPERIMENTS)}

    import torch

    from badhands.diffusion.spec import ModelSpec
    from badhands.experiments.page import write_page
    from badhands.experiments.referee import referee
    from badhands.experiments.training_run import TrainingRun
    from badhands.watch.fresh import study_prompts
    from badhands.watch.settings import find_probes, load_probes

    torch.set_num_threads(int(options["threads"]))
    spec = ModelSpec.of(options["model"])
    judge = referee(spec)
    where = find_probes(spec.name, options["probes"])
    probes = load_probes(where, spec)
    source = options["prompts_file"] or options["model"]["prompts"]
    workers = int(options["workers"])
    if workers < 1:
        raise ValueError(f"workers={workers}: give the number of processes that draw, 1 or more")
    known = study_prompts(probes.card.get("study"))
    bench = Bench(spec, probes, judge, source, folder, known, run=TrainingRun(where.parent), workers=workers)
    lines = []
    for name in wanted:
        lines.append(EXPERIMENTS[name].run(bench, settings[name]))
        write_page(folder, spec.name)  # after each: an interrupted command leaves a page of what is done
    return "\n".join([*lines, str(folder / "experiments.html")])


def _keys(experiments: Any) -> list[tuple[str, str]]:
    return [(name, experiment.key) for name, experiment in experiments.items()]


def _tuples(options: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}


if __name__ == "__main__":
    main()

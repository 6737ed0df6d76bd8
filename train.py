"""python train.py: measures, probes, film strips and a report of one study. Configuration: conf/train.yaml."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from badhands import OUTPUTS

if TYPE_CHECKING:  # imported when needed, so that --help, --cfg and a wrong option answer at once
    from badhands.runs import Run
    from badhands.session import Session
    from badhands.study.activations import ActivationCache
    from badhands.study.study import Study

os.environ.setdefault("BADHANDS_OUTPUTS", str(OUTPUTS))  # conf/train.yaml puts runs where the studies are


@hydra.main(config_path="conf", config_name="train", version_base="1.3")
def main(cfg: DictConfig) -> float | None:
    from badhands.show.headline import headline

    try:
        with open_session(cfg) as session:
            with session.stage("data"):
                study, cache = open_data(cfg, session.run.folder)
            with session.stage("measures"):
                measure(cfg, cache, session.run)
            with session.stage("probes"):
                fit(cfg, study, cache, session.run)
    except ValueError as error:  # one sentence that names the fix; the traceback is in error.txt
        raise CompactHydraException(f"error: {error}") from error
    print(headline(session.run))


def open_session(cfg: DictConfig) -> "Session":
    """The run folder that Hydra has made, the tracker, and one seed for everything random."""
    from lightning import seed_everything

    from badhands.runs import Run
    from badhands.session import Session

    job = HydraConfig.get()
    swept = job.mode == RunMode.MULTIRUN
    choices = {k: str(v) for k, v in job.runtime.choices.items() if v is not None and not k.startswith("hydra")}
    run = Run.begin(
        Path(job.runtime.output_dir),
        config=OmegaConf.to_container(cfg, resolve=True),
        name=run_name(choices, job.overrides.task),
        group=Path(job.sweep.dir).name if swept else None,
        tags=(*cfg.tags, *(choices[group] for group in ("model", "capture", "probe") if group in choices)),
        overrides=tuple(job.overrides.task),
        choices=choices,
    )
    seed_everything(cfg.seed, workers=True, verbose=False)  # in every job: a seed of None would keep the last job's
    return Session(run, hydra.utils.instantiate(cfg.logger), profile=cfg.profile)


def run_name(choices: dict[str, str], overrides: list[str]) -> str:
    """What tells this run apart in a list: model, capture and probe, then the values that were set by hand."""
    named = [choices[group] for group in ("model", "capture", "probe") if group in choices]
    values = [item for item in overrides if "." in item.split("=")[0] and not item.startswith(("hydra", "logger"))]
    return " ".join([*named, *values])


def open_data(cfg: DictConfig, folder: Path) -> "tuple[Study, ActivationCache]":
    """The study and the cells and images that this run uses; writes tables/images.csv and the label sheets."""
    from badhands.dataset import Selection, describe, select
    from badhands.diffusion.schedule import choose_timesteps
    from badhands.study.study import Study, study_folder

    study = Study(study_folder(cfg.study))
    selection = Selection(
        blocks=chosen_blocks(cfg),
        timesteps=choose_timesteps(cfg.capture.timesteps, cfg.capture.of_steps, cfg.model.steps),
        images=cfg.data.images,
        kinds=cfg.data.kinds,
        seed=cfg.data.seed,
    )
    cache = study.activations(cfg.data.fingerprint)
    relabelled = study.relabelled(cache)
    if relabelled:
        raise ValueError(
            f"{len(relabelled)} labels have changed since extraction ({', '.join(relabelled[:3])} ...): "
            f"run `{extract_command(cfg)}` again"
        )
    cache = select(cache, selection, extract_command(cfg))
    describe(study, cache, folder)
    return study, cache


def chosen_blocks(cfg: DictConfig) -> tuple[str, ...]:
    """capture.blocks by name; `all` asks the model's own config."""
    if cfg.capture.blocks != "all":
        return tuple(cfg.capture.blocks)
    from badhands.diffusion.blocks import check_blocks
    from badhands.diffusion.models import ModelSpec, transformer_config

    return check_blocks(transformer_config(ModelSpec.of(dict(cfg.model))), "all")


def measure(cfg: DictConfig, cache: "ActivationCache", run: "Run") -> None:
    """Distances, directions and projections of every cell: tables/cells.csv and others, figures, findings.json."""
    from badhands.training.measure import measure as measure_cells

    measure_cells(cache, run.folder, hydra.utils.instantiate(cfg.analysis, _convert_="all"))


def fit(cfg: DictConfig, study: "Study", cache: "ActivationCache", run: "Run") -> None:
    """Probes of every cell, their scores and controls, the global direction: tables/scores.csv, probes/, oof.npz."""
    from badhands.probes.stage import fit_probes

    fingerprint = cache.folder.name
    card = {
        "study": study.name,
        "model": cfg.model.name,
        "fingerprint": fingerprint,
        "generation": study.fingerprint(fingerprint),
        "commit": run.commit,
    }
    settings = hydra.utils.instantiate(cfg.probe, _convert_="all")
    fit_probes(cache, run.folder, settings, card=card, trainer=hydra.utils.instantiate(cfg.trainer, _convert_="all"))


def extract_command(cfg: DictConfig) -> str:
    """The command that makes what this run needs."""
    choices = HydraConfig.get().runtime.choices
    words = [f"{group}={choices[group]}" for group in ("model", "labels", "capture")]
    words += [f"study={cfg.study}"] if cfg.study != cfg.model.name else []
    words += [item for item in HydraConfig.get().overrides.task if item.startswith(("model.", "capture."))]
    return "python extract.py " + " ".join(words)


if __name__ == "__main__":
    main()

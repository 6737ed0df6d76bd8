"""python train.py: measures, probes, film strips and a report of one study. Configuration: conf/train.yaml."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from badhands.home import OUTPUTS
from badhands.report.run import git_commit

if TYPE_CHECKING:  # imported when needed, so that --help, --cfg and a wrong option answer at once
    from badhands.report.run import Run
    from badhands.report.session import Session
    from badhands.stats.design import Design
    from badhands.study.activations import ActivationCache
    from badhands.study.choice import Choice
    from badhands.study.study import Study

os.environ.setdefault("BADHANDS_OUTPUTS", str(OUTPUTS))  # conf/train.yaml puts runs where the studies are


@hydra.main(config_path="conf", config_name="train", version_base="1.3")
def main(cfg: DictConfig) -> float | None:
    from badhands.measures.stage import measure as measure_cells
    from badhands.probes.picture import load_referee
    from badhands.probes.stage import fit_probes, see_pictures
    from badhands.report.headline import headline

    try:
        with open_session(cfg) as session:
            with session.stage("data"):
                analysis, probe = build(cfg.analysis), build(cfg.probe)  # refused now, not an hour later
                trainer, referee = build(cfg.trainer), load_referee(cfg.referee)
                device = trainer().strategy.root_device
                study, cache, design, choice = open_data(cfg, session.run.folder)
            with session.stage("measures", tells=True):
                measure_cells(cache, session.run.folder, analysis, design=design, device=device)
            with session.stage("probes", tells=True):
                fit_probes(
                    cache,
                    session.run.folder,
                    probe,
                    design=design,
                    card=card(cfg, study, cache, choice),
                    trainer=trainer,
                )
            if cfg.previews:
                with session.stage("previews", tells=True):
                    see_pictures(study, cache, session.run.folder, design, referee, device)
            if cfg.lock:
                with session.stage("lock"):
                    lock_claims(cfg, session.run, cache, choice)
            if cfg.strips:
                with session.stage("watch"):
                    draw_strips(cfg, study, session.run.folder)
    except ValueError as error:  # one sentence that names the fix; the traceback is in error.txt
        raise CompactHydraException(f"error: {error}") from error
    print(headline(session.run))


def open_session(cfg: DictConfig) -> "Session":
    """The run folder that Hydra has made, the tracker, and one seed for everything random."""
    from lightning import seed_everything

    from badhands.report.run import Run
    from badhands.report.session import Session

    job = HydraConfig.get()
    swept = job.mode == RunMode.MULTIRUN
    choices = {k: str(v) for k, v in job.runtime.choices.items() if v is not None and not k.startswith("hydra")}
    run = Run.begin(
        Path(job.runtime.output_dir),
        config=plain(cfg),
        name=run_name(choices, job.overrides.task),
        group=Path(job.sweep.dir).name if swept else None,
        tags=(*cfg.tags, *(choices[group] for group in ("model", "capture", "probe") if group in choices)),
        overrides=tuple(job.overrides.task),
        choices=choices,
    )
    seed_everything(cfg.seed, workers=True, verbose=False)  # in every job: a seed of None would keep the last job's
    return Session(run, build(cfg.logger), profile=cfg.profile)


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The whole configuration, resolved, as dictionaries and lists."""
    values = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def run_name(choices: dict[str, str], overrides: list[str]) -> str:
    """What tells this run apart in a list: model, capture and probe, then the values that were set by hand."""
    named = [choices[group] for group in ("model", "capture", "probe") if group in choices]
    values = [item for item in overrides if "." in item.split("=")[0] and not item.startswith(("hydra", "logger"))]
    return " ".join([*named, *values])


def open_data(cfg: DictConfig, folder: Path) -> "tuple[Study, ActivationCache, Design, Choice]":
    """The study, the cells and images that this run uses, what is compared with what; writes tables/images.csv and
    the label sheets."""
    from badhands.cells import choose_timesteps
    from badhands.measures.describe import describe
    from badhands.study.choice import LabelChoice, read_choice
    from badhands.study.selection import Selection, design_of, select
    from badhands.study.study import Study, study_folder

    study = Study(study_folder(cfg.study))
    selection = Selection(
        blocks=chosen_blocks(cfg),
        timesteps=choose_timesteps(cfg.capture.timesteps, cfg.capture.of_steps, cfg.model.steps),
        images=cfg.data.images,
        kinds=cfg.data.kinds,
        seed=cfg.data.seed,
    )
    choice = read_choice(study.root, LabelChoice.of(plain(cfg.labels)), extract_command(cfg))
    relabelled = study.relabelled(choice)
    if relabelled:
        raise ValueError(
            f"{len(relabelled)} labels have changed since extraction ({', '.join(relabelled[:3])} ...): "
            f"run `{extract_command(cfg)}` again"
        )
    cache = select(study.activations(cfg.data.fingerprint, choice), selection, extract_command(cfg), choice.strata)
    design = design_of(cache, choice.strata, cfg.data.folds, draws=cfg.data.draws, seed=cfg.data.seed,
                       permutations=cfg.data.permutations)  # fmt: skip
    describe(study, cache, folder, conflicts=choice.conflicts)
    return study, cache, design, choice


def chosen_blocks(cfg: DictConfig) -> tuple[str, ...]:
    """capture.blocks by name; `all` asks the model's own config."""
    if cfg.capture.blocks != "all":
        return tuple(cfg.capture.blocks)
    from badhands.diffusion.blocks import check_blocks
    from badhands.diffusion.models import ModelSpec, transformer_config

    return check_blocks(transformer_config(ModelSpec.of(dict(cfg.model))), "all")


def card(cfg: DictConfig, study: "Study", cache: "ActivationCache", choice: "Choice") -> dict[str, Any]:
    """Where the probes come from: what makes them refuse another model; and the model's own share of bad hands."""
    fingerprint = cache.folder.name
    generation = study.fingerprint(fingerprint)
    return {"study": study.name, "model": cfg.model.name, "fingerprint": fingerprint, "generation": generation,
            "bad_rate": choice.bad_rate, "commit": git_commit()}  # fmt: skip


def lock_claims(cfg: DictConfig, run: "Run", cache: "ActivationCache", choice: "Choice") -> None:
    """Freeze what this run found in a file, for `python -m badhands.replicate`."""
    from badhands.replicate.lock import lock_of

    lock_of(run, str(cfg.study), choice.rule, cache.images).save(Path(cfg.lock).expanduser(), run.folder / "probes")


def draw_strips(cfg: DictConfig, study: "Study", folder: Path) -> None:
    """Film strips of fresh (prompt, seed) pairs with the probes' verdict on every patch: strips/*.png."""
    from badhands.diffusion.spec import ModelSpec
    from badhands.probes.artifact import Probes
    from badhands.watch.fresh_strips import draw_strips as draw
    from badhands.watch.fresh_strips import judge_referee

    referee = judge_referee() if cfg.labels.source == "judge" else None
    probes = Probes.load(folder / "probes")
    draw(probes, ModelSpec.of(plain(cfg.model)), study.manifest.entries, folder, cfg.strips, referee)


def build(node: DictConfig) -> Any:
    """The object that a configuration node describes.

    Raises:
        ValueError: its own sentence, without Hydra's wrapping.
    """
    try:
        return hydra.utils.instantiate(node, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        raise


def extract_command(cfg: DictConfig) -> str:
    """The command that makes what this run needs."""
    choices = HydraConfig.get().runtime.choices
    words = [f"{group}={choices[group]}" for group in ("model", "labels", "capture")]
    words += [f"study={cfg.study}"] if cfg.study != cfg.model.name else []
    words += [item for item in HydraConfig.get().overrides.task if item.startswith(("model.", "labels.", "capture."))]
    return "python extract.py " + " ".join(words)


if __name__ == "__main__":
    main()

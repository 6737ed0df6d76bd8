"""python extract.py: prompts, images, labels, verified replay, activations. Configuration: conf/extract.yaml."""

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import hydra
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf

from badhands.home import OUTPUTS

if TYPE_CHECKING:  # imported when needed, so that --help, --cfg and a wrong option answer at once
    from badhands.diffusion.workers import MakeRenderer
    from badhands.extraction.job import Job

os.environ.setdefault("BADHANDS_OUTPUTS", str(OUTPUTS))  # conf/extract.yaml keeps its logs where the studies are


@hydra.main(config_path="conf", config_name="extract", version_base="1.3")
def main(cfg: DictConfig) -> None:
    from badhands.extraction.job import Job
    from badhands.extraction.verdicts import Pause

    try:
        options = OmegaConf.to_container(cfg, resolve=True)
        assert isinstance(options, dict)
        job = Job.of({str(key): value for key, value in options.items()})
        print(dry_run(job) if cfg.dry_run else extract(job))
    except Pause as pause:
        print(pause)
    except ValueError as error:  # one sentence that names the fix
        raise CompactHydraException(f"error: {error}") from error


def dry_run(job: "Job") -> str:
    """The bill: nothing is written, and the network is not used."""
    from badhands.diffusion.workers import use_threads
    from badhands.extraction.bill import make_bill, print_bill, trial
    from badhands.extraction.renderer import PipelineRenderer

    use_threads(job.threads)
    bill = make_bill(job)
    here = job.spec.folder is not None  # else the weights would have to be fetched
    left = bill.images_left + bill.captures_left
    return print_bill(job, bill, seconds=trial(job, PipelineRenderer(job.spec)) if here and left else None)


def extract(
    job: "Job", make: "MakeRenderer | None" = None, generation: tuple[str, dict[str, Any]] | None = None
) -> str:
    """Make what is missing, and say what there is. Called again, it goes on.

    Args:
        make, generation: the renderer, and the fingerprint of what it makes; by default the job's diffusers pipeline.
    """
    from badhands.diffusion.fingerprint import fingerprint
    from badhands.diffusion.workers import Workers, use_threads
    from badhands.extraction.bill import make_bill
    from badhands.extraction.captures import capture_images
    from badhands.extraction.images import make_images, open_study
    from badhands.extraction.renderer import PipelineRenderer
    from badhands.extraction.summary import summary
    from badhands.extraction.verdicts import choose_images, label_images

    use_threads(job.threads)
    made_by = generation or fingerprint(job.spec)
    study = open_study(job, made_by)
    make_bill(job).check_disk()
    with Workers(make or PipelineRenderer, job.spec, job.workers, job.threads) as workers:
        texts = make_images(job, study, workers, made_by)
        labels = label_images(job, study)
        choice = choose_images(job, study, labels)
        make_bill(job, labels).check_disk()
        chosen = {image_id: labels[image_id] for image_id in choice.ids}
        refused = capture_images(job, study, chosen, workers, made_by, texts)
        replace(choice, refused=tuple(refusal.image_id for refusal in refused)).write(study.root)
    return summary(job, study, labels, choice, refused)


if __name__ == "__main__":
    main()

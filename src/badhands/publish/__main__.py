"""`python -m badhands.publish`: a labelled study or a run's probes for the Hugging Face Hub, and a study back from it.

Configuration: conf/publish.yaml; guide: docs/hub.md.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import DictConfig, OmegaConf

from badhands.home import command
from badhands.study.study import Study, study_folder


def publish(
    *,
    study: str | None,
    probes: str | None,
    out: str | None,
    repo: str | None,
    license: str | None,
    base_model: str | None = None,
    private: bool = True,
    names: bool = False,
    back: bool = False,
) -> str:
    """Do what conf/publish.yaml says; returns one line that tells what was done.

    Raises:
        ValueError: options that do not fit, something private, no login; nothing has been sent then.
    """
    if (study is None) == (probes is None):
        raise ValueError("give study=NAME or probes=FOLDER, one of them")
    if out is None and repo is None:
        raise ValueError("give out=FOLDER to look at it, repo=user/name to send it, or both")
    if back:
        return _back(study, out, repo)
    if license is None:
        raise ValueError("give license=, e.g. license=mit; images and probes of a model follow that model's licence")
    with TemporaryDirectory() as temporary:
        folder = Path(out).expanduser() if out else Path(temporary) / "published"
        if probes is not None:
            from badhands.probes.artifact import Probes
            from badhands.probes.hub import write_folder

            run = Path(probes).expanduser().resolve().parent
            known = run if (run / "tables" / "headline.csv").is_file() else None
            write_folder(Probes.load(probes), folder, license=license, base_model=base_model, run=known)
        else:
            from badhands.publish.dataset import export_study

            assert study is not None
            export_study(Study(study_folder(study)), folder, license=license, names=names)
        if repo is None:
            return f"written to {folder}; nothing was sent"
        from badhands.study.hub import push_folder

        kind = "model" if probes is not None else "dataset"
        return "sent to " + push_folder(folder, repo, kind, private=private, message=f"{kind} by badhands")


def _back(study: str | None, out: str | None, repo: str | None) -> str:
    from badhands.publish.dataset import import_study
    from badhands.study.hub import pull_folder

    if study is None:
        raise ValueError("back=true makes a study: name it with study=; probes come back with Probes.from_hub")
    folder = pull_folder(repo, "dataset") if repo else Path(str(out)).expanduser()
    made = import_study(folder, study_folder(study))
    return f"study {made.name} at {made.root}: {len(made.manifest.entries)} images, {len(made.labels.latest())} labels"


@command("publish")
def main(cfg: DictConfig) -> None:
    options: Any = OmegaConf.to_container(cfg, resolve=True)
    print(publish(**options))


if __name__ == "__main__":
    main()

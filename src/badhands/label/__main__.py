"""The labelling page, and what belongs to it.

python -m badhands.label study=NAME           the page, on this machine
python -m badhands.label stats study=NAME     progress and agreement between and within annotators
python -m badhands.label export study=NAME format=coco path=labels.json
python -m badhands.label import study=NAME format=label_studio path=project.json annotator=anna
python -m badhands.label masks study=NAME     how good masks are that learn from 8, 16, 32 painted images
python -m badhands.label propose study=NAME probes=outputs/runs/.../probes
"""

import sys
import webbrowser
from pathlib import Path

import uvicorn
from omegaconf import DictConfig, OmegaConf

from badhands.home import command
from badhands.label.access import access_for, addresses, check_free, checked_hosts, checked_port, checked_token
from badhands.label.app import create_app
from badhands.label.changes import JUDGE, annotator_name
from badhands.label.desk import Desk
from badhands.label.exchange import export_labels, import_labels
from badhands.study.study import Study, study_folder

ACTIONS = ("serve", "stats", "export", "import", "propose", "masks")


def serve(study: Study, host: str, port: int, token: str | None, hosts: tuple[str, ...], browser: bool) -> None:
    """Serve the page until Ctrl-C."""
    access = access_for(host, token, hosts)
    check_free(host, port)
    app = create_app(Desk(study), access)
    here, *elsewhere = addresses(host, port, access.token, hosts)
    others = "".join(f"\n  from another machine: {address}" for address in elsewhere)
    print(
        f"Label study {study.name} at {here}{others}\nEvery change is on disk once the page says saved. Ctrl-C ends.",
        flush=True,
    )
    if browser:
        webbrowser.open(here)
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="warning",
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=2,  # seconds for what is half-sent: the page sends it again
    )


def stats(study: Study) -> str:
    """Two tables as text: progress of each annotator, agreement of each pair."""
    from badhands.label.agreement import agreement_table  # pandas, which the page does not need
    from badhands.label.progress import progress_table

    labels = study.labels.latest_of_all()
    if not labels:
        return f"Study {study.name} has no labels yet: python -m badhands.label study={study.name}"
    shown = agreement_table(labels)
    agreement = "No two labellings share an image yet: agreement needs a second annotator, or repeated images."
    if len(shown):
        agreement = shown.to_string(index=False, float_format=lambda value: f"{value:.3f}", na_rep="–")
    progress = progress_table(labels, len(study.manifest.entries)).to_string(index=False, na_rep="–")
    return (
        f"{progress}\n\n{agreement}\n\nlo, hi: 95 % bootstrap over images. 'again': the same person's second labelling."
    )


def run(cfg: DictConfig) -> None:
    """Do what `cfg.action` says."""
    if cfg.action not in ACTIONS:
        raise ValueError(f"{cfg.action!r} is unknown: python -m badhands.label {' | '.join(ACTIONS)}")
    study = Study(study_folder(str(cfg.study)))
    if cfg.action == "serve":
        options = OmegaConf.to_container(cfg)
        assert isinstance(options, dict)
        port, token, hosts = checked_port(cfg.port), checked_token(cfg.token), checked_hosts(options["hosts"])
        serve(study, str(cfg.host), port, token, hosts, bool(cfg.browser))
    elif cfg.action == "stats":
        print(stats(study))
    elif cfg.action == "masks":
        from badhands.label.mask_table import mask_table

        table = mask_table(study, str(cfg.annotator or JUDGE))
        print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    elif cfg.action == "propose":
        if cfg.probes is None:
            raise ValueError("propose needs a probes folder: probes=outputs/runs/.../probes")
        from badhands.label.propose import propose_hands  # loads the probes' room, which the page does not need

        number = propose_hands(study, Path(cfg.probes).expanduser(), float(cfg.threshold))
        print(f"{number} masks are offered as proposals of hand_probe.")
    elif cfg.path is None:
        raise ValueError(f"{cfg.action} needs a file (a folder for png): path=...")
    elif cfg.action == "export":
        records = [record for key, record in study.labels.latest_of_all().items() if cfg.annotator in (None, key[1])]
        number = export_labels(study, records, str(cfg.format), Path(cfg.path).expanduser())
        print(f"{number} labels written to {cfg.path}")
    else:
        if cfg.annotator is None:
            raise ValueError("import needs to know whose labels these are, where the file does not say: annotator=...")
        name = JUDGE if cfg.annotator == JUDGE else annotator_name(cfg.annotator)
        added = import_labels(study, str(cfg.format), Path(cfg.path).expanduser(), name)
        print(f"{len(added)} labels appended; those that the study had already were left alone.")


@command("label")
def _hydra_main(cfg: DictConfig) -> None:
    run(cfg)


def main() -> None:
    """`label stats study=...` is `label action=stats study=...`."""
    if len(sys.argv) > 1 and sys.argv[1] in ACTIONS:
        sys.argv[1] = f"action={sys.argv[1]}"
    _hydra_main()


if __name__ == "__main__":
    main()

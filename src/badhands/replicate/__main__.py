"""`python -m badhands.replicate lock=FILE study=B`: every claim of a lock, tested once on fresh images."""

from pathlib import Path

from omegaconf import DictConfig

from badhands.home import command
from badhands.replicate.lock import Lock
from badhands.replicate.outcomes import record, replicate, told, write_outcomes
from badhands.report.findings.write import write_findings
from badhands.report.report import write_report
from badhands.report.run import Run
from badhands.study.study import Study, study_folder


@command("replicate")
def main(cfg: DictConfig) -> None:
    if cfg.lock is None or cfg.study is None:
        raise ValueError("replicate needs a lock and a study: lock=outputs/locks/a.json study=b")
    lock, probes = Lock.load(Path(cfg.lock).expanduser())
    study = Study(study_folder(str(cfg.study)))
    outcomes = replicate(lock, probes, study, cfg.fingerprint)
    path, run = Path(cfg.lock).expanduser(), Path(lock.run)
    tested = record(path, study, outcomes)
    print(told(lock, outcomes, study, tested))
    if not (run / "run.json").is_file():  # the run of study A has gone; its lock has not
        write_outcomes(outcomes, path.with_suffix(".csv"), tested)
        return
    write_outcomes(outcomes, run / "tables" / "replication.csv", tested)
    write_findings(run)
    print(f"report: {write_report(Run.open(run))}")


if __name__ == "__main__":
    main()

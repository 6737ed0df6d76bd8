"""Freeze what study A found, before study B is looked at: cells, probes, the sentences and when they hold."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from badhands.cells import Cell
from badhands.probes.artifact import Probes
from badhands.report.findings.facts import Facts
from badhands.report.run import Run
from badhands.study.activations import ImageInfo
from badhands.study.choice import LabelChoice

CHANCE = 0.5


@dataclass(frozen=True)
class Claim:
    """One sentence about one cell. It is confirmed if the interval on study B lies above `above`."""

    cell: str
    sentence: str
    above: float = CHANCE
    """AUROC of the frozen probe on image means."""

    def __post_init__(self) -> None:
        Cell.parse(self.cell)
        if not CHANCE <= self.above < 1:
            raise ValueError(f"claim about {self.cell}: above={self.above} must lie in 0.5..1, it is an AUROC")


@dataclass(frozen=True)
class Lock:
    """A lock file: JSON, with the frozen probes in a folder beside it."""

    study: str
    """Study A."""
    run: str
    commit: str
    labels: Mapping[str, Any]
    """The rule by which A's images were chosen; B's must be chosen by the same."""
    claims: tuple[Claim, ...]
    probes_sha256: str
    seeds: tuple[int, ...] = ()
    """Seeds of A's images: B must have none of them."""

    def save(self, path: Path, probes: Path) -> Path:
        """Write the lock and copy the probes to `<path without suffix>-probes/`; an existing lock is never replaced.

        Raises:
            ValueError: there is a lock at `path` already.
        """
        if path.exists():
            raise ValueError(
                f"lock={path} exists: a lock is written once; name another file, or test it with replicate"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(probes, probes_folder(path), dirs_exist_ok=True)
        path.write_text(json.dumps({**asdict(self), "claims": [asdict(c) for c in self.claims]}, indent=1) + "\n")
        return path

    @classmethod
    def load(cls, path: Path) -> tuple["Lock", Probes]:
        """The lock and its probes.

        Raises:
            ValueError: no such lock, it is damaged, or the probes are not the frozen ones.
        """
        try:
            row = json.loads(path.read_text())
            claims = tuple(Claim(**claim) for claim in row["claims"])
            lock = cls(**{**row, "claims": claims, "seeds": tuple(row["seeds"])})
        except FileNotFoundError:
            raise ValueError(
                f"lock={path}: there is no such file; `python train.py ... lock={path}` writes one"
            ) from None
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"lock={path} cannot be read ({error})") from None
        folder = probes_folder(path)
        if sha256_of(folder) != lock.probes_sha256:
            raise ValueError(f"lock={path}: the probes in {folder} are not those that were frozen; make a new lock")
        return lock, Probes.load(folder)


def probes_folder(lock: Path) -> Path:
    return lock.with_name(f"{lock.stem}-probes")


def sha256_of(probes: Path) -> str:
    """Of a probes folder's weights; empty where there are none."""
    file = probes / "probes.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def lock_of(run: Run, study: str, rule: LabelChoice, images: Sequence[ImageInfo]) -> Lock:
    """What a finished run on these images of study A found, to be frozen.

    Raises:
        ValueError: nothing passed the gate.
    """
    facts = Facts.of(run.folder)
    rows = facts.metric("headline", "auroc")
    values = {f"{row.block}/t{int(str(row.timestep))}": float(str(row.value)) for row in rows.itertuples()}
    return Lock(
        study=study,
        run=str(run.folder),
        commit=run.commit,
        labels=asdict(rule),
        claims=claims_of(facts.found.get("auroc", {}), values),
        probes_sha256=sha256_of(run.folder / "probes"),
        seeds=tuple(sorted({int(info.seed) for info in images})),
    )


def claims_of(found: Mapping[str, float], values: Mapping[str, float], bound: float = CHANCE) -> tuple[Claim, ...]:
    """Two claims at most: of the cells that passed the gate, the largest AUROC and the best cell of the earliest step.

    Args:
        found: cells that passed the gate -> familywise p. values: cell -> AUROC, of all cells.

    Raises:
        ValueError: nothing passed: there is nothing to lock.
    """
    if not found:
        raise ValueError("no cell passed the gate, so there is nothing to lock: leave lock= out, or use more images")
    cells = sorted(map(Cell.parse, found), key=lambda cell: (-cell.timestep, -values[str(cell)]))
    best = max(found, key=lambda name: values[name])
    first = str(cells[0])
    sentences = {
        best: f"The mean hand token of {best} tells good from bad hands (AUROC {values[best]:.2f} on study A)."
    }
    sentences.setdefault(
        first,
        f"Already {first}, the earliest step that passed, tells good from bad hands (AUROC {values[first]:.2f} on A).",
    )
    return tuple(Claim(cell, sentence, bound) for cell, sentence in sentences.items())

"""The record of a choice: which labelled images extract.py captured, by which rule. train.py reads no others.

Activations of other images may lie in the same folder (an earlier choice, another match): they are not looked at. The
rule names the file, so a study can hold several choices side by side, and growing a study replaces its own record.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from badhands.study.journal import folder_lock, write_locked
from badhands.study.labels import LabelRecord

JUDGE = "judge"
"""The embedded judge's name as an annotator."""


@dataclass(frozen=True)
class LabelChoice:
    """Whose labels count, and which labelled images are captured."""

    source: Literal["judge", "painted"]
    annotator: str | None
    """None: the newest record of an image by a person counts."""
    balanced: bool = True
    """All bad images and as many good ones; else every image with hand tokens."""
    seed: int = 0
    """Of the choice of good images and of the sample of not-hand tokens."""
    match: tuple[str, ...] = ()
    """Axes of the prompts inside whose every value the choice is balanced too."""

    def __post_init__(self) -> None:
        if self.source not in ("judge", "painted"):
            raise ValueError(f"labels.source={self.source}: use judge or painted")
        if self.source == "judge" and not self.annotator:
            raise ValueError("labels.annotator is empty: name the judge's records, e.g. labels.annotator=judge")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "LabelChoice":
        """From the resolved `labels` group of the configuration."""
        match = options.get("match") or ()
        if isinstance(match, str):
            match = () if match == "none" else (match,)
        return cls(
            options["source"], options["annotator"], bool(options["balanced"]), int(options["seed"]), tuple(match)
        )

    @property
    def key(self) -> str:
        """Names the record's file: the source, and a hash of the whole rule."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"{self.source}-{digest[:8]}"

    def counting(self, records: Sequence[LabelRecord]) -> LabelRecord | None:
        """The record that counts of one image's newest records, one an annotator, in the order of the file."""
        if self.annotator is not None:
            records = [record for record in records if record.annotator == self.annotator]
        elif self.source == "painted":
            records = [record for record in records if record.annotator != JUDGE]
        return records[-1] if records else None


@dataclass(frozen=True)
class ChosenImage:
    """One image of a choice."""

    id: str
    verdict: str
    """good, bad or no_hand."""
    annotator: str
    label_digest: str
    stratum: str
    """The values of `labels.match`, joined; empty where nothing is matched."""


@dataclass(frozen=True)
class Choice:
    """What extract.py chose, and what became of it."""

    rule: LabelChoice
    images: tuple[ChosenImage, ...]
    refused: tuple[str, ...] = ()
    """Chosen images whose activations could not be taken: the replay made another picture, or they were not finite."""
    labelled: int = 0
    """Images with a label that could have been chosen."""
    bad: int = 0
    """Of these, with a bad hand: the model's own rate, which balancing hides."""
    conflicts: tuple[str, ...] = ()
    """Labelled images on which annotators disagree; the newest label was taken."""
    ids: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", tuple(image.id for image in self.images))

    @property
    def bad_rate(self) -> float | None:
        """Share of bad among the labelled images with a hand, before balancing; None if nothing is known."""
        return self.bad / self.labelled if self.labelled else None

    @property
    def strata(self) -> dict[str, str] | None:
        """Matching key of each image by id; None where nothing was matched."""
        return {image.id: image.stratum for image in self.images} if self.rule.match else None

    def write(self, root: Path) -> None:
        """Record it in a study folder. Refusals that another worker noted are kept while there is no such file."""
        path, choice = choice_path(root, self.rule), self
        path.parent.mkdir(parents=True, exist_ok=True)
        with folder_lock(path.parent):
            if path.exists():
                before = Choice.from_json(path.read_text())
                captured = {path.stem for path in (root / "activations").glob("*/*.safetensors")}
                others = ({*before.refused} & {*self.ids}) - captured
                choice = replace(self, refused=tuple(sorted({*self.refused, *others})))
                if choice == before:
                    return
            write_locked(path, choice.to_json())

    def to_json(self) -> bytes:
        whole = {k: v for k, v in asdict(self).items() if k != "ids"}
        return (json.dumps(whole, indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, text: str) -> "Choice":
        row = json.loads(text)
        rule = LabelChoice(**{**row["rule"], "match": tuple(row["rule"]["match"])})
        images = tuple(ChosenImage(**image) for image in row["images"])
        return cls(rule, images, tuple(row["refused"]), int(row["labelled"]), int(row["bad"]), tuple(row["conflicts"]))


def choice_path(root: Path, rule: LabelChoice) -> Path:
    return root / "choices" / f"{rule.key}.json"


def read_choice(root: Path, rule: LabelChoice, command: str = "python extract.py") -> Choice:
    """The recorded choice of a study folder by this rule.

    Args:
        command: the call of extract.py that would make it, for the error.

    Raises:
        ValueError: no choice by this rule is recorded, or the record cannot be read.
    """
    path = choice_path(root, rule)
    try:
        return Choice.from_json(path.read_text())
    except FileNotFoundError:
        others = [Choice.from_json(other.read_text()).rule for other in sorted(path.parent.glob("*.json"))]
        there = "; ".join(_told(other) for other in others)
        has = f"it has choices by other rules ({there}): set labels to one of these, or" if others else "so"
        raise ValueError(
            f"study {root.name} has no record of a choice by {_told(rule)}; {has} run `{command}`, "
            "which keeps what is there"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}): remove it and run `{command}`") from error


def _told(rule: LabelChoice) -> str:
    parts = [f"labels={rule.source}", f"labels.match=[{','.join(rule.match)}]", f"labels.seed={rule.seed}"]
    parts += [f"labels.annotator={rule.annotator}"] if rule.annotator else []
    return " ".join(parts if rule.balanced else [*parts, "labels.balanced=false"])

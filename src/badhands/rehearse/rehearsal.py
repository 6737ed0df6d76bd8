"""A study on random weights: the commands of a real one, timed, in a folder that no study is ever read from."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from badhands.diffusion.blocks import block_names
from badhands.diffusion.families import family_of
from badhands.diffusion.families.published import published_config
from badhands.diffusion.random_model import Scale, count_values, make_folder, published
from badhands.diffusion.spec import ModelSpec
from badhands.extraction.bill import duration, size
from badhands.extraction.job import HAND_SHARE
from badhands.home import ROOT
from badhands.rehearse.meter import Meter
from badhands.study.classes import BAD, GOOD, NOT_HAND
from badhands.study.labels import LabelRecord
from badhands.study.study import Study

NOTICE = "Random weights: nothing in this folder is a study. Written by python -m badhands.rehearse.\n"
LABELLED = 200
"""Images that the study labels and captures: 100 with bad hands, 100 with good ones."""
STUDY = "rehearsal"


@dataclass(frozen=True)
class Rehearsal:
    """One rehearsal, checked."""

    choice: str
    """Configuration of the model: conf/model/<choice>.yaml."""
    passed: tuple[str, ...]
    """Overrides that are passed on to the commands."""
    spec: ModelSpec
    blocks: tuple[str, ...]
    study_images: int
    """Images of the real study."""
    scale: Scale
    images: int
    keep: bool
    folder: Path
    """Stands for outputs/ while the commands run."""

    def __post_init__(self) -> None:
        if self.scale not in ("full", "tiny"):
            raise ValueError(f"scale={self.scale}: use full or tiny")
        if self.images < 8:
            raise ValueError(f"images={self.images}: give at least 8, four of good and four of bad hands")
        published(self.spec.path)
        room, need = shutil.disk_usage(_existing(self.folder)).free, self.model_bytes() * 1.05
        if need > room:
            raise ValueError(
                f"the model's folder takes {size(need)}, and {size(room)} are free: "
                "set BADHANDS_OUTPUTS to a larger disk"
            )

    @classmethod
    def of(cls, choice: str, passed: Sequence[str], options: Mapping[str, Any], outputs: Path) -> "Rehearsal":
        """From the resolved conf/rehearse.yaml.

        Raises:
            ValueError: an option that does not fit, a model whose configuration is not bundled, too little disk.
        """
        spec = ModelSpec.of(options["model"])
        wanted = options["capture"]["blocks"]
        blocks = () if wanted == "all" else tuple(wanted)
        folder = outputs / "rehearsals" / f"{choice}-{options['scale']}"
        return cls(choice, tuple(passed), spec, blocks, int(options["model"]["images"]), options["scale"],
                   int(options["images"]), bool(options["keep"]), folder)  # fmt: skip

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def model_bytes(self) -> int:
        """Bytes of the model's weights, counted without making one."""
        parts = published(self.spec.path).parts.values()
        return sum(count_values(part, self.scale) for part in parts) * self.spec.torch_dtype.itemsize

    def overrides(self) -> list[str]:
        """What every command is told."""
        tiny: list[str] = []
        if self.scale == "tiny":
            text = 512 if family_of({"_class_name": _transformer(self.spec)}).longest_text > 512 else 64
            tiny = ["model.height=64", "model.width=64", f"model.steps={min(self.spec.steps, 4)}",
                    f"model.max_sequence_length={min(text, self.spec.max_sequence_length)}"]  # fmt: skip
            tiny += ["model.dtype=float32"] if self.spec.torch_device().type == "cpu" else []
            if self.blocks:
                tiny.append(f"capture.blocks=[{','.join(self._tiny_blocks())}]")
        names = [
            f"model={self.choice}",
            f"model.path={self.model}",
            f"model.name={STUDY}_{self.choice}",
            "labels=painted",
        ]
        return [*names, f"study={STUDY}", "model.revision=null", *tiny, *self.passed]

    def _tiny_blocks(self) -> list[str]:
        """The chosen blocks, at the same share of the depth."""
        full = published_config(self.spec.path, "transformer")
        small = published(self.spec.path).parts["transformer"].sized("tiny")
        assert full is not None
        have, made = ([name.split(".")[0] for name in block_names(c)] for c in (full, {**full, **small}))
        kinds = ((name.split(".")[0], int(name.split(".")[1])) for name in self.blocks)
        return list(dict.fromkeys(f"{kind}.{i * made.count(kind) // have.count(kind)}" for kind, i in kinds))

    def run(self) -> str:
        """Make the model, run the commands one after the other, and say what they cost.

        Raises:
            ValueError: a command failed; its last lines are told.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        (self.folder / "NOT_A_STUDY.txt").write_text(NOTICE)
        device = self.spec.torch_device()
        meters: dict[str, Meter] = {}
        with Meter("model of random weights", device) as meters["made"]:
            make_folder(self.model, self.spec.path, self.scale, self.spec.torch_dtype, device)
        told = self.overrides()
        extract = [str(ROOT / "extract.py"), *told, f"images={self.images}", "prompts=hands"]
        meters["drawn"] = self._command("images", extract, device)
        study = Study(self.folder / "studies" / STUDY)
        self._paint(study)
        meters["captured"] = self._command("replay and capture", extract, device)
        train = [str(ROOT / "train.py"), *told, "debug=smoke", "data.images=null", "strips=0", "logger=none"]
        watch = ["-m", "badhands.watch", *(t for t in told if not t.startswith(("labels", "study", "capture"))),
                 "prompt=an open hand", "watch.previews=4", "watch.preview_scale=4"]  # fmt: skip
        failure: ValueError | None = None
        try:
            meters["trained"] = self._command("train.py", train, device)
            meters["watched"] = self._command("watch", watch, device)
        except ValueError as error:  # what is known by now is told all the same
            failure = error
        text, costs = self._tell(study, meters)
        (self.folder / "costs.json").write_text(json.dumps(costs, indent=1))
        (self.folder / "costs.txt").write_text(text + "\n")
        if failure is not None:
            print(text, flush=True)
            raise failure
        if not self.keep:
            for part in ("model", "studies", "runs", "watch", "logs"):
                shutil.rmtree(self.folder / part, ignore_errors=True)
            for log in self.folder.glob("*.log"):
                log.unlink()
        return text

    def _command(self, name: str, command: Sequence[str], device: torch.device) -> Meter:
        print(f"{name} ...", flush=True)
        environment = {**os.environ, "BADHANDS_OUTPUTS": str(self.folder), "HF_HUB_OFFLINE": "1"}
        log = self.folder / f"{name.replace(' ', '_')}.log"
        with Meter(name, device) as meter, log.open("w") as out:
            process = subprocess.Popen(
                [sys.executable, *command], env=environment, stdout=out, stderr=subprocess.STDOUT
            )
            try:
                meter.follow(process.pid)
                code = process.wait()
            except BaseException:
                process.terminate()
                raise
        if code:
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            told = [line for line in lines if "error: " in line or "Error: " in line] or lines or ["it said nothing"]
            raise ValueError(f"{name} failed ({told[-1].strip()}): see {log}")
        return meter

    def _paint(self, study: Study) -> None:
        """A random rectangle of hand tokens on every picture, good and bad by turns, of the size that hands have."""
        rng = np.random.default_rng(0)
        for number, entry in enumerate(study.manifest.entries):
            h, w = entry.grid
            side = max(2, round((HAND_SHARE["hands"] * h * w) ** 0.5))
            y, x = int(rng.integers(h - side)), int(rng.integers(w - side))
            classes = np.full((h, w), NOT_HAND, np.uint8)
            classes[y : y + side, x : x + side] = BAD if number % 2 else GOOD
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            study.labels.append(LabelRecord(entry.id, "random masks", stamp, 0.0, classes, note="rehearsal"))

    def _tell(self, study: Study, meters: Mapping[str, Meter]) -> tuple[str, dict[str, Any]]:
        pictures = sorted(study.root.glob("images/*.png"), key=lambda p: p.stat().st_mtime_ns)
        captures = sorted(study.root.glob("activations/*/*.safetensors"), key=lambda p: p.stat().st_mtime_ns)
        drawn, replayed = _each(pictures), _each(captures)
        kept = _bytes(captures) + _bytes(study.root.glob("previews/*/*.png"))
        disk = {"model": _bytes(self.model.rglob("*")), "picture": _bytes(pictures) / len(pictures),
                "capture": kept / max(1, len(captures))}  # fmt: skip
        labelled = min(LABELLED, self.study_images)
        loading = (
            meters["drawn"].seconds - drawn * len(pictures) + meters["captured"].seconds - replayed * len(captures)
        )
        seconds = loading + drawn * self.study_images + replayed * labelled
        whole = disk["model"] + disk["picture"] * self.study_images + disk["capture"] * labelled
        lines = [
            f"{self.spec.path}, {self.scale} scale, random weights, on {_machine(self.spec.torch_device())}",
            f"{len(captures)} of {len(pictures)} pictures were made again by another process, equal to the pixel",
            *(meter.line() for meter in meters.values()),
            f"a picture {drawn:.2f} s, its replay with capture {replayed:.2f} s",
        ]
        if self.scale == "full":
            lines += [
                f"A study of {self.study_images} images, {labelled} of them labelled and captured, would take about "
                f"{duration(seconds)} on this machine beside the labelling,",
                f"and {size(whole)} of disk: {size(disk['model'])} for the model, {size(disk['picture'])} a picture, "
                f"{size(disk['capture'])} a captured image.",
            ]
        else:
            lines.append(
                "Tiny scale: every command ran; times and sizes are not the model's. Use scale=full for those."
            )
        costs = {"model": self.spec.path, "scale": self.scale, "machine": _machine(self.spec.torch_device()),
                 "pictures": len(pictures), "replayed": len(captures), "seconds_picture": drawn,
                 "seconds_replay": replayed, "study_seconds": seconds, "study_bytes": whole, "bytes": disk,
                 "stages": {name: meter.record() for name, meter in meters.items()}}  # fmt: skip
        return "\n".join(lines), costs


def _transformer(spec: ModelSpec) -> str:
    return published(spec.path).parts["transformer"].cls


def _each(files: Sequence[Path]) -> float:
    """Seconds from one file to the next, mean: with several workers, of all of them together."""
    times = [path.stat().st_mtime_ns / 1e9 for path in files]
    return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0


def _bytes(paths: Any) -> float:
    return float(sum(path.stat().st_size for path in paths if path.is_file()))


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} CPU cores"


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path

"""The rehearsal of a study: the very commands, on random weights, in a folder that no study is read from."""

import contextlib
import json
import os
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict

from badhands.extraction.job import Job
from badhands.extraction.verdicts import Pause
from badhands.home import CONF_DIR
from badhands.rehearse import rehearsal
from badhands.rehearse.meter import Meter, tree_bytes
from badhands.rehearse.rehearsal import Rehearsal
from badhands.watch.__main__ import run as watch_command
from entry_points import load


def composed(name: str, *overrides: str) -> dict:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        options = OmegaConf.to_container(compose(name, list(overrides)), resolve=True)
    assert isinstance(options, dict)
    return {str(key): value for key, value in options.items()}


def of(outputs: Path, model: str, *overrides: str) -> Rehearsal:
    passed = [item for item in overrides if item.startswith(("model.", "capture"))]
    return Rehearsal.of(model, passed, composed("rehearse", f"model={model}", *overrides), outputs)


@pytest.fixture
def here(monkeypatch):
    """The commands in this process, told what their command lines say; the real ones take a start of Python each."""
    called = []

    def command(self, name, command, device):
        script, overrides = (command[1], command[2:]) if command[0] == "-m" else (Path(command[0]).stem, command[1:])
        called.append(script)
        for module in ("badhands.study.study", "badhands.watch.settings"):
            monkeypatch.setattr(f"{module}.OUTPUTS", self.folder)
        with Meter(name, device) as meter:
            if script == "extract":
                with contextlib.suppress(Pause):
                    load("extract").extract(Job.of(composed("extract", *overrides, "workers=1")))
            elif script == "train":
                with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
                    cfg = compose("train", [*overrides, "previews=false"], return_hydra_config=True)
                with open_dict(cfg):
                    cfg.hydra.runtime.output_dir = str(self.folder / "runs" / "one")
                    HydraConfig.instance().set_config(cfg)
                    del cfg["hydra"]
                load("train").main.__wrapped__(cfg)
            else:
                watch_command(composed("watch", *overrides), self.folder / "watch")
        return meter

    monkeypatch.setattr(Rehearsal, "_command", command)
    return called


def test_a_rehearsal_runs_the_commands_of_a_study_and_leaves_its_costs_alone(tmp_path, here):
    one = of(tmp_path, "z_image", "scale=tiny", "images=8", "model.steps=3")
    text = one.run()
    assert here == ["extract", "extract", "train", "badhands.watch"]
    assert "8 of 8 pictures were made again by another process, equal to the pixel" in text
    assert "Tiny scale" in text and "would take about" not in text
    left = {path.name for path in one.folder.iterdir()}
    assert left == {"NOT_A_STUDY.txt", "costs.json", "costs.txt"}  # no model, no study, no run
    assert not (tmp_path / "studies").exists() and not (tmp_path / "runs").exists()
    costs = json.loads((one.folder / "costs.json").read_text())
    assert costs["replayed"] == costs["pictures"] == 8 and costs["bytes"]["model"] > 100_000
    assert "model.steps=3" in one.overrides() and "model.name=rehearsal_z_image" in one.overrides()


def test_a_command_that_fails_is_named_and_what_was_measured_before_it_is_kept(tmp_path, here, monkeypatch, capsys):
    command = Rehearsal._command

    def failing(self, name, told, device):
        if name == "train.py":
            raise ValueError("train.py failed (error: no): see train.py.log")
        return command(self, name, told, device)

    monkeypatch.setattr(Rehearsal, "_command", failing)
    one = of(tmp_path, "flux_dev", "scale=tiny", "images=8", "model.steps=2")
    with pytest.raises(ValueError, match=r"train\.py failed"):
        one.run()
    assert "8 of 8 pictures" in capsys.readouterr().out
    assert set(json.loads((one.folder / "costs.json").read_text())["stages"]) == {"made", "drawn", "captured"}


def test_a_failed_command_tells_its_last_error(tmp_path):
    one = of(tmp_path, "flux_dev", "scale=tiny")
    one.folder.mkdir(parents=True)
    says = "print('loading'); print('error: no such thing'); print(); print('Set HYDRA_FULL_ERROR=1'); exit(1)"
    with pytest.raises(ValueError, match=r"stage failed \(error: no such thing\): see .*stage.log"):
        one._command("stage", ["-c", says], torch.device("cpu"))


def test_blocks_at_tiny_scale_lie_at_the_same_share_of_the_depth(tmp_path):
    flux = of(tmp_path, "flux_dev", "scale=tiny")  # 19 + 38 blocks become 2 + 3
    assert "capture.blocks=[double.1,single.0,single.1,single.2]" in flux.overrides()
    assert not any(item.startswith("capture.blocks") for item in of(tmp_path, "flux_dev").overrides())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["scale=huge"], "scale=huge: use full or tiny"),
        (["images=4"], "give at least 8"),
        (["model.path=somebody/model"], "the configuration of somebody/model is not bundled; there are those of black"),
    ],
)
def test_what_cannot_be_rehearsed(tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        of(tmp_path, "flux_dev", *overrides)


def test_too_little_disk_is_said_before_anything_is_made(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(0, 0, 10**9)
    monkeypatch.setattr(rehearsal.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match=r"the model's folder takes 35.* GB, and 1 GB are free"):
        of(tmp_path, "flux_dev")
    assert of(tmp_path, "flux_dev", "scale=tiny").model_bytes() < 10**6 and not list(tmp_path.iterdir())


def test_memory_of_a_stage_is_that_of_its_processes():
    with Meter("stage", torch.device("cpu"), every=0.01) as meter:
        held = torch.ones(60_000_000)
        while meter.host_bytes < held.nbytes:  # ends once it was seen
            pass
    assert meter.seconds > 0 and tree_bytes(os.getpid()) >= held.nbytes and tree_bytes(2**30) == 0

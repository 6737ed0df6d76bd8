"""Every preset composes with every other, and a debug preset's values win over any experiment's."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from badhands.home import CONF_DIR
from entry_points import load

EXPERIMENTS = sorted(path.stem for path in (CONF_DIR / "experiment").glob("*.yaml"))
DEBUGS = sorted(path.stem for path in (CONF_DIR / "debug").glob("*.yaml"))
PROBES = sorted(path.stem for path in (CONF_DIR / "probe").glob("*.yaml"))


def composed(*overrides: str, hydra: bool = False) -> DictConfig:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("train", overrides=list(overrides), return_hydra_config=hydra)


def test_the_presets_are_those_that_the_project_promises():
    promised = {"post", "dense_single8", "scale", "schnell_vs_dev", "local_vs_global", "label_noise", "steps"}
    assert promised <= set(EXPERIMENTS) and set(DEBUGS) == {"smoke", "overfit", "profile"}


@pytest.mark.parametrize("debug", DEBUGS)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_pair_composes_and_its_parts_can_be_built(experiment: str, debug: str):
    cfg = composed(f"experiment={experiment}", f"debug={debug}")
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict) and plain["question"] and plain["study"]
    instantiate(cfg.analysis, _convert_="all")
    instantiate(cfg.probe, _convert_="all")
    instantiate(cfg.logger)
    # A value of the debug preset holds whatever the experiment says: no experiment may undo a trial's thrift.
    for key, value in leaves(OmegaConf.load(CONF_DIR / "debug" / f"{debug}.yaml")):
        assert OmegaConf.select(cfg, key) == value, key


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_job_of_a_sweep_composes_too(experiment: str):
    cfg = composed(f"experiment={experiment}", hydra=True)
    for key, values in (cfg.hydra.sweeper.params or {}).items():
        for value in str(values).split(","):
            job = composed(f"experiment={experiment}", f"{key}={value}")
            OmegaConf.to_container(job, resolve=True)
            if "." in key:
                assert str(OmegaConf.select(job, key)) == value


def test_a_preset_is_a_lab_note():
    for name in EXPERIMENTS:
        text = (CONF_DIR / "experiment" / f"{name}.yaml").read_text()
        assert all(f"# {word}" in text for word in ("Question", "Command", "Cost", "Result")), name
        assert "to be run" not in text, name


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("debug", DEBUGS)
def test_every_probe_takes_every_debug_preset(probe: str, debug: str):
    cfg = composed(f"probe={probe}", f"debug={debug}")
    assert instantiate(cfg.probe, _convert_="all").kind == probe


def test_nothing_in_the_configuration_is_a_key_or_goes_online():
    text = OmegaConf.to_yaml(composed())
    assert "api_key" not in text.lower()
    assert composed().logger.mode == "offline"


def test_the_name_of_a_run_says_what_was_chosen():
    train = load("train")
    name = train.run_name({"model": "tiny_clean", "capture": "post", "probe": "lda"}, ["probe=lda", "data.images=50"])
    assert name == "tiny_clean post lda data.images=50"


def leaves(node: DictConfig, prefix: str = "") -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for key, value in node.items():
        name = f"{prefix}{key}"
        found += leaves(value, f"{name}.") if isinstance(value, DictConfig) else [(name, value)]
    return found


def test_runs_go_where_studies_are(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("BADHANDS_OUTPUTS", str(tmp_path))
    cfg = composed(hydra=True)
    HydraConfig.instance().set_config(cfg)
    assert cfg.hydra.run.dir.startswith(f"{tmp_path}/runs/") and cfg.hydra.job.chdir is False

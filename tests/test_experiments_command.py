"""python -m badhands.experiments: what does not fit is told before anything is drawn; two experiments end in a page."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from badhands.diffusion.fingerprint import folder_hash
from badhands.experiments.__main__ import run
from badhands.home import CONF_DIR
from badhands.watch import fresh
from test_watch_policies import FakeJudge
from tiny_pipeline import save_tiny
from watch_probes import make_probes


def options(*overrides):
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        plain = OmegaConf.to_container(compose("experiments", overrides=list(overrides)), resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def test_what_does_not_fit_is_told_at_once(tmp_path):
    for wrong, told in (
        ("only=sing", "only=sing: use some of .*abort, best"),
        ("fresh.seeds=1", r"fresh\.prompts >= 8 and fresh\.seeds >= 4"),
        ("steer.strengths=[1]", r"steer\.strengths must hold -1, 0 and 1"),
        ("model.height=128", "need a referee"),
    ):
        with pytest.raises(ValueError, match=told):
            run(options(wrong), tmp_path)
    assert not any(tmp_path.iterdir())


def test_two_experiments_end_in_a_page(tmp_path, monkeypatch):
    from dataclasses import replace

    from badhands.experiments import referee

    monkeypatch.setattr(referee, "find_judge", lambda spec: FakeJudge())
    model = save_tiny(tmp_path / "model", seed=2, scale=3.0)
    card = {"model": "tiny_hands", "generation": {"weights": folder_hash(model), "dtype": "float32",
                                                  "quantization": "none"}}  # fmt: skip
    probes = make_probes()
    replace(probes, card={**probes.card, **card}).save(tmp_path / "probes")
    given = options(f"model.path={model}", "model.steps=4", "model.dtype=float32", f"probes={tmp_path / 'probes'}",
                    "only=[abort,best]", "fresh.prompts=8", "fresh.seeds=4")  # fmt: skip
    out = tmp_path / "out"
    out.mkdir()
    text = run(given, out)
    assert "plain reseeding: 1.000" in text and "best of 4 after 2" in text
    assert {p.name for p in out.iterdir()} >= {"experiments.html", "abort.csv", "abort.png", "best.csv", "best.png"}
    assert run(given, out) == text  # from the table, nothing drawn
    assert fresh.FIRST_SEED == 1_000_000

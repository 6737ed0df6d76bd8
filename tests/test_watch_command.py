"""python -m badhands.watch: from the configuration to the files; what does not fit is told in one sentence."""

import json
import socket

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from badhands.diffusion.fingerprint import folder_hash
from badhands.home import CONF_DIR
from badhands.watch import settings
from badhands.watch.__main__ import run
from tiny_pipeline import save_tiny
from watch_probes import make_probes


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"), seed=2, scale=3.0)


def options(model, *overrides):
    tiny = [f"model.path={model}", "model.steps=4", "model.dtype=float32", "prompt=a hand"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("watch", overrides=[*tiny, *overrides])
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def save_probes(folder, model, **changed):
    probes = make_probes()
    generation = {"weights": folder_hash(model), "dtype": "float32", "quantization": "none", **changed}
    return type(probes)(
        probes.readouts, probes.directions, probes.midpoints, probes.steps, probes.thresholds, probes.random_directions,
        {**probes.card, "model": "tiny_hands", "generation": generation},
    ).save(folder)  # fmt: skip


def test_one_picture(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(settings, "OUTPUTS", tmp_path)
    with pytest.raises(ValueError, match=r"python extract\.py model=tiny_hands"):
        run(options(model), tmp_path / "none")
    save_probes(tmp_path / "runs" / "new" / "probes", model)
    run(options(model, "watch.serve=true", "watch.port=0", "watch.browser=false", "watch.linger=false"), tmp_path / "a")
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        "strip.png", "watch.gif", "scores.csv", "page.html", "image.png", "mask.png", "steps"}  # fmt: skip
    out = capsys.readouterr()
    assert "Watch at http://127.0.0.1:" in out.out and "step  2/4  t3   σ" in out.err and "single.2" in out.err
    table = pd.read_csv(tmp_path / "a" / "scores.csv")
    assert {"step", "timestep", "sigma", "block", "score", "tokens"} <= set(table.columns) and len(table) == 8


def test_aborting_takes_the_next_seed(model, tmp_path, capsys):
    probes = save_probes(tmp_path / "probes", model)
    card = json.loads((probes / "card.json").read_text())
    card["thresholds"] = {cell: {"0.05": 1e9} for cell in card["cells"]}
    (probes / "card.json").write_text(json.dumps(card))
    abort = [f"probes={probes}", "policy=abort", "policy.blocks=[single.2]", "tries=2"]
    with pytest.raises(ValueError, match="0 of 1 images came through in 2 tries"):
        run(options(model, *abort), tmp_path / "out")
    out = capsys.readouterr().out
    assert "seed 3: stopped after timestep 4" in out and "seed 4: stopped after timestep 4" in out
    assert (tmp_path / "out" / "seed4" / "strip.png").exists()  # what led to it is kept


def test_the_best_of_several_seeds(model, tmp_path, capsys):
    probes = save_probes(tmp_path / "probes", model)
    best = [f"probes={probes}", "policy=best", "policy.n=3", "policy.at=3"]
    run(options(model, *best, "watch.bad_rate=0.9"), tmp_path / "out")
    out, err = capsys.readouterr()
    assert "P(bad) assumes that 90% of hands are bad" in err
    assert out.count("finished") == 1 and out.count("stopped after timestep 3") == 2 and "2 evaluations" in out
    (folder,) = (tmp_path / "out").iterdir()
    assert {"image.png", "strip.png", "mask.png"} <= {path.name for path in folder.iterdir()}
    with pytest.raises(ValueError, match=r"policy\.n=9 seeds compete in one batch of model\.batch_size=8"):
        run(options(model, *best[:2], "policy.n=9"), tmp_path / "more")


def test_a_bad_hand_is_drawn_again(model, tmp_path, capsys):
    probes = save_probes(tmp_path / "probes", model)
    card = json.loads((probes / "card.json").read_text())
    (probes / "card.json").write_text(json.dumps({**card, "bad_rate": 0.999}))
    given = [f"probes={probes}", "policy=repair", "tries=1", "watch.blocks=[double.1]"]
    run(options(model, *given), tmp_path / "out")
    assert "seed 3: 2 repairs, score" in capsys.readouterr().out
    assert {"image.png", "repaired.png", "mask.png"} <= {path.name for path in (tmp_path / "out").iterdir()}
    run(options(model, *given, "policy.p_bad=0.9999999"), tmp_path / "fine")
    assert "nothing was drawn again" in capsys.readouterr().out and not (tmp_path / "fine" / "repaired.png").exists()


def test_refusals_come_early(model, tmp_path):
    probes = save_probes(tmp_path / "probes", model, weights="sha256:0123")
    with pytest.raises(ValueError, match=r"weights \(sha256:0123, here sha256:"):
        run(options(model, f"probes={probes}"), tmp_path / "out")
    good = save_probes(tmp_path / "good", model)
    with pytest.raises(ValueError, match=r"give policy\.miss"):
        run(options(model, f"probes={good}", "policy=abort", "policy.miss=null"), tmp_path / "out")
    with pytest.raises(ValueError, match=r"bad_rate=1\.5: give the share"):
        run(options(model, f"probes={good}", "watch.bad_rate=1.5"), tmp_path / "out")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"cannot serve at 127\.0\.0\.1:{port}"):
            run(options(model, "watch.serve=true", f"watch.port={port}"), tmp_path / "out")
    assert not (tmp_path / "out").exists()

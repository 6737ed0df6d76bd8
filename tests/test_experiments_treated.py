"""Erasure against its closed form and scikit-learn; steering and ablation end to end; many processes draw as one."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from badhands.cells import Cell
from badhands.diffusion.scene import Scene
from badhands.diffusion.spec import ModelSpec
from badhands.experiments.ablation import AblationStudy, HandTokens, erase_all, run_ablation, what_is_left
from badhands.experiments.bench import Bench
from badhands.experiments.erase import Erasure, Whitening, leace, nearest_step
from badhands.experiments.rows import Artist, fill_rows
from badhands.experiments.steer import Push, SteerStudy, run_steer, verdict
from badhands.experiments.training_run import TrainingRun, best_each_step
from badhands.experiments.treated import DrawTreated, effects, p_against
from badhands.stats.intervals import mean_interval
from badhands.study.activations import ActivationCache
from badhands.watch.directions import shared_subspace, steering
from badhands.watch.fresh import fresh_pairs
from synthetic_cache import write_cache
from test_watch_policies import SPEC, FakeJudge
from tiny_pipeline import make_pipeline, save_tiny
from watch_probes import make_probes


def concept(n=400, d=12, seed=0, gap=1.5):
    rng = np.random.default_rng(seed)
    z = rng.random(n) < 0.4
    mix = rng.normal(size=(d, d))
    x = rng.normal(size=(n, d)) @ mix + gap * z[:, None] * rng.normal(size=d) + 30 * (np.arange(d) == 2)
    return x, z, rng.uniform(0.5, 2, n)


def fresh_probe(x, z, weight):
    model = LogisticRegression(C=1e6, max_iter=5000).fit(x, z, sample_weight=weight)
    logit = model.decision_function(x)
    return roc_auc_score(z, logit, sample_weight=weight), logit.std()


def test_after_erasure_a_fresh_probe_is_at_chance_and_before_it_is_not():
    x, z, weight = concept()
    scaled = x / x.std(0)
    assert fresh_probe(scaled, z, weight)[0] > 0.9
    _, eraser = leace(x, z, weight)
    erased = eraser(torch.from_numpy(x).float()).double().numpy()
    area, spread = fresh_probe(erased / erased.std(0), z, weight)
    assert spread < 0.02 and abs(area - 0.5) < 0.08  # a constant is the best that a linear probe can do
    means = [np.average(erased[z == c], axis=0, weights=weight[z == c]) for c in (True, False)]
    assert np.abs(means[0] - means[1]).max() < 1e-4 * x.std()
    _, random = leace(x, np.random.default_rng(1).permutation(z), weight)
    other = random(torch.from_numpy(x).float()).double().numpy()
    assert fresh_probe(other / other.std(0), z, weight)[0] > 0.9  # erasing anything else does not help


def test_the_eraser_is_the_closed_form():
    """P = I - W^+ P_u W with W = Cov^(-1/2) from an eigendecomposition of its own; idempotent, mean kept."""
    x, z, weight = concept(seed=3)
    spread, eraser = leace(x, z, weight)
    share = weight / weight.sum()
    mean = share @ x
    cov = (x - mean).T @ np.diag(share) @ (x - mean)
    values, vectors = np.linalg.eigh(cov)
    w = vectors @ np.diag(values**-0.5) @ vectors.T
    u = w @ ((x - mean).T @ (share * (z - share @ z)))
    u /= np.linalg.norm(u)
    p = np.eye(len(mean)) - np.linalg.inv(w) @ np.outer(u, u) @ w
    assert np.allclose((x - mean) @ p.T + mean, eraser(torch.from_numpy(x).float()).numpy(), atol=1e-3)
    again = eraser(eraser(torch.from_numpy(x).float()))
    assert torch.allclose(again, eraser(torch.from_numpy(x).float()), atol=1e-3)
    assert np.linalg.matrix_rank(np.eye(len(mean)) - p) == 1
    # No other projection of rank 1 that erases as much moves the data less (in its own units).
    moved = ((x - mean) @ (np.eye(len(mean)) - p).T) @ np.linalg.inv(cov) @ ((x - mean) @ (np.eye(len(mean)) - p).T).T
    assert np.diag(moved) @ share == pytest.approx(1.0)
    with pytest.raises(ValueError, match="only one class"):
        leace(x, np.zeros(len(x), bool), weight)
    x[:, 1] = 5.0  # a channel without spread is left alone
    still = leace(x, z, weight)[1](torch.from_numpy(x).float())
    assert torch.isfinite(still).all() and torch.allclose(still[:, 1], torch.tensor(5.0), atol=1e-3)
    assert Whitening.of(x, weight).erasing(np.eye(12)[:3]).read.shape == (3, 12)
    assert spread.erasing(spread.mean[None]).write.shape == (1, 12)


def test_what_an_eraser_leaves_on_other_images(tmp_path):
    cells = (Cell("double.1", 20), Cell("single.2", 3))
    planted = write_cache(tmp_path, images=120, prompts=60, cells=cells, d=16, shift={cells[0]: 0.0, cells[1]: 2.0})
    tokens = HandTokens.of(ActivationCache(planted.folder))
    left = what_is_left(tokens, cells).set_index("cell")
    assert left.loc["single.2/t3", "before"] > 0.9 and left.loc["single.2/t3", "after"] < 0.75
    assert abs(left.loc["double.1/t20", "before"] - 0.5) < 0.2
    x = tokens.read(cells[1])
    _, eraser = leace(x, tokens.good[tokens.image], tokens.weight)
    means = tokens.means(eraser(torch.from_numpy(x).float()).double().numpy())
    assert np.abs(means[tokens.good].mean(0) - means[~tokens.good].mean(0)).max() < 1e-3  # image means coincide too


def bench(folder, pipe=None, **changed):
    return Bench(SPEC, make_probes(), FakeJudge(), "tiny_hands", folder, pipe=pipe, **changed)


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline(seed=2, scale=3.0)


def test_the_steering_study(pipe, tmp_path):
    study = SteerStudy(8, (-1, 0, 1), ("mean", "subspace"), random=1, cells=("single.2/t4", "single.2/t3"))
    text = run_steer(bench(tmp_path, pipe), study)
    assert "Strength 0 gives the identical pictures." in text and "subspace (a look beside)" in text
    path, each = tmp_path / "steer.jsonl", 1 + 1 + 2 * 2 + 1
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 8 * each and sum(row["equal"] for row in rows) == 16
    table = pd.read_csv(tmp_path / "steer.csv")
    assert set(table["kind"]) == {"mean", "subspace", "random"} and table["p_random"].notna().sum() == 2
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:23]) + '{"torn')
    assert run_steer(bench(tmp_path, pipe), study) == text
    kept = path.read_bytes()
    with pytest.raises(ValueError, match="another folder"):
        run_steer(bench(tmp_path, pipe), SteerStudy(8, (-1, 0, 1), random=2, cells=("single.2/t2",)))
    assert path.read_bytes() == kept


def test_directions_are_as_long_as_the_mean_difference():
    probes, cell = make_probes(), Cell("single.2", 3)
    mean = steering(probes, cell)
    assert torch.equal(mean, probes.directions[cell])
    for kind in ("ridge", "subspace"):
        assert float(steering(probes, cell, kind).norm()) == pytest.approx(float(mean.norm()), rel=1e-5)
    weight = probes.readouts["good", cell].weight
    assert float(torch.cosine_similarity(steering(probes, cell, "ridge"), weight, 0)) == pytest.approx(1.0)
    basis, inside = shared_subspace(probes), steering(probes, cell, "subspace")
    assert torch.allclose(basis @ basis.T, torch.eye(3), atol=1e-5)
    assert torch.allclose(basis.T @ (basis @ inside), inside, atol=1e-4) and float(inside @ mean) > 0
    with pytest.raises(ValueError, match=r"policy\.direction=up"):
        steering(probes, cell, "up")  # type: ignore[arg-type]


def table_of(shift, random=20, pairs=40, seed=0):
    """Rows as a study draws them, the logit moved by shift(kind, strength) and noise."""
    rng, rows = np.random.default_rng(seed), []
    doses = [("mean", a) for a in (-1.0, 0.0, 1.0)] + [(f"random {k}", 1.0) for k in range(random)]
    for pair in range(pairs):
        base = rng.normal()
        about = {"prompt": f"p{pair // 2}", "seed": pair, "relative_length": 0.1, "outside": 1.0, "inside": 1.0}
        for name, a in [("plain", 0.0), *doses]:
            logit = base + (shift(name, a) + 0.2 * rng.normal() if a else 0.0)
            rows.append({**about, "treatment": name if name == "plain" else f"{name} {a:+g}", "kind": name.split()[0],
                         "strength": a, "logit": logit, "verdict": "good" if logit > 0 else "bad",
                         "equal": not a})  # fmt: skip
    frame = pd.DataFrame(rows)
    table = effects(frame)
    table["p_random"] = [p_against(s, table.loc[table["kind"] == "random", "shift"].to_numpy()) for s in table["shift"]]
    return frame, table


def test_an_effect_needs_all_four_criteria():
    frame, table = table_of(lambda name, a: a if name == "mean" else 0.0)
    assert verdict(frame, table, "mean", "mean")["effect"]
    row = table[table["treatment"] == "mean +1"].iloc[0]
    assert 0.8 < row["shift_lo"] < row["shift"] < row["shift_hi"] < 1.2 and row["bad"] < 0 < row["better"]
    for nothing in (lambda _n, _a: 0.0, lambda _n, _a: 1.0, lambda name, a: -a if name == "mean" else 0.0):
        frame, table = table_of(nothing)
        assert not verdict(frame, table, "mean", "mean")["effect"]


def test_intervals_of_means_cover_when_rows_come_in_clusters():
    rng, hit = np.random.default_rng(0), 0
    cluster = np.repeat(np.arange(30), 4)
    for _ in range(400):
        values = rng.normal(size=30)[cluster] + rng.normal(size=120)
        _, lo, hi = mean_interval(values, cluster)
        hit += lo < 0 < hi
    assert 0.92 <= hit / 400 <= 0.98


def planted_run(folder, cells):
    """A training run's folder whose study is synthetic: headline table, and the cache behind `cache()`."""
    (folder / "tables").mkdir(parents=True)
    rows = [{"block": c.block, "timestep": c.timestep, "metric": "auroc_p_family", "value": 0.01} for c in cells]
    rows.append({"block": "double.1", "timestep": 4, "metric": "auroc_p_family", "value": 0.4})
    rows.append({"block": "x0", "timestep": 3, "metric": "auroc_p_family", "value": 0.001})
    pd.DataFrame(rows).to_csv(folder / "tables" / "headline.csv", index=False)


def test_the_ablation(pipe, tmp_path, monkeypatch):
    cells = (Cell("single.2", 3), Cell("single.2", 2))
    planted = write_cache(tmp_path / "cache", images=40, cells=cells, d=128)
    planted_run(tmp_path / "run", cells)
    monkeypatch.setattr(TrainingRun, "cache", lambda _self: ActivationCache(planted.folder))
    here = bench(tmp_path / "out", pipe, run=TrainingRun(tmp_path / "run"))
    assert here.run.known_cells() == cells
    study = AblationStudy(pairs=8, random=2)
    text = run_ablation(here, study)
    assert "verdict erased at 2 cells" in text and run_ablation(here, study) == text
    table = pd.read_csv(tmp_path / "out" / "ablation.csv")
    assert list(table["treatment"]) == ["verdict", "random 0", "random 1"] and (table["relative_length"] > 0).all()
    with pytest.raises(ValueError, match="another folder"):
        run_ablation(here, AblationStudy(pairs=8, random=1))
    with pytest.raises(ValueError, match=r"20 random directions for single\.2/t3: ablation\.random=21"):
        erase_all(HandTokens.of(here.run.cache()), here.probes, cells, AblationStudy(random=21))


def test_erasing_acts_at_every_step_and_leaves_nothing_of_the_verdict_there(pipe):
    probes = make_probes(hand_bias=30.0)  # every token is hand
    cell, d = Cell("single.2", 3), 128
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(600, d)), rng.random(600) < 0.5
    _, eraser = leace(x + z[:, None] * rng.normal(size=d), z, np.ones(600))
    scene, seen = Scene(SPEC, ["a hand"], pipe), {}
    pairs = fresh_pairs("tiny_hands", 2)
    scene.embed(pair.prompt for pair in pairs)
    plain = scene.latents(pairs)
    erasure = Erasure("verdict", {cell: eraser})
    with erasure.applied(Artist(scene, probes, None)) as lengths:
        from badhands.diffusion.taps import Taps

        def after(moment, _block, tokens):
            seen[moment.timestep] = (tokens.float() - torch.from_numpy(eraser.mean)) @ torch.from_numpy(eraser.read).T

        with Taps(scene.pipe, ["single.2"], on_block=after):
            changed = scene.latents(pairs)
    assert [t for t, read in seen.items() if float(read.abs().max()) < 1e-3] == [3]
    assert not torch.equal(changed, plain) and len(lengths) == 1
    assert [nearest_step(probes, sigma) for sigma in (1.0, probes.steps[2][1] + 0.01, 0.0)] == [4, 2, 1]
    assert pickle.loads(pickle.dumps(erasure)).erasers[cell].read.shape == (1, d)


def test_without_its_run_or_cells_the_question_is_refused(tmp_path):
    for run, told in ((TrainingRun(), "stand alone"), (TrainingRun(tmp_path), "has no tables/headline.csv")):
        with pytest.raises(ValueError, match=told):
            SteerStudy(pairs=8).at(bench(tmp_path, run=run))
    with pytest.raises(ValueError, match="run only="):
        TrainingRun(tmp_path).cache()
    planted_run(tmp_path / "none", ())
    with pytest.raises(ValueError, match="no cell knows the verdict"):
        TrainingRun(tmp_path / "none").known_cells()
    assert TrainingRun(tmp_path).matched() == ()
    some = (Cell("single.2", 3), Cell("single.3", 3), Cell("single.2", 8))
    scores = {"single.3/t3": {"image_auroc": 0.8}, "single.2/t3": {"image_auroc": 0.7}}
    assert best_each_step(some, scores) == (Cell("single.2", 8), Cell("single.3", 3))


def test_several_processes_draw_what_one_does(tmp_path):
    model = save_tiny(tmp_path / "model", seed=2, scale=3.0)
    spec = ModelSpec(**{**vars(SPEC), "path": str(model)})
    pairs, probes = fresh_pairs("tiny_hands", 6), make_probes()
    draw = DrawTreated([Push("mean", 1.0, (Cell("single.2", 3),), "hand")])
    tables = []
    for workers in (1, 2):
        scene = Scene(spec, [pair.prompt for pair in pairs])
        path = tmp_path / f"{workers}.jsonl"
        artist = Artist(scene, probes, FakeJudge())
        tables.append(fill_rows(path, pairs, artist, draw, {}, "pairs", each=2, batch=2, workers=workers))
        assert [json.loads(line) for line in path.read_text().splitlines()] == tables[-1]
    assert tables[0] == tables[1] and [row["seed"] for row in tables[0][::2]] == [pair.seed for pair in pairs]

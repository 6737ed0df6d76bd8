"""The bank against scikit-learn, against itself cell by cell, and against what was planted."""

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from badhands.probes.bank import train_bank
from badhands.probes.nested import fit_platt
from badhands.probes.objective import Problems, logistic_loss
from badhands.probes.settings import ProbeSettings
from badhands.probes.solver import minimise
from badhands.probes.training_rows import good_rows, hand_rows
from badhands.stats.folds import image_labels, make_folds
from badhands.study.activations import ActivationCache
from synthetic_cache import write_cache

IMAGES, WIDTH = 50, 24


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    planted = write_cache(folder, images=IMAGES, prompts=25, d=WIDTH, mixed=0.2, shift=1.8, seed=3)
    cache = ActivationCache(folder)
    label = image_labels(cache.tokens.image, cache.tokens.label, IMAGES)
    folds = make_folds(label, [m["prompt_id"] for m in cache.meta], 5)
    return planted, cache, good_rows(cache.tokens.image, cache.tokens.label, folds)


def fit(study, kind, penalties, cells=None, training=None, **more):
    planted, cache, good = study
    training = training or good
    settings = ProbeSettings(kind=kind, penalties=penalties, **more)
    return train_bank(cells or planted.cells[:3], WIDTH, training, settings, lambda c: cache.read(c, training.rows))


def by_sklearn(model, x, training, k):
    """Logits on fold k of a model fitted on the others, with the same weights and standardisation."""
    train = training.fold != k
    weight = training.weights([training.outer(k)])[:, 0].double().numpy()[train]
    scaler = StandardScaler().fit(x[train], sample_weight=weight)
    model.fit(scaler.transform(x[train]), training.y[train], sample_weight=weight)
    return model.decision_function(scaler.transform(x[~train])), model.coef_[0] / scaler.scale_


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-8), ("float32", 1e-5), ("bfloat16", 1e-4)])
@pytest.mark.parametrize("penalty", [0.01, 1.0])
def test_logistic_equals_scikit_learn_on_the_same_folds(study, penalty, precision, tolerance):
    planted, cache, training = study
    bank = fit(study, "logistic", (penalty,), precision=precision, tolerance=tolerance)
    for i, cell in enumerate(planted.cells[:3]):
        x = cache.read(cell, training.rows).double().numpy()
        expected = np.empty(len(training.y))
        for k in range(5):
            held_out = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=5000)
            expected[training.fold == k], weight = by_sklearn(held_out, x, training, k)
            if precision == "float64":
                assert np.allclose(bank.weight[i, k], weight, atol=1e-4)
        ours = bank.logit[i].double().numpy()
        exact = 1e-4 if precision == "float64" else 0.002 if precision == "float32" else 0.02
        assert np.abs(1 / (1 + np.exp(-ours)) - 1 / (1 + np.exp(-expected))).max() < exact
        assert abs(roc_auc_score(training.y, ours) - roc_auc_score(training.y, expected)) < 0.002


def test_the_nested_choice_is_the_one_a_loop_would_make(study):
    """Ten inner models for twenty (outer, validation) pairs: the shared pairs give the loop's penalties."""
    planted, cache, training = study
    grid = (0.003, 0.1, 3.0)
    cell = planted.cells[1]
    bank = fit(study, "logistic", grid, cells=[cell], precision="float64", tolerance=1e-8)
    x = cache.read(cell, training.rows).double().numpy()
    good = np.array([training.y[training.image == i].min() for i in range(IMAGES)])
    for outer in range(5):
        areas = np.zeros(3)
        for validation in set(range(5)) - {outer}:
            train, held = (training.fold != outer) & (training.fold != validation), training.fold == validation
            weight = training.weights([training.pair(outer, validation)])[:, 0].double().numpy()
            scaler = StandardScaler().fit(x[train], sample_weight=weight[train])
            images = np.unique(training.image[held])
            for g, penalty in enumerate(grid):
                model = LogisticRegression(C=1 / penalty, tol=1e-9, max_iter=5000)
                model.fit(scaler.transform(x[train]), training.y[train], sample_weight=weight[train])
                z = model.decision_function(scaler.transform(x[held]))
                areas[g] += roc_auc_score(good[images], [z[training.image[held] == i].mean() for i in images])
        best = max(range(3), key=lambda g: (round(areas[g], 9), g))
        assert bank.penalty[0, outer].item() == pytest.approx(grid[best])


@pytest.mark.parametrize("kind", ["logistic", "mass_mean", "lda", "svm", "mlp"])
def test_all_cells_together_equal_each_alone(study, kind):
    penalties = (0.1, 0.5)
    together = fit(study, kind, penalties, epochs=3)
    for i, cell in enumerate(together.cells):
        alone = fit(study, kind, penalties, cells=[cell], epochs=3)
        for name in ("weight", "bias", "platt", "logit", "probability"):
            assert torch.equal(getattr(together, name)[i], getattr(alone, name)[0]), name


def test_the_number_of_threads_changes_nothing(study):
    before = torch.get_num_threads()
    try:
        banks = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            banks.append(fit(study, "logistic", (0.1, 0.5)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(banks[0].logit, banks[1].logit) and torch.equal(banks[0].weight, banks[1].weight)


def test_problems_solved_side_by_side_equal_each_alone():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 12, generator=generator, dtype=torch.float64)
    y = (x[:, :1] + torch.randn(300, 1, generator=generator) > 0).double()
    weight = torch.rand(300, 6, generator=generator, dtype=torch.float64) * (
        torch.rand(300, 6, generator=generator) > 0.3
    )
    weight /= weight.sum(0)
    penalty = torch.tensor([1e-3, 1e-2, 0.1, 1, 10, 100], dtype=torch.float64)
    mean, scale = torch.randn(12, 6, dtype=torch.float64) * 0.1, torch.ones(12, 6, dtype=torch.float64) * 1.3
    problems = Problems(x, y, weight, penalty, mean, scale)
    both = minimise(problems, tolerance=1e-9)
    assert both.converged(1e-9)
    zero = minimise(problems, tolerance=1e-9, max_passes=1)
    assert torch.equal(zero.weight, torch.zeros(12, 6, dtype=torch.float64))
    for k in range(6):
        one = slice(k, k + 1)
        alone = minimise(Problems(x, y, weight[:, one], penalty[one], mean[:, one], scale[:, one]), tolerance=1e-9)
        assert torch.allclose(both.weight[:, k], alone.weight[:, 0], atol=1e-6)


@pytest.mark.parametrize(("kind", "value", "factor"), [("logistic", np.log(2), 0.25), ("svm", 1.0, 0.5)])
def test_the_first_gradient_is_a_difference_of_class_means(study, kind, value, factor):
    from badhands.probes.objective import hinge_loss
    from badhands.probes.standardise import standardise

    planted, cache, training = study
    cell = standardise(cache.read(planted.cells[0], training.rows), training, "float64")
    sets = [training.outer(0), training.full]
    loss = hinge_loss if kind == "svm" else logistic_loss
    losses, slope = loss(torch.zeros(len(training.y), 2).double(), torch.from_numpy(training.y)[:, None].double())
    weight = training.weights(sets).double()
    u = (cell.x[:, :, None] - cell.mean[None, :, sets]) / cell.scale[None, :, sets]
    gradient = torch.einsum("ndk,nk->dk", u, slope * weight)
    expected = factor * (cell.class_means[0] - cell.class_means[1])[:, sets] / cell.scale[:, sets]
    assert torch.allclose(gradient, expected, atol=1e-6)
    assert torch.allclose((losses * weight).sum(0), torch.full((2,), value).double(), atol=1e-6)
    assert torch.allclose((slope * weight).sum(0), torch.zeros(2).double(), atol=1e-6)


def test_the_svm_is_scikit_learns_hinge_up_to_its_rounded_corner(study):
    planted, cache, training = study
    bank = fit(study, "svm", (1.0,), precision="float64", tolerance=1e-6, max_passes=500)
    x = cache.read(planted.cells[0], training.rows).double().numpy()
    expected = np.empty(len(training.y))
    for k in range(5):
        svc = LinearSVC(C=1.0, loss="hinge", intercept_scaling=10, max_iter=100_000)
        expected[training.fold == k], _ = by_sklearn(svc, x, training, k)
    assert abs(roc_auc_score(training.y, bank.logit[0]) - roc_auc_score(training.y, expected)) < 0.01
    assert np.corrcoef(bank.logit[0], expected)[0, 1] > 0.98


def test_lda_without_weights_is_scikit_learns():
    """One token an image: all weights are equal, and shrinkage towards the scaled identity is scikit-learn's."""
    from badhands.probes.kinds import fit as fit_problems
    from badhands.probes.standardise import standardise

    rng = np.random.default_rng(0)
    n = 200
    label = np.where(np.arange(n) % 2 == 0, 1, 2).astype(np.uint8)
    x = rng.normal(size=(n, 8)) @ rng.normal(size=(8, 8)) + (label == 1)[:, None] * rng.normal(size=8)
    training = good_rows(np.arange(n, dtype=np.int32), label, np.arange(n) // 2 % 4)
    cell = standardise(torch.from_numpy(x), training, "float64")
    done = fit_problems(cell, training, [training.full], [0.3], ProbeSettings(kind="lda", penalties=(0.3,)))
    scaled = (x - x.mean(0)) / x.std(0)
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3, priors=[0.5, 0.5]).fit(scaled, training.y)
    ours = done.logits(cell.x.float())[:, 0].numpy()
    assert np.corrcoef(ours, reference.decision_function(scaled))[0, 1] > 0.999


@pytest.mark.parametrize("kind", ["logistic", "mass_mean", "lda", "svm", "mlp"])
def test_a_planted_direction_is_found_out_of_fold(study, kind):
    bank = fit(study, kind, (0.1, 0.5), epochs=10)
    assert (bank.token_auroc > 0.6).all()
    planted = study[0]
    for i, cell in enumerate(bank.cells):
        if kind == "mass_mean":
            direction = torch.from_numpy(planted.shift[cell]).float()
            scale = study[1].read(cell, study[2].rows).float().std(0)
            cosine = torch.nn.functional.cosine_similarity(bank.weight[i, -1] * scale, direction / scale, dim=0)
            assert cosine > 0.6


def test_the_hand_is_found_and_its_probability_is_that_of_the_whole_picture(study):
    planted, cache, good = study
    training = hand_rows(cache.tokens.image, cache.tokens.label, good.folds, np.full(IMAGES, 256))
    bank = fit(study, "logistic", (0.1,), training=training, cells=planted.cells[:1])
    assert bank.token_auroc[0] > 0.95
    p, weight = bank.probability[0].double().numpy(), training.measure
    assert weight.sum() == pytest.approx(256 * IMAGES)
    assert (p * weight).sum() / weight.sum() == pytest.approx((training.y * weight).sum() / weight.sum(), rel=0.1)


def test_calibration_makes_probabilities_mean_what_they_say(tmp_path):
    planted = write_cache(tmp_path, images=60, prompts=60, d=48, shift=1.2, tokens=(20, 30))
    cache = ActivationCache(tmp_path)
    label = image_labels(cache.tokens.image, cache.tokens.label, 60)
    training = good_rows(cache.tokens.image, cache.tokens.label, make_folds(label, range(60), 5))
    careless = ProbeSettings(penalties=(1e-5,))  # hardly any penalty: overconfident before calibration
    bank = train_bank(planted.cells[:3], 48, training, careless, lambda cell: cache.read(cell, training.rows))
    for p, logit in zip(bank.probability.double().numpy(), bank.logit.double(), strict=True):
        raw = torch.sigmoid(logit).numpy()
        assert ((p - training.y) ** 2).mean() < ((raw - training.y) ** 2).mean()
        assert np.abs(p - 0.5).mean() < np.abs(raw - 0.5).mean()


def test_platt_scaling_undoes_a_known_distortion():
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(20_000, generator=generator).double() * 2
    y = (torch.rand(20_000, generator=generator) < torch.sigmoid(true)).double()
    slope, offset = fit_platt(3 * true + 5, y, torch.ones(20_000))
    assert slope == pytest.approx(1 / 3, rel=0.05)
    assert offset == pytest.approx(-5 / 3, rel=0.05)
    assert fit_platt(-true, y, torch.ones(20_000))[0] == 0  # never turns a probe round


def test_weights_apply_to_raw_activations(study):
    planted, cache, training = study
    bank = fit(study, "mlp", (0.1,), epochs=3)
    linear = fit(study, "logistic", (0.1,))
    for each in (bank, linear):
        for k in (0, 3):
            rows = training.rows[training.fold == k]
            raw = cache.read(planted.cells[1], rows)
            expected = each.logit[1][torch.from_numpy(training.fold == k)]
            assert torch.allclose(each.readout(planted.cells[1], k).logit(raw), expected, atol=2e-3)


def test_an_unknown_probe_is_refused():
    with pytest.raises(ValueError, match=r"unknown probe 'ridge': use probe=logistic \| mass_mean"):
        ProbeSettings(kind="ridge")


def test_activations_that_are_not_finite_are_refused(study):
    planted, cache, training = study

    def read(cell):
        x = cache.read(cell, training.rows)
        x[5, 3] = float("inf")
        return x

    with pytest.raises(ValueError, match="not finite"):
        train_bank(planted.cells[:1], WIDTH, training, ProbeSettings(), read)

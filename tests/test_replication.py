"""A lock freezes cells, probes and sentences; a replication tests each once on images that share nothing with them."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from badhands.cells import Cell
from badhands.probes.artifact import Probes
from badhands.probes.readout import Readout
from badhands.replicate.lock import Claim, Lock, claims_of, probes_folder, sha256_of
from badhands.replicate.outcomes import frozen_auroc, image_scores, record, replicate, told, write_outcomes
from badhands.report.findings.facts import Facts
from badhands.report.findings.probed import replication
from badhands.study.study import Study
from synthetic_study import FINGERPRINT, write_study

PLANTED, EMPTY = Cell("single.0", 12), Cell("single.1", 12)
RULE = {"source": "judge", "annotator": "judge", "balanced": True, "seed": 0, "match": []}


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> tuple[Study, dict[Cell, np.ndarray]]:
    root = tmp_path_factory.mktemp("b") / "b"
    known = write_study(root, images=80, prompts=40, cells=[PLANTED, EMPTY], d=16, shift={PLANTED: 1.5}, kinds=False)
    return Study(root), known.shift


@pytest.fixture
def lock(tmp_path: Path, study) -> Path:
    """Frozen on a study A that is not needed here: its probe of the first cell looks along the planted direction."""
    weight = {PLANTED: torch.from_numpy(study[1][PLANTED]).float(), EMPTY: torch.ones(16)}
    readouts = {(head, cell): Readout(weight[cell], 0.0) for head in ("good", "image") for cell in weight}
    probes = Probes(readouts, {}, {}, {12: (8, 0.6, 20)}, card={"fingerprint": FINGERPRINT})
    folder = probes.save(tmp_path / "run" / "probes")
    claims = (Claim(str(PLANTED), "planted"), Claim(str(EMPTY), "empty"))
    made = Lock("a", str(tmp_path / "run"), "abc", RULE, claims, sha256_of(folder), seeds=(100, 101))
    return made.save(tmp_path / "locks" / "a.json", folder)


def test_what_is_there_is_confirmed_and_what_is_not_is_not(lock, study):
    outcomes = replicate(*Lock.load(lock), study[0])
    assert [outcome.confirmed for outcome in outcomes] == [True, False]
    assert outcomes[0].lo < outcomes[0].value < outcomes[0].hi and outcomes[0].n == 80
    text = told(Lock.load(lock)[0], outcomes, study[0])
    assert "CONFIRMED" in text.splitlines()[1] and "not confirmed" in text.splitlines()[2]


def test_shuffled_labels_confirm_nothing(lock, tmp_path):
    write_study(
        tmp_path / "c", images=80, prompts=40, cells=[PLANTED, EMPTY], d=16, shift={PLANTED: 1.5}, kinds=False,
        shuffled=True,
    )  # fmt: skip
    assert not any(outcome.confirmed for outcome in replicate(*Lock.load(lock), Study(tmp_path / "c")))


def test_the_score_is_the_frozen_logit_of_the_mean_hand_token(lock, study):
    _, probes = Lock.load(lock)
    cache = study[0].activations()
    rows = (cache.tokens.image == 3) & (cache.tokens.label != 3)
    mean = cache.read(PLANTED, rows).float().mean(0)
    expected = float(probes.logit("image", PLANTED, mean))
    assert image_scores(probes, cache, PLANTED)[3] == pytest.approx(expected, rel=1e-4)


def test_a_lock_is_written_once_and_does_not_bend(lock, study):
    made, _ = Lock.load(lock)
    with pytest.raises(ValueError, match="written once"):
        made.save(lock, probes_folder(lock))
    weights = probes_folder(lock) / "probes.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="not those that were frozen"):
        Lock.load(lock)
    with pytest.raises(ValueError, match="there is no such file"):
        Lock.load(lock.with_name("none.json"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seeds": (3, 100)}, "shares 1 seeds with study a"),
        ({"labels": {**RULE, "match": ["style"]}}, "no record of a choice"),
    ],
)
def test_studies_that_cannot_replicate_are_refused(lock, study, change, sentence):
    made, probes = Lock.load(lock)
    with pytest.raises(ValueError, match=sentence):
        replicate(replace(made, **change), probes, study[0])
    other = replace(probes, card={"fingerprint": "f00"})
    with pytest.raises(ValueError, match="same model and settings"):
        replicate(made, other, study[0])


def test_claims_are_the_best_cell_and_the_earliest_that_passed_the_gate():
    values = {"single.0/t20": 0.6, "single.1/t20": 0.62, "single.1/t3": 0.9, "single.0/t3": 0.95}
    claims = claims_of({"single.0/t20": 0.02, "single.1/t20": 0.01, "single.1/t3": 0.001}, values)
    assert [claim.cell for claim in claims] == ["single.1/t3", "single.1/t20"], "single.0/t3 did not pass"
    assert len(claims_of({"single.1/t3": 0.01}, values)) == 1
    with pytest.raises(ValueError, match="nothing to lock"):
        claims_of({}, values)
    with pytest.raises(ValueError, match="is an AUROC"):
        Claim("single.1/t3", "x", above=0.2)


def test_frozen_scores_at_chance_are_confirmed_in_one_of_forty_however_few_the_prompts():
    """With one prompt the spread over prompts is 0 whatever the scores: half of all claims would be confirmed."""
    rng = np.random.default_rng(0)
    for prompts, each in ((1, 40), (2, 20), (5, 10), (20, 4)):
        confirmed = 0
        for _ in range(300):
            prompt = np.repeat(np.arange(prompts), each)
            good = np.concatenate([rng.permuted(np.arange(each) % 2 == 0) for _ in range(prompts)])
            score = rng.normal(size=len(good)) + 0.5 * rng.normal(size=prompts)[prompt]
            confirmed += frozen_auroc(score, good, [str(p) for p in prompt])[1] > 0.5
        assert confirmed <= 300 * 0.025 + 3 * np.sqrt(300 * 0.025 * 0.975), (prompts, confirmed)


def test_a_lock_remembers_every_study_that_it_was_tested_on(lock, study, tmp_path):
    """One confirmation among several tests is a matter of luck, and the report says how many there were."""
    made, probes = Lock.load(lock)
    outcomes = replicate(made, probes, study[0])
    assert record(lock, study[0], outcomes) == record(lock, study[0], outcomes) == ("b",)
    assert "several" not in told(made, outcomes, study[0], ("b",))
    again = Study(shutil.copytree(study[0].root, tmp_path / "c"))
    tested = record(lock, again, outcomes)
    assert tested == ("b", "c") and "tested on 2 studies (b, c)" in told(made, outcomes, again, tested)
    table = tmp_path / "tables" / "replication.csv"
    table.parent.mkdir()
    for names, claims in ((("b",), True), (("b", "c"), False)):
        write_outcomes([outcome for outcome in outcomes if outcome.confirmed], table, names)
        finding = replication(Facts.of(tmp_path))
        assert finding is not None and finding.claims is claims
        assert ("Tested once" in finding.sentence) is claims


def test_labels_that_changed_since_extraction_replicate_nothing(lock, study, tmp_path):
    other = Study(shutil.copytree(study[0].root, tmp_path / "b"))
    first = next(iter(other.labels.latest().values()))
    other.labels.append(replace(first, classes=np.where(first.classes == 3, 0, first.classes)))
    with pytest.raises(ValueError, match="1 labels of study b have changed since extraction"):
        replicate(*Lock.load(lock), other)

"""The judge: its bars on held-out renders, what it refuses, and that it says the same twice."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from badhands.tiny_hands.anatomy import sample_hands
from badhands.tiny_hands.attributes import VOCABULARY, caption
from badhands.tiny_hands.judge import FOLDER, Judge
from badhands.tiny_hands.judge_figures import HELD_OUT_SEED, LABELS, against_eye, by_eye, confusion, of_renders
from badhands.tiny_hands.judge_model import JudgeNet, save_judge
from badhands.tiny_hands.making.judge_batches import SHARES, counts_as_change, make_batch
from badhands.tiny_hands.making.judge_settings import JudgeTraining, settings
from badhands.tiny_hands.making.judge_threshold import threshold
from badhands.tiny_hands.making.judge_training import losses, train
from badhands.tiny_hands.making.malformations import displace, finger_points, malform_anatomy, repose, weather
from badhands.tiny_hands.obeys import RULED, attributes_rule, obedience
from badhands.tiny_hands.renderer import render, to_uint8, token_mask


@pytest.fixture(scope="module")
def judge():
    return Judge.load()


@pytest.fixture(scope="module")
def held_out(judge):
    """Hands, their renders as drawn and as uint8, and the verdicts."""
    hands = sample_hands(240, HELD_OUT_SEED + 1, bad_share=0.5)
    drawn = render(hands)
    images = to_uint8(drawn.images).numpy()
    return hands, drawn, images, judge.judge(images)


def test_bars_on_held_out_renders(held_out):
    hands, drawn, _, verdicts = held_out
    found = of_renders(verdicts, hands, drawn)
    assert found["right, of those decided"] >= 0.985
    assert found["abstained"] <= 0.10
    assert found["token mask IoU"] >= 0.9
    assert found["fingers counted right"] >= 0.97
    assert found["local or global right"] >= 0.95


def test_shuffled_truth_fails_the_bars(held_out):
    hands, drawn, _, verdicts = held_out
    order = torch.randperm(len(hands), generator=torch.Generator().manual_seed(0))
    found = of_renders(verdicts, replace(hands, error=hands.error[order]), drawn)
    assert found["right, of those decided"] < 0.65


def test_agrees_with_the_eye_on_generated_hands(judge):
    pictures, table = by_eye()
    assert len(pictures) == len(table) >= 200
    found = against_eye(judge.judge(pictures[::2]), table["eye"].to_numpy()[::2])
    assert found["right, of those decided"] >= 0.95
    assert found["abstained, of all"] <= 0.15
    assert abs(found["right, good by eye"] - found["right, bad by eye"]) <= 0.08


def test_abstentions_have_a_row_of_their_own(judge):
    pictures, table = by_eye()
    verdicts = judge.judge(pictures[:40])
    counts = confusion(verdicts, table["eye"].to_numpy()[:40])
    assert list(counts.index) == ["good", "bad", "abstain", "no_hand"] and counts.to_numpy().sum() == 40
    assert counts.loc["abstain"].sum() == sum(v.verdict == "abstain" for v in verdicts)


def test_the_threshold_is_the_largest_that_keeps_the_share(judge):
    images = by_eye()[0][:60]

    def share(value: float) -> float:
        tried = Judge(judge.net, value, judge.slope, judge.offset)
        return float(np.mean([v.verdict == "abstain" for v in tried.judge(images)]))

    found = threshold(judge, images, 0.12)
    assert 0.55 < found < 0.99 and share(found) <= 0.12 < share(round(found + 0.01, 2))


def test_verdicts_hold_together(judge, held_out):
    for verdict in held_out[3]:
        assert (verdict.kind is not None) == (verdict.verdict == "bad")
        assert 0.5 <= verdict.confidence <= 1
        assert verdict.pixel_mask.shape == (64, 64) and verdict.pixel_mask.dtype == bool
        assert np.array_equal(verdict.token_mask, token_mask(torch.from_numpy(verdict.pixel_mask)[None])[0].numpy())
        if verdict.verdict in ("good", "bad"):
            assert verdict.confidence >= judge.threshold
        if verdict.verdict == "good":
            assert verdict.fingers == 5


def test_says_the_same_twice_and_of_mirror_images(judge, held_out):
    images = held_out[2][:16]
    one, two, mirrored = judge.judge(images), judge.judge(images), judge.judge(images[:, :, ::-1].copy())
    for a, b, c in zip(one, two, mirrored, strict=True):
        assert a.confidence == b.confidence and np.array_equal(a.pixel_mask, b.pixel_mask)
        assert a.confidence == pytest.approx(c.confidence, abs=1e-3) and a.fingers == c.fingers


def test_pictures_without_a_hand(judge):
    flat = np.full((2, 64, 64, 3), 150, np.uint8)
    noise = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3)).astype(np.uint8)
    assert {v.verdict for v in judge.judge(np.concatenate([flat, noise]))} <= {"no_hand", "abstain", "bad"}
    assert {v.verdict for v in judge.judge(flat)} == {"no_hand"}


def test_threshold_trades_answers_for_certainty(judge, held_out):
    images = held_out[2][:40]
    shares = [
        np.mean([v.verdict == "abstain" for v in Judge(judge.net, t, judge.slope, judge.offset).judge(images)])
        for t in (0.5, 0.9, 0.9999)
    ]
    assert shares == sorted(shares) and shares[0] < shares[2]


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 32, 32, 3), np.uint8),
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((1, 64, 64, 3), np.float32),
        np.zeros((1, 3, 64, 64), np.uint8),
    ],
)
def test_refuses_other_images_by_name(judge, images):
    with pytest.raises(ValueError, match="64, 64, 3"):
        judge.judge(images)


def test_refuses_a_missing_or_damaged_folder(tmp_path):
    with pytest.raises(ValueError, match=r"judge\.safetensors is missing.*git checkout"):
        Judge.load(tmp_path)
    shutil.copytree(FOLDER, tmp_path / "judge")
    weights = tmp_path / "judge" / "judge.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"damaged.*git checkout"):
        Judge.load(tmp_path / "judge")


def test_weights_and_card_are_small():
    assert sum(f.stat().st_size for f in FOLDER.iterdir() if not f.name.startswith(LABELS.split(".")[0])) <= 2e6


def test_batches_hold_what_they_promise():
    batch = make_batch(120, seed=5)
    assert len(batch) == 120 and batch.images.shape == (120, 3, 64, 64)
    assert batch.images.min() >= 0 and batch.images.max() <= 1
    good = (batch.good == 1) & (batch.good_weight > 0)
    assert good.float().mean() == pytest.approx(SHARES["good"], abs=0.02)
    assert not batch.wrong[good].any() and (batch.fingers[good] == 5).all()
    malformed = (batch.good == 0) & (batch.wrong_weight > 0) & (batch.good_weight > 0)
    assert (batch.wrong[malformed].flatten(1).sum(1) > 5).float().mean() > 0.95
    again = make_batch(120, seed=5)
    assert torch.equal(batch.images, again.images)
    assert not torch.equal(batch.images, make_batch(120, seed=6).images)


def test_malformations_change_the_hand_and_weather_does_not_move_it():
    hands = sample_hands(64, 3)
    clean = render(hands)
    g = torch.Generator().manual_seed(0)
    malformed, _ = malform_anatomy(hands, g)
    assert counts_as_change(render(malformed).images, clean.images).mean() > 0.8
    assert counts_as_change(render(repose(hands, g)).images, clean.images).mean() > 0.9
    aged, moved = weather(clean.images, clean.masks, g)
    overlap = (moved & clean.masks).sum() / (moved | clean.masks).sum()
    assert overlap > 0.9
    assert (aged - clean.images).abs().mean() < 0.08
    still = displace(clean.images, torch.zeros(64, 2, 64, 64))
    assert torch.allclose(still, clean.images, atol=1e-5)


def test_finger_points_lie_on_the_hand():
    hands = sample_hands(200, 4)
    masks = render(hands).masks
    points = finger_points(hands, torch.Generator().manual_seed(0)).round().long().clamp(0, 63)
    on = masks[torch.arange(200), points[:, 1], points[:, 0]]
    assert on.float().mean() > 0.97


def test_learns_something_before_it_is_trusted(tmp_path):
    found = train(JudgeTraining(out=str(tmp_path / "judge"), steps=1, batch=32, log_every=10), check=40)
    assert {"raw_accuracy", "raw_iou", "synthetic_bad"} <= set(found)
    again = Judge.load(tmp_path / "judge")
    assert len(again.judge(np.zeros((3, 64, 64, 3), np.uint8))) == 3
    torch.manual_seed(0)
    net, batch = JudgeNet(), make_batch(32, seed=1)
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3)
    first = torch.stack(list(losses(net(batch.images), batch).values())).sum()
    for _ in range(5):
        optimiser.zero_grad()
        loss = torch.stack(list(losses(net(batch.images), batch).values())).sum()
        loss.backward()
        optimiser.step()
    assert loss < 0.85 * first
    save_judge(net, tmp_path / "kept", {"threshold": 0.8})
    kept = Judge.load(tmp_path / "kept")
    assert kept.threshold == 0.8


def test_settings_name_what_they_know():
    assert settings(["steps=1e3", "out=x", "seconds=5"]) == JudgeTraining(steps=1000, out="x", seconds=5.0)
    with pytest.raises(ValueError, match="name=value"):
        settings(["speed=3"])
    with pytest.raises(ValueError, match="at least 1 step"):
        settings(["steps=0"])


def test_rules_read_background_skin_and_direction_from_renders():
    hands = sample_hands(400, 71)
    images = to_uint8(render(hands).images).numpy()
    words = [{name: options[code] for (name, options), code in zip(VOCABULARY.items(), row, strict=True)} for row in
             hands.codes.tolist()]  # fmt: skip
    obeyed = obedience(images, [caption(w) for w in words])
    assert all(obeyed[name].mean() >= 0.99 for name in RULED)
    turned = obedience(np.rot90(images, axes=(1, 2)).copy(), [caption(w) for w in words])
    assert turned["direction"].mean() < 0.01 and turned["background"].mean() >= 0.99
    with pytest.raises(ValueError, match="one prompt for each"):
        obedience(images, [])
    with pytest.raises(ValueError, match="64, 64, 3"):
        attributes_rule(images[:, :32])

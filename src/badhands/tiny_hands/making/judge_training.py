# The annotations of torch and diffusers deny their own documented use, so these checks are off here.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
"""Trains the judge: `python -m badhands.tiny_hands.making.judge_training device=cuda seconds=90 out=outputs/judge`.

Everything is drawn on the fly on the device. `vae=FOLDER` sends pictures through the embedded model's own VAE,
`redraw=FOLDER,FOLDER` adds renders redrawn by embedded models, `strong=FOLDER weak=FOLDER` also what two of them draw,
one long and one briefly trained on good hands,
`labelled=FILE.npz` adds generated images judged by eye (uint8 `images` [n, 64, 64, 3], int `verdict` [n]: 0 bad,
1 good, 2 no hand), `start=FOLDER` goes on from a trained judge.
"""

import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from badhands.tiny_hands.anatomy import sample_hands
from badhands.tiny_hands.judge_model import Answers, JudgeNet, load_judge, save_judge
from badhands.tiny_hands.making.judge_batches import Batch, RoundTrip, cat, make_batch
from badhands.tiny_hands.making.judge_corpus import Labelled, build_corpus, turned, vae_round_trip
from badhands.tiny_hands.making.judge_settings import JudgeTraining, settings
from badhands.tiny_hands.renderer import render


def losses(answers: Answers, batch: Batch) -> dict[str, Tensor]:
    """Each term is a weighted mean over what is known."""

    def binary(logit: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return (F.binary_cross_entropy_with_logits(logit, target, reduction="none") * weight).sum() / (
            weight.sum() + 1e-6
        )

    counts = F.cross_entropy(answers.fingers, batch.fingers, reduction="none")
    wrong_weight = batch.wrong_weight[:, None, None] * (1 + 3 * batch.wrong)
    return {
        "good": binary(answers.good, batch.good, batch.good_weight),
        "mask": binary(answers.mask, batch.mask, batch.mask_weight),
        "wrong": 0.5 * binary(answers.wrong, batch.wrong, wrong_weight),
        "kind": 0.3 * binary(answers.is_global, batch.is_global, batch.global_weight),
        "fingers": 0.3 * (counts * batch.fingers_weight).sum() / (batch.fingers_weight.sum() + 1e-6),
        "hand": 0.2 * binary(answers.hand, batch.hand, batch.hand_weight),
    }


@torch.no_grad()
def held_out(net: JudgeNet, device: str, round_trip: RoundTrip | None, n: int = 2000) -> dict[str, float]:
    """Quick figures without abstention or turning; seeds that training never uses."""
    hands = sample_hands(n, 987_654_321, bad_share=0.5).to(device)
    drawn = render(hands)
    ways = {"raw": drawn.images}
    if round_trip is not None:
        ways["vae"] = round_trip(drawn.images)
    found = {}
    for name, images in ways.items():
        said = [net(chunk) for chunk in images.split(500)]
        good = torch.cat([s.good for s in said])
        found[f"{name}_accuracy"] = float(((good > 0) == hands.is_good).float().mean())
        fingers = torch.cat([s.fingers for s in said]).argmax(1)
        known = hands.is_good | hands.is_global
        found[f"{name}_fingers"] = float((fingers == hands.digits)[known].float().mean())
        mask = torch.cat([s.mask for s in said]) > 0
        overlap = (mask & drawn.masks).flatten(1).sum(1) / (mask | drawn.masks).flatten(1).sum(1).clamp(min=1)
        found[f"{name}_iou"] = float(overlap.mean())
    synthetic = make_batch(n, 123_456_789, device, round_trip)
    good = torch.cat([net(chunk).good for chunk in synthetic.images.split(500)])
    known = synthetic.good_weight > 0
    for name, chosen in (("good", synthetic.good == 1), ("bad", synthetic.good == 0)):
        right = ((good > 0).float() == synthetic.good)[known & chosen]
        found[f"synthetic_{name}"] = float(right.float().mean())
    return found


class _Batches:
    """Batch after batch: of the corpus, or drawn anew; a share of them judged by eye."""

    def __init__(self, config: JudgeTraining) -> None:
        self.config = config
        self.round_trip = vae_round_trip(config.vae, config.device) if config.vae else None
        self.labelled = Labelled(config.labelled, config.device) if config.labelled else None
        self.by_eye = round(config.batch * config.labelled_share) if self.labelled else 0
        self.g = torch.Generator(config.device).manual_seed(config.seed)
        self.bank = build_corpus(config, self.round_trip) if config.corpus else None

    def draw(self, step: int) -> Batch:
        n, seed = self.config.batch - self.by_eye, self.config.seed * 10_000_000 + step
        if self.bank is not None:
            batch = turned(self.bank, n, step)
        else:
            batch = make_batch(n, seed, self.config.device, self.round_trip)
        return cat([batch, self.labelled.draw(self.by_eye, self.g)]) if self.labelled else batch


def train(config: JudgeTraining, check: int = 2000) -> dict[str, float]:
    """Trains, saves to `config.out` and returns the figures on `check` held-out renders."""
    torch.manual_seed(config.seed)
    device = config.device
    net = load_judge(config.start)[0].to(device).train() if config.start else JudgeNet().to(device)
    average = JudgeNet(net.shape).to(device).eval()
    average.load_state_dict(net.state_dict())
    if torch.device(device).type == "cuda":
        net = net.to(memory_format=torch.channels_last)
        torch.set_num_threads(4)
    optimiser = torch.optim.AdamW(net.parameters(), config.learning_rate, weight_decay=0.02)
    started = time.time()
    batches = _Batches(config)
    print(f"corpus of {len(batches.bank or ())} after {time.time() - started:.0f} s", flush=True)
    with ThreadPoolExecutor(1) as ahead:
        coming: Future[Batch] = ahead.submit(batches.draw, 0)
        for step in range(config.steps):
            batch = coming.result()
            coming = ahead.submit(batches.draw, step + 1)
            done = max(step / config.steps, (time.time() - started) / config.seconds)
            if done >= 1:
                break
            warm = 1.0 if config.start else min(1.0, (step + 1) / 200)
            rate = config.learning_rate * warm * (0.5 + 0.5 * np.cos(np.pi * done))
            told = _learn(net, optimiser, batch, rate)
            decay = min(0.998, (1 + step) / (10 + step))
            with torch.no_grad():
                for slow, fast in zip(average.parameters(), net.parameters(), strict=True):
                    slow.lerp_(fast, 1 - decay)
            if step % config.log_every == 0 or step == config.steps - 1:
                print(f"step {step} {time.time() - started:.0f} s rate {rate:.1e} {told()}", flush=True)
    found = held_out(average, device, batches.round_trip, check)
    save_judge(average, config.out, {"steps": step, "batch": config.batch, "seed": config.seed, "threshold": 0.9})
    for name, value in found.items():
        print(f"{name} {value:.4f}")
    return found


def _learn(net: JudgeNet, optimiser: torch.optim.Optimizer, batch: Batch, rate: float) -> Callable[[], str]:
    """One step of the optimiser; returns what tells its losses, which waits for the device."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    kind = batch.images.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
        answers = net(batch.images)
    answers = Answers(**{f.name: getattr(answers, f.name).float() for f in fields(Answers)})
    terms = losses(answers, batch)
    optimiser.zero_grad()
    torch.stack(list(terms.values())).sum().backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimiser.step()

    def told() -> str:
        known = batch.good_weight > 0
        right = float(((answers.good > 0).float() == batch.good)[known].float().mean())
        return " ".join([f"right {right:.3f}", *(f"{name} {float(term.detach()):.3f}" for name, term in terms.items())])

    return told


if __name__ == "__main__":
    train(settings(sys.argv[1:]))

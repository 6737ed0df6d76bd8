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
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from badhands.tiny_hands.anatomy import sample_hands
from badhands.tiny_hands.judge import FOLDER, Judge
from badhands.tiny_hands.judge_model import Answers, JudgeNet, load_judge, save_judge
from badhands.tiny_hands.making.judge_batches import Batch, RoundTrip, cat, make_batch, truths
from badhands.tiny_hands.making.malformations import weather
from badhands.tiny_hands.making.redrawn import Redrawer
from badhands.tiny_hands.renderer import SIZE, render, to_uint8


@dataclass(frozen=True)
class JudgeTraining:
    """Settings of one training."""

    out: str = "outputs/judge"
    device: str = "cpu"
    steps: int = 4000
    seconds: float = 1e9
    """Stops after this time if the steps are not done; the learning rate follows whichever ends first."""
    batch: int = 512
    learning_rate: float = 2e-3
    seed: int = 1
    vae: str = ""
    labelled: str = ""
    labelled_share: float = 0.2
    start: str = ""
    corpus: int = 0
    """Pictures drawn once, before training, and turned and mirrored from then on; 0 draws every batch anew."""
    redraw: str = ""
    """Folders of pipelines that redraw renders in their own hand, with commas between; they need a `corpus`."""
    strong: str = ""
    """A pipeline whose hands are nearly all good; it also redraws renders. It needs `weak`, and a `corpus`."""
    weak: str = ""
    """A pipeline whose hands are nearly all bad."""
    log_every: int = 100

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 32:
            raise ValueError(f"steps={self.steps}, batch={self.batch}: at least 1 step and a batch of 32 are needed")
        if bool(self.strong) != bool(self.weak) or (self.strong and not self.corpus):
            raise ValueError("strong= and weak= go together, and need corpus=: give all three, or none")
        if self.redraw and not self.corpus:
            raise ValueError("redraw= needs corpus=: redrawing is too slow for batches drawn anew")


def settings(arguments: list[str]) -> JudgeTraining:
    """From `name=value` words.

    Raises:
        ValueError: a word has another form, or an unknown name.
    """
    types = {f.name: type(f.default) for f in fields(JudgeTraining)}
    values = {}
    for word in arguments:
        name, equals, value = word.partition("=")
        if not equals or name not in types:
            raise ValueError(f"unknown setting {word!r}: use name=value with one of {', '.join(types)}")
        values[name] = types[name](float(value)) if types[name] is int else types[name](value)
    return JudgeTraining(**values)


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


def vae_round_trip(folder: str, device: str, noise: float = 0.25) -> RoundTrip:
    """float [n, 3, 64, 64] -> the same through encoder and decoder, with up to `noise` (of unit latents) added between.

    Raises:
        ValueError: there is no VAE in `folder`.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"no VAE in {folder}: give the folder that holds its config.json")
    vae = AutoencoderKL.from_pretrained(folder).to(device).eval()
    scale = vae.config.scaling_factor

    @torch.no_grad()
    def round_trip(images: Tensor) -> Tensor:
        parts = []
        for chunk in images.split(128):
            with torch.autocast(chunk.device.type, torch.bfloat16, enabled=chunk.device.type == "cuda"):
                latent = vae.encode(chunk * 2 - 1).latent_dist.mode()
                # Squared, so that most latents stay nearly clean.
                amount = torch.rand(len(chunk), 1, 1, 1, device=chunk.device).square() * noise
                parts.append(vae.decode(latent + torch.randn_like(latent) * amount / scale).sample.float())
        return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)

    return round_trip


class Labelled:
    """Generated images judged by eye, turned and mirrored at random: neither changes a verdict."""

    def __init__(self, file: str, device: str) -> None:
        data = np.load(file)
        self.images = torch.from_numpy(data["images"]).to(device).permute(0, 3, 1, 2).float() / 255
        self.verdict = torch.from_numpy(data["verdict"].astype(np.int64)).to(device)

    def draw(self, n: int, g: torch.Generator) -> Batch:
        # Good and bad equally often, whatever their numbers.
        by_class = torch.bincount(self.verdict, minlength=3).float()
        weight = 1 / by_class.clamp(min=1)[self.verdict]
        pick = torch.multinomial(weight * (self.verdict < 2) + 1e-6, n, replacement=True, generator=g)
        images, verdict = self.images[pick], self.verdict[pick]
        parts = [torch.rot90(part, k, (2, 3)) for k, part in enumerate(images.chunk(4))]
        images = torch.cat([part.flip(3) if int(torch.randint(2, (1,))) else part for part in parts])
        soft, _ = weather(images, torch.zeros(n, SIZE, SIZE, device=images.device).bool(), g, 0.4)
        images = torch.where((torch.rand(n, 1, 1, 1, generator=g, device=g.device) < 0.5), soft, images)
        empty = torch.zeros(n, SIZE, SIZE, device=images.device)
        return truths(
            images,
            empty,
            mask_weight=empty,
            good=(verdict == 1).float(),
            good_weight=(verdict < 2).float() * 1.5,
            hand=(verdict < 2).float(),
        )


@torch.no_grad()
def build_corpus(config: JudgeTraining, round_trip: RoundTrip | None) -> Batch:
    """`config.corpus` pictures in large chunks, with redrawn ones among them; images as uint8, truths as float16."""
    size = min(4096, config.corpus)
    chunks = []
    models = [Redrawer(folder, config.device) for folder in (config.strong, config.weak) if folder]
    redrawers = models[:1] + [Redrawer(folder, config.device) for folder in config.redraw.split(",") if folder]
    before = Judge.load(config.start or FOLDER)
    before.net.to(config.device)
    g = torch.Generator(config.device).manual_seed(config.seed)
    for i in range(-(-config.corpus // size)):
        seed = config.seed * 10_000_000 + i
        chunks.append(_packed(make_batch(size, seed, config.device, round_trip)))
        share = size // (2 * max(1, len(redrawers)))
        chunks += [_packed(redrawn_batch(model, share, seed + k, g)) for k, model in enumerate(redrawers)]
        if models:
            chunks += [_packed(drawn_batch(model, before, size // 8, seed, g, model is models[0])) for model in models]
    return cat(chunks)


def redrawn_batch(model: Redrawer, n: int, seed: int, g: torch.Generator) -> Batch:
    """Hands redrawn from little noise keep their verdict; the more noise, the less a planted error can be relied on."""
    made = []
    kinds = ((15, 0.3, 1), (13, 0.3, 1), (12, 0.3, 1), (11, 0.3, 0.5), (9, 0.0, 0))
    for part, (step, share, bad_weight) in enumerate(kinds):
        hands = sample_hands(n // len(kinds), 50_000_000 + 7 * seed + part, share).to(model.device)
        good = hands.is_good.float()
        made.append(
            truths(
                model.redraw(hands, step, g),
                render(hands).masks.float(),
                good=good,
                good_weight=torch.where(hands.is_good, 1.0, float(bad_weight)),
                wrong_weight=good,
                fingers=hands.digits,
                fingers_weight=good,
            )
        )
    return cat(made)


def drawn_batch(model: Redrawer, before: Judge, n: int, seed: int, g: torch.Generator, good: bool) -> Batch:
    """Hands drawn from noise by a model whose hands are nearly all `good`, or nearly all bad.

    Those of which the judge `before` is sure of the contrary teach nothing; those it abstains on teach most.
    """
    hands = sample_hands(n, 60_000_000 + 11 * seed + good).to(model.device)
    images = model.redraw(hands, 0, g)
    said = [v.verdict for v in before.judge(to_uint8(images).cpu().numpy())]
    known = torch.tensor([word not in ("bad" if good else "good", "no_hand") for word in said], device=images.device)
    empty, verdict = torch.zeros_like(images[:, 0]), torch.full((n,), float(good), device=images.device)
    five = torch.full((n,), 5, device=images.device)
    return truths(
        images,
        empty,
        mask_weight=empty,
        good=verdict,
        good_weight=known.float(),
        wrong_weight=known * verdict,
        fingers=five,
        fingers_weight=known * verdict,
    )


def _packed(batch: Batch) -> Batch:
    images = (batch.images.clamp(0, 1) * 255).round().to(torch.uint8)
    maps = {name: getattr(batch, name).half() for name in ("mask", "mask_weight", "wrong")}
    return replace(batch, images=images, **maps)


def turned(bank: Batch, n: int, step: int) -> Batch:
    """`n` random pictures of the bank, all turned and mirrored alike, with a little grain."""
    g = torch.Generator().manual_seed(step)
    pick = torch.randint(len(bank), (n,), generator=g).to(bank.images.device)
    quarter, mirror = int(torch.randint(4, (1,), generator=g)), bool(torch.randint(2, (1,), generator=g))

    def turn(x: Tensor) -> Tensor:
        x = torch.rot90(x, quarter, (-2, -1))
        return x.flip(-1) if mirror else x

    chosen = Batch(**{f.name: getattr(bank, f.name)[pick] for f in fields(Batch)})
    maps = {name: turn(getattr(chosen, name).float()) for name in ("mask", "mask_weight", "wrong")}
    images = turn(chosen.images).float() / 255
    images = images + torch.randn_like(images) * 0.015 * torch.rand(n, 1, 1, 1, device=images.device)
    return replace(chosen, images=images.clamp(0, 1), **maps)


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


def train(config: JudgeTraining, check: int = 2000) -> dict[str, float]:
    """Trains, saves to `config.out` and returns the figures on `check` held-out renders."""
    torch.manual_seed(config.seed)
    device = config.device
    on_gpu = torch.device(device).type == "cuda"
    net = load_judge(config.start)[0].to(device).train() if config.start else JudgeNet().to(device)
    average = JudgeNet(net.shape).to(device).eval()
    average.load_state_dict(net.state_dict())
    if on_gpu:
        net = net.to(memory_format=torch.channels_last)
        torch.set_num_threads(4)
    round_trip = vae_round_trip(config.vae, device) if config.vae else None
    labelled = Labelled(config.labelled, device) if config.labelled else None
    by_eye = round(config.batch * config.labelled_share) if labelled else 0
    g = torch.Generator(device).manual_seed(config.seed)
    optimiser = torch.optim.AdamW(net.parameters(), config.learning_rate, weight_decay=0.02)
    started, done, seen = time.time(), 0.0, dict[str, float]()

    bank = build_corpus(config, round_trip) if config.corpus else None
    print(f"corpus of {len(bank) if bank else 0} after {time.time() - started:.0f} s", flush=True)

    def prepare(step: int) -> Batch:
        if bank is not None:
            batch = turned(bank, config.batch - by_eye, step)
            return cat([batch, labelled.draw(by_eye, g)]) if labelled else batch
        batch = make_batch(config.batch - by_eye, config.seed * 10_000_000 + step, device, round_trip)
        return cat([batch, labelled.draw(by_eye, g)]) if labelled else batch

    with ThreadPoolExecutor(1) as ahead:
        coming: Future[Batch] = ahead.submit(prepare, 0)
        for step in range(config.steps):
            batch = coming.result()
            coming = ahead.submit(prepare, step + 1)
            done = max(step / config.steps, (time.time() - started) / config.seconds)
            if done >= 1:
                break
            warm = 1.0 if config.start else min(1.0, (step + 1) / 200)
            rate = config.learning_rate * warm * (0.5 + 0.5 * np.cos(np.pi * done))
            for group in optimiser.param_groups:
                group["lr"] = rate
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=on_gpu):
                answers = net(batch.images)
            answers = Answers(**{f.name: getattr(answers, f.name).float() for f in fields(Answers)})
            terms = losses(answers, batch)
            loss = torch.stack(list(terms.values())).sum()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            decay = min(0.998, (1 + step) / (10 + step))
            with torch.no_grad():
                for slow, fast in zip(average.parameters(), net.parameters(), strict=True):
                    slow.lerp_(fast, 1 - decay)
            if step % config.log_every == 0 or step == config.steps - 1:
                seen = {name: float(term.detach()) for name, term in terms.items()}
                known = batch.good_weight > 0
                right = float(((answers.good > 0).float() == batch.good)[known].float().mean())
                words = " ".join(f"{name} {value:.3f}" for name, value in seen.items())
                print(
                    f"step {step} {time.time() - started:.0f} s rate {rate:.1e} right {right:.3f} {words}", flush=True
                )
    found = held_out(average, device, round_trip, check)
    save_judge(average, config.out, {"steps": step, "batch": config.batch, "seed": config.seed, "threshold": 0.9})
    for name, value in found.items():
        print(f"{name} {value:.4f}")
    return found


if __name__ == "__main__":
    train(settings(sys.argv[1:]))

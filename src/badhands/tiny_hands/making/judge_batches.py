"""Training batches for the judge: sound hands, every kind of wrong one, pictures without a hand, and their truth."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from badhands.tiny_hands.anatomy import Hands, sample_hands
from badhands.tiny_hands.making.malformations import (
    ANATOMY,
    MISCOUNTED,
    gaussian,
    malform_anatomy,
    mix_poses,
    repose,
    smooth_noise,
    weather,
    wreck,
)
from badhands.tiny_hands.renderer import SIZE, Rendered, render

SHARES = {"good": 0.42, "planted": 0.18, "anatomy": 0.14, "wrecked": 0.12, "mixed": 0.06, "both": 0.03, "none": 0.05}
CHANGED, CHANGED_PIXELS = 0.15, 14
"""A malformation counts when at least so many pixels differ by more than this from the sound hand; else: no label."""

RoundTrip = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Batch:
    """`n` images and what is true of them; a weight of 0 means that nobody knows."""

    images: Tensor
    """float [n, 3, 64, 64] in 0..1."""
    mask: Tensor
    """float [n, 64, 64] in {0, 1}."""
    mask_weight: Tensor
    """float [n, 64, 64]."""
    wrong: Tensor
    """float [n, 64, 64]: where the picture differs from the sound hand."""
    wrong_weight: Tensor
    """float [n]."""
    good: Tensor
    good_weight: Tensor
    is_global: Tensor
    global_weight: Tensor
    hand: Tensor
    hand_weight: Tensor
    fingers: Tensor
    """int64 [n]; the others are float [n]."""
    fingers_weight: Tensor

    def __len__(self) -> int:
        return len(self.images)


def cat(batches: list[Batch]) -> Batch:
    return Batch(**{f.name: torch.cat([getattr(b, f.name) for b in batches]) for f in fields(Batch)})


def truths(images: Tensor, masks: Tensor, **known: Tensor) -> Batch:
    n, device = len(images), images.device
    zeros = torch.zeros(n, device=device)
    values = {f.name: zeros for f in fields(Batch)}
    values |= {
        "images": images,
        "mask": masks.float(),
        "mask_weight": torch.ones(n, SIZE, SIZE, device=device),
        "wrong": torch.zeros(n, SIZE, SIZE, device=device),
        "fingers": torch.zeros(n, dtype=torch.int64, device=device),
        "hand": zeros + 1,
        "hand_weight": zeros + 1,
    }
    return Batch(**(values | known))


def difference(one: Tensor, two: Tensor) -> Tensor:
    """float [n, 64, 64]: largest change of a channel."""
    return (one - two).abs().amax(1)


def counts_as_change(one: Tensor, two: Tensor) -> Tensor:
    """float [n] in {0, 1}."""
    return ((difference(one, two) > CHANGED).flatten(1).sum(1) >= CHANGED_PIXELS).float()


def changed_places(one: Tensor, two: Tensor) -> Tensor:
    """float [n, 64, 64] in {0, 1}."""
    return (F.avg_pool2d(difference(one, two)[:, None], 3, 1, 1)[:, 0] > 0.08).float()


def make_batch(n: int, seed: int, device: torch.device | str = "cpu", round_trip: RoundTrip | None = None) -> Batch:
    """A batch in the proportions of `SHARES`; half of it goes through `round_trip`, nearly all through `weather`."""
    device = torch.device(device)
    g = torch.Generator(device).manual_seed(seed)
    sizes = {name: round(n * share) for name, share in SHARES.items()}
    sizes["good"] += n - sum(sizes.values())
    sound = sample_hands(n - sizes["planted"], 2 * seed).to(device)
    clean, parts, start = render(sound), [_planted(sizes["planted"], 2 * seed + 1, device)], 0
    for name, make in MAKERS.items():
        part = slice(start, start := start + sizes[name])
        parts.append(make(sound[part], Rendered(clean.images[part], clean.masks[part]), g))
    return _age(cat(parts), g, round_trip)


def _planted(n: int, seed: int, device: torch.device) -> Batch:
    hands = sample_hands(n, seed, bad_share=1.0)
    sound = sample_hands(n, seed).to(device)
    hands = hands.to(device)
    drawn, clean = render(hands), render(sound)
    ones = torch.ones(n, device=device)
    counted = hands.is_global.float()
    return truths(
        drawn.images,
        drawn.masks,
        good_weight=ones * 1.5,
        wrong=changed_places(drawn.images, clean.images),
        wrong_weight=1 - counted,
        is_global=counted,
        global_weight=ones,
        fingers=hands.digits,
        fingers_weight=counted,
    )


def _good(hands: Hands, clean: Rendered, g: torch.Generator) -> Batch:
    ones = torch.ones(len(hands), device=g.device)
    five = torch.full((len(hands),), 5, device=g.device)
    return truths(clean.images, clean.masks, good=ones, good_weight=ones, wrong_weight=ones, fingers=five,
                  fingers_weight=ones)  # fmt: skip


def _anatomy(hands: Hands, clean: Rendered, g: torch.Generator) -> Batch:
    """Too many fingers, too few, too short ...: drawn anew."""
    wrong, kind = malform_anatomy(hands, g)
    edited = render(wrong)
    counted = torch.isin(kind, torch.tensor([ANATOMY.index(name) for name in MISCOUNTED], device=g.device)).float()
    known = counts_as_change(edited.images, clean.images)
    return truths(
        edited.images,
        edited.masks,
        good_weight=known,
        wrong=changed_places(edited.images, clean.images),
        wrong_weight=known * 0.5,
        is_global=counted,
        global_weight=known,
        fingers=wrong.digits,
        fingers_weight=counted * known,
    )


def _mixed(hands: Hands, clean: Rendered, g: torch.Generator) -> Batch:
    """Two poses of one hand, run into each other."""
    other = render(repose(hands, g))
    images = mix_poses(clean.images, other.images, g)
    known = counts_as_change(images, clean.images) * counts_as_change(images, other.images)
    return truths(images, clean.masks, mask_weight=(clean.masks == other.masks).float(), good_weight=known)


def _both(hands: Hands, clean: Rendered, g: torch.Generator) -> Batch:
    """Wrong anatomy, and then wrecked."""
    hands, _ = malform_anatomy(hands, g)
    twice = _wrecked(hands, render(hands), g)
    return truths(twice.images, twice.mask, good_weight=counts_as_change(twice.images, clean.images))


def _wrecked(hands: Hands, clean: Rendered, g: torch.Generator) -> Batch:
    """Pixels of the drawn hand moved, smeared, erased."""
    images, masks = clean.images, clean.masks
    without, _ = malform_anatomy(hands, g)
    other = torch.where((torch.rand(len(hands), generator=g, device=g.device) < 0.5), 1, 0)
    removed = render(without).images
    reposed = render(repose(hands, g)).images
    behind = torch.where(other[:, None, None, None] == 1, removed, reposed)
    wrong, _ = wreck(images, masks, hands, behind, g)
    known = counts_as_change(wrong, images)
    return truths(
        wrong,
        masks,
        mask_weight=(difference(wrong, images) < 0.1).float(),
        good_weight=known,
        wrong=changed_places(wrong, images),
        wrong_weight=known,
        global_weight=known * 0.5,
    )


def _no_hand(hands: Hands, clean: Rendered, g: torch.Generator) -> Batch:
    """Grounds, patches of colour, and hands melted beyond recognition (bad, and nobody's mask)."""
    n, device, images = len(hands), g.device, clean.images
    ground = images[:, :, 2:4, 2:4].mean((2, 3), keepdim=True).expand_as(images)
    patches = (smooth_noise(n, 1, 3, g) > 0.4).float()
    colour = torch.rand(n, 3, 1, 1, generator=g, device=device)
    bare = torch.rand(n, 1, 1, 1, generator=g, device=device) < 0.3
    empty = torch.where(bare, ground, torch.lerp(ground, colour.expand_as(ground), patches))
    empty = empty + smooth_noise(n, 3, 8, g) * torch.rand(n, 1, 1, 1, generator=g, device=device) * 0.1
    melted = gaussian(images, torch.rand(n, generator=g, device=device) * 2 + 3)
    is_melted = torch.rand(n, generator=g, device=device) < 0.4
    m = is_melted.float()
    return truths(
        torch.where(is_melted[:, None, None, None], melted, empty).clamp(0, 1),
        torch.zeros(n, SIZE, SIZE, device=device),
        mask_weight=(1 - m)[:, None, None].expand(n, SIZE, SIZE),
        good_weight=m,
        hand=m,
        hand_weight=1 - m,
    )


MAKERS = {"good": _good, "anatomy": _anatomy, "wrecked": _wrecked, "mixed": _mixed, "both": _both, "none": _no_hand}
"""Parts of a batch after the planted ones, in their order: sound hands and their pictures, made wrong."""


def _age(batch: Batch, g: torch.Generator, round_trip: RoundTrip | None) -> Batch:
    """Sends the batch through the VAE and the weather; masks move with the pictures."""
    n = len(batch)
    images = batch.images

    def chance(p: float) -> Tensor:
        return (torch.rand(n, generator=g, device=g.device) < p)[:, None, None, None]

    if round_trip is not None:
        chosen = chance(0.6).flatten().nonzero()[:, 0]
        images = images.index_copy(0, chosen, round_trip(images[chosen]))
    moved, mask = weather(images, batch.mask > 0.5, g, 0.7 if round_trip else 1.0)
    aged = chance(0.8)
    images = torch.where(aged, moved, images)
    mask = torch.where(aged[:, 0], mask.float(), batch.mask)
    values = {f.name: getattr(batch, f.name) for f in fields(Batch)}
    return Batch(**(values | {"images": images, "mask": mask}))

"""Random hands as numbers: where every palm, finger and thumb lies, and the errors that can be planted in them.

Local frame of a hand: origin in the palm, y towards the middle fingertip, x towards the little finger, unit 1 px at
scale 1. `renderer.py` turns it by the direction, mirrors it for a left hand and puts it into the picture.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial

import torch
from torch import Tensor

from badhands.tiny_hands.attributes import SCALES, VOCABULARY

DIGITS = 7
"""Places for digits: 0 is the thumb, 1 to 6 hold fingers from index to little finger; a good hand uses 0 to 4."""

ERRORS = ("fingers", "merged", "broken", "detached", "blurred", "bent", "hole")
"""Planted errors. `fingers` (3, 4, 6 or 7 digits in all) is global, the others are local."""

LENGTHS = (14.6, 16.8, 15.4, 11.8)
"""Index, middle, ring and little finger, from the knuckle to the centre of the tip, in px at scale 1."""


@dataclass(frozen=True)
class Hands:
    """A batch of `n` hands; every field is a tensor whose first axis is `n`."""

    codes: Tensor
    """int64 [n, 7]: index into each list of `VOCABULARY`, in its order."""
    centre: Tensor
    """float32 [n, 2]: the palm's place in the picture, px from its middle, x right and y down."""
    angle: Tensor
    """float32 [n]: turn on top of the direction, radians."""
    scale: Tensor
    """float32 [n]."""
    stretch: Tensor
    """float32 [n, 2]: the palm's half width and half height, px at scale 1."""
    joints: Tensor
    """float32 [n, 7, 2, 2, 2]: digit, segment, end, xy in the local frame."""
    radii: Tensor
    """float32 [n, 7, 2, 2]: digit, segment, end; px at scale 1."""
    present: Tensor
    """bool [n, 7]."""
    merged: Tensor
    """int64 [n]: this finger is fused with the next one; 0 for none."""
    blot: Tensor
    """float32 [n, 4]: a disc x, y, radius in the local frame and what it does: 0 nothing, 1 hole, 2 blur."""
    tint: Tensor
    """float32 [n, 3, 3]: small shifts of the colours of skin, background and sleeve."""
    shade: Tensor
    """float32 [n, 3]: light from x, light from y, and where the sleeve begins (px below the palm at scale 1)."""
    error: Tensor
    """int64 [n]: 0 good, else 1 + index into `ERRORS`."""

    def __len__(self) -> int:
        return len(self.codes)

    def to(self, device: torch.device | str) -> "Hands":
        return Hands(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def __getitem__(self, index: slice | Tensor) -> "Hands":
        return Hands(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    @property
    def is_good(self) -> Tensor:
        return self.error == 0

    @property
    def is_global(self) -> Tensor:
        """bool [n]: wrong as a whole (a digit too many or too few) rather than in one place."""
        return self.error == 1

    @property
    def digits(self) -> Tensor:
        """int64 [n]: digits drawn, the thumb included."""
        return self.present.sum(1)


def sample_hands(
    n: int, seed: int, bad_share: float = 0.0, errors: tuple[str, ...] = ERRORS, codes: Tensor | None = None
) -> Hands:
    """`n` random hands, of which each is given a planted error with probability `bad_share`.

    Args:
        errors: the kinds to choose from, each as likely as any other.
        codes: int64 [n, 7] attributes to use instead of random ones.

    Raises:
        ValueError: `bad_share` is no share, or an error is unknown.
    """
    if not 0 <= bad_share <= 1:
        raise ValueError(f"bad_share={bad_share} must lie between 0 and 1")
    for error in errors:
        if error not in ERRORS:
            raise ValueError(f"unknown error {error!r}: choose from {', '.join(ERRORS)}")
    g = torch.Generator().manual_seed(seed)
    uniform = partial(_uniform, g, n)
    if codes is None:
        codes = torch.stack([torch.randint(len(words), (n,), generator=g) for words in VOCABULARY.values()], 1)
    kinds = torch.tensor([1 + ERRORS.index(error) for error in errors])
    error = torch.where(uniform(0, 1) < bad_share, kinds[torch.randint(len(kinds), (n,), generator=g)], 0)
    counts = torch.tensor([2, 3, 5, 6])[torch.randint(4, (n,), generator=g)]
    count = torch.where(error == 1, counts, 4)

    half = torch.stack([uniform(8.9, 9.9), uniform(8.2, 9.4)], 1)
    fingers, width = _fingers(count, half, uniform)
    joints = torch.cat([_thumb(half, uniform), fingers], 1)
    tapered = torch.tensor([[1.0, 0.97], [0.97, 0.92]])
    hands = Hands(
        codes=codes,
        radii=torch.cat([uniform(2.5, 2.8, 1), width], 1)[:, :, None, None] * tapered,
        centre=uniform(-2.5, 2.5, 2),
        angle=uniform(-0.26, 0.26),
        scale=torch.tensor(SCALES)[codes[:, 0]] * uniform(0.98, 1.03),
        stretch=half,
        joints=joints,
        present=torch.cat([torch.ones(n, 1, dtype=torch.bool), torch.arange(DIGITS - 1) < count[:, None]], 1),
        merged=torch.zeros(n, dtype=torch.int64),
        blot=torch.zeros(n, 4),
        tint=uniform(-0.025, 0.025, 3, 3),
        shade=torch.stack([uniform(-1, 1), uniform(-1, 1), uniform(4.5, 8.0)], 1),
        error=error,
    )
    return _plant_local(hands, g)


def _uniform(g: torch.Generator, n: int, low: float, high: float, *shape: int) -> Tensor:
    return torch.rand(n, *shape, generator=g) * (high - low) + low


def _fingers(count: Tensor, half: Tensor, uniform: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """Joints [n, DIGITS - 1, 2, 2, 2] and widths [n, DIGITS - 1] of `count` [n] fingers on a palm of half size [n, 2].

    They spread evenly over the knuckles, whatever their number: `place` runs from -1 (index) to 1 (little finger).
    """
    gaps, slots = count[:, None] - 1, torch.arange(DIGITS - 1)
    place = (slots - gaps / 2) / (gaps / 2)
    crowd = (count[:, None] / 4).clamp(min=0.9)
    lengths = _interpolate(place) * uniform(0.93, 1.07, DIGITS - 1) * uniform(0.93, 1.05, 1)
    fan = uniform(0.14, 0.30, 1)
    root_angle = place * fan * crowd + uniform(-0.035, 0.035, DIGITS - 1)
    bend = root_angle + uniform(-0.13, 0.13, DIGITS - 1) - 0.35 * root_angle * uniform(0, 1, DIGITS - 1)
    root_x = place * (half[:, :1] - 2.1) * crowd.clamp(max=1.12)
    root_y = half[:, 1:] - 1.2 - 1.1 * place**2
    width = uniform(2.35, 2.55, 1).expand(len(count), DIGITS - 1) / crowd.clamp(max=1.12)
    return _finger(torch.stack([root_x, root_y], -1), root_angle, bend, lengths, 0.54), width


def _thumb(half: Tensor, uniform: Callable[..., Tensor]) -> Tensor:
    """Joints [n, 1, 2, 2, 2]."""
    root = torch.stack([-half[:, 0] + 2.2, uniform(-4.2, -2.4)], 1)
    angle = uniform(-1.0, -0.62)
    bend = (angle + uniform(0.15, 0.55))[:, None]
    return _finger(root[:, None], angle[:, None], bend, uniform(12.2, 14.2, 1), 0.55)


def _interpolate(place: Tensor) -> Tensor:
    """Finger length at `place` in -1..1 across the hand, through the four lengths of a good hand."""
    known = torch.tensor(LENGTHS)
    at = ((place.clamp(-1, 1) + 1) * 1.5).clamp(0, 3 - 1e-4)
    low = at.floor().long()
    return known[low] + (known[low + 1] - known[low]) * (at - low)


def _finger(root: Tensor, angle: Tensor, bend: Tensor, length: Tensor, first: float) -> Tensor:
    """Two segments from `root` [n, k, 2]; angles are clockwise from the finger axis. Returns [n, k, 2, 2, 2]."""

    def along(a: Tensor) -> Tensor:
        return torch.stack([a.sin(), a.cos()], -1)

    knuckle = root + along(angle) * (length * first)[..., None]
    tip = knuckle + along(bend) * (length * (1 - first))[..., None]
    return torch.stack([torch.stack([root, knuckle], 2), torch.stack([knuckle, tip], 2)], 2)


def _turn(xy: Tensor, angle: Tensor) -> Tensor:
    """Turns vectors [n, 2] clockwise by `angle` [n]."""
    s, c = angle.sin(), angle.cos()
    return torch.stack([xy[:, 0] * c + xy[:, 1] * s, xy[:, 1] * c - xy[:, 0] * s], 1)


def _plant_local(hands: Hands, g: torch.Generator) -> Hands:
    """Plants the local error that `hands.error` names, on a random digit."""
    n = len(hands)
    rows = torch.arange(n)
    finger = torch.randint(1, 5, (n,), generator=g)
    sign = torch.where(torch.rand(n, generator=g) < 0.5, -1.0, 1.0)
    amount = torch.rand(n, generator=g)
    is_ = {name: hands.error == 1 + i for i, name in enumerate(ERRORS)}
    joints, radii = hands.joints.clone(), hands.radii.clone()
    root, knuckle, tip = joints[rows, finger, 0, 0], joints[rows, finger, 0, 1], joints[rows, finger, 1, 1]

    # Merged: the next finger follows this one so closely that the two are one limb.
    first = torch.randint(1, 4, (n,), generator=g)
    one, two = joints[rows, first], joints[rows, first + 1]
    drawn = one + (two - one) * (0.55 + 0.2 * amount)[:, None, None, None]
    joints[rows, first + 1] = torch.where(is_["merged"][:, None, None, None], drawn, two)
    # Broken: the outer segment snaps sideways.
    snapped = knuckle + _turn(tip - knuckle, sign * (1.0 + 0.8 * amount))
    # Detached: it floats beyond the first one.
    away = (tip - knuckle) / (tip - knuckle).norm(dim=1, keepdim=True)
    gap = away * (6.4 + 1.6 * amount)[:, None] + _turn(away, sign * 1.57) * (1.5 * amount)[:, None]
    floating = torch.stack([knuckle + gap, knuckle + gap + (tip - knuckle) * 0.62], 1)
    # Bent away: the whole finger leaves the hand at an angle no knuckle allows.
    outward = torch.where(finger <= 2, -1.0, 1.0) * (0.75 + 0.5 * amount)
    bent = torch.stack([root, root + _turn(knuckle - root, outward), root + _turn(tip - root, outward)], 1)

    outer = joints[rows, finger, 1].clone()
    outer = torch.where(is_["broken"][:, None, None], torch.stack([knuckle, snapped], 1), outer)
    outer = torch.where(is_["detached"][:, None, None], floating, outer)
    outer = torch.where(is_["bent"][:, None, None], bent[:, 1:], outer)
    joints[rows, finger, 1] = outer
    joints[rows, finger, 0, 1] = torch.where(is_["bent"][:, None], bent[:, 1], joints[rows, finger, 0, 1])

    in_palm = (torch.rand(n, 2, generator=g) - 0.5) * hands.stretch
    hole = torch.cat([in_palm, (2.6 + 1.4 * amount)[:, None], torch.ones(n, 1)], 1)
    blur = torch.cat([(knuckle + tip) / 2, (6.5 + 2 * amount)[:, None], torch.full((n, 1), 2.0)], 1)
    blot = torch.where(is_["hole"][:, None], hole, hands.blot)
    blot = torch.where(is_["blurred"][:, None], blur, blot)
    return replace(hands, joints=joints, radii=radii, merged=torch.where(is_["merged"], first, 0), blot=blot)

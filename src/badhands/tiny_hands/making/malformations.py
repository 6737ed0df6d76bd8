"""Hands wrong in the ways in which diffusion gets them wrong, and sound hands damaged as a VAE damages them.

The renderer's planted errors are crisp. A diffusion model's are not: two poses averaged, a finger that fades out, a
stub, a missing outline. `malform_anatomy` edits the numbers of a hand, `mix_poses`, `wreck` edit pixels, and `weather`
softens good and bad alike, so that softness alone says nothing.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from badhands.tiny_hands.anatomy import Hands
from badhands.tiny_hands.attributes import VOCABULARY
from badhands.tiny_hands.renderer import SIZE

ANATOMY = ("short", "removed", "fork", "stub", "thin", "thick", "leaning", "long", "two_thumbs", "curled", "misplaced")
MISCOUNTED = ("removed", "fork", "stub", "two_thumbs")
"""Those that change the number of digits, and are global for that."""
PIXELS = ("warp", "smear", "fade", "unlined", "lump", "gap")


def _rand(low: float, high: float, *shape: int, g: torch.Generator) -> Tensor:
    return torch.rand(*shape, generator=g, device=g.device) * (high - low) + low


def _choose(n: int, options: int, g: torch.Generator) -> Tensor:
    return torch.randint(options, (n,), generator=g, device=g.device)


def _turn(xy: Tensor, angle: Tensor) -> Tensor:
    """Turns [n, ..., 2] clockwise by `angle` [n]."""
    angle = angle.view(-1, *[1] * (xy.dim() - 2))
    s, c = angle.sin(), angle.cos()
    return torch.stack([xy[..., 0] * c + xy[..., 1] * s, xy[..., 1] * c - xy[..., 0] * s], -1)


def malform_anatomy(hands: Hands, g: torch.Generator) -> tuple[Hands, Tensor]:
    """One error each in the bones of good hands. Returns the hands and int64 [n], an index into `ANATOMY`."""
    n = len(hands)
    rows = torch.arange(n, device=g.device)
    kind = _choose(n, len(ANATOMY), g)
    is_ = {name: kind == i for i, name in enumerate(ANATOMY)}
    digit = _choose(n, 5, g)
    digit = torch.where((digit == 0) & (is_["fork"] | is_["leaning"] | is_["curled"]), 1 + _choose(n, 4, g), digit)
    amount = _rand(0, 1, n, g=g)
    sign = torch.where(_rand(0, 1, n, g=g) < 0.5, -1.0, 1.0)
    joints, radii, present = hands.joints.clone(), hands.radii.clone(), hands.present.clone()
    limb = joints[rows, digit]  # [n, segment, end, xy]
    root, tip = limb[:, :1, :1], limb[:, 1:, 1:]

    def set_limb(name: str, new: Tensor) -> None:
        joints[rows, digit] = torch.where(is_[name][:, None, None, None], new, joints[rows, digit])

    set_limb("short", root + (limb - root) * (0.25 + 0.4 * amount)[:, None, None, None])
    set_limb("long", root + (limb - root) * (1.35 + 0.35 * amount)[:, None, None, None])
    # Leaning: the finger lies over its neighbour.
    set_limb("leaning", root + _turn(limb - root, sign * (0.42 + 0.3 * amount)))
    # Curled: the outer segment turns back.
    knuckle = limb[:, 1:, :1]
    hooked = torch.cat([limb[:, :1], knuckle + _turn(limb[:, 1:] - knuckle, sign * (0.8 + 1.6 * amount))], 1)
    set_limb("curled", hooked)
    # Misplaced: it grows out of the palm's side or back.
    around = sign * (1.5 + 1.4 * amount)
    set_limb("misplaced", _turn(limb, around))
    shrunk = torch.where(is_["thin"], 0.35 + 0.2 * amount, 1.0)
    swollen = torch.where(is_["thick"], 1.45 + 0.5 * amount, 1.0)
    radii[rows, digit] = radii[rows, digit] * (shrunk * swollen)[:, None, None]
    present[rows, digit] &= ~is_["removed"]

    # Extra digits use the free place 5.
    spread = sign * (0.30 + 0.35 * amount)
    fork = torch.cat([limb[:, :1], knuckle + _turn(limb[:, 1:] - knuckle, spread)], 1)
    whole_fork = root + _turn(limb - root, spread)
    fork = torch.where((amount > 0.5)[:, None, None, None], whole_fork, fork)
    place = _rand(-0.9, 0.9, n, g=g)
    at = torch.stack([place * hands.stretch[:, 0], hands.stretch[:, 1] * 0.7], 1)[:, None, None]
    upright = (tip - root) * 0 + torch.tensor([0.0, 1.0], device=g.device)
    length = (7 + 4 * amount)[:, None, None, None]
    middle = at + _turn(upright, place * 0.4) * length * 0.5
    end = at + _turn(upright, place * 0.4) * length
    stub = torch.cat([torch.cat([at, middle], 2), torch.cat([middle, end], 2)], 1)
    thumb = joints[:, 0]
    mirrored = thumb * torch.tensor([-1.0, 1.0], device=g.device)
    second_thumb = torch.where((amount > 0.6)[:, None, None, None], mirrored, _turn(thumb, -0.5 - 0.3 * amount))
    for name, limb5 in (("fork", fork), ("stub", stub), ("two_thumbs", second_thumb)):
        joints[:, 5] = torch.where(is_[name][:, None, None, None], limb5, joints[:, 5])
    present[:, 5] |= is_["fork"] | is_["stub"] | is_["two_thumbs"]
    return replace(hands, joints=joints, radii=radii, present=present), kind


def repose(hands: Hands, g: torch.Generator, strength: float = 1.0) -> Hands:
    """The same palms with other fingers: what a model that cannot decide averages."""
    n = len(hands)
    joints = hands.joints.clone()
    root = joints[:, :, :1, :1]
    turn = _rand(-0.35, 0.35, n, 7, g=g) * strength + _rand(-0.15, 0.15, n, 1, g=g)
    flat = (joints - root).flatten(0, 1)
    joints = root + _turn(flat, turn.flatten()).view_as(joints) * _rand(0.85, 1.15, n, 7, 1, 1, 1, g=g)
    return replace(hands, joints=joints, angle=hands.angle + _rand(-0.12, 0.12, n, g=g) * strength)


def in_picture(hands: Hands, xy: Tensor) -> Tensor:
    """Pixel coordinates [n, 2] (x, y) of points [n, 2] of the local frame."""
    code = dict(zip(VOCABULARY, hands.codes.unbind(1), strict=True))
    turn = code["direction"] * (math.pi / 2) + hands.angle
    s, c = turn.sin(), turn.cos()
    across = xy[:, 0] * hands.scale * torch.where(code["side"] == 1, 1.0, -1.0)
    along = xy[:, 1] * hands.scale - 5.5 * hands.scale
    middle = (SIZE - 1) / 2
    x = along * s + across * c + hands.centre[:, 0] + middle
    y = across * s - along * c + hands.centre[:, 1] + middle
    return torch.stack([x, y], 1)


def finger_points(hands: Hands, g: torch.Generator) -> Tensor:
    """Pixel coordinates [n, 2] of a random place on a random digit."""
    rows = torch.arange(len(hands), device=g.device)
    digit, segment = _choose(len(hands), 5, g), _choose(len(hands), 2, g)
    ends = hands.joints[rows, digit, segment]
    share = _rand(0, 1, len(hands), g=g)[:, None]
    return in_picture(hands, ends[:, 0] + (ends[:, 1] - ends[:, 0]) * share)


def window(centre: Tensor, radius: Tensor, soft: Tensor) -> Tensor:
    """[n, 1, 64, 64]: 1 inside a disc of `radius` px, falling to 0 over `soft` px."""
    axis = torch.arange(SIZE, device=centre.device, dtype=torch.float32)
    dx, dy = axis - centre[:, 0, None, None], axis[:, None] - centre[:, 1, None, None]
    return ((radius[:, None, None] - torch.hypot(dx, dy)) / soft[:, None, None] + 0.5).clamp(0, 1)[:, None]


def smooth_noise(n: int, channels: int, cells: int, g: torch.Generator) -> Tensor:
    """[n, channels, 64, 64], about unit variance, with features of 64 / cells px."""
    coarse = torch.randn(n, channels, cells, cells, generator=g, device=g.device)
    return F.interpolate(coarse, size=SIZE, mode="bicubic", align_corners=False) * 1.3


def displace(images: Tensor, field: Tensor) -> Tensor:
    """Moves pixels by `field` [n, 2, 64, 64] (x, y in px)."""
    axis = torch.arange(SIZE, device=images.device, dtype=torch.float32)
    grid = torch.stack(torch.broadcast_tensors(axis[None, :], axis[:, None]), -1) + field.permute(0, 2, 3, 1)
    return F.grid_sample(images, (grid + 0.5) / SIZE * 2 - 1, padding_mode="border", align_corners=False)


def gaussian(images: Tensor, sigma: Tensor) -> Tensor:
    """Blurs each image by its own `sigma` [n] px (up to about 4)."""
    taps = torch.arange(-7, 8, device=images.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (taps / sigma.clamp(min=0.05)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True))[:, :, None, None, None]
    # Taps as shifted sums: a grouped convolution with one kernel an image is far slower on a GPU.
    reach = 7 if float(sigma.max()) > 1 else 3
    height, width = images.shape[2:]
    padded = F.pad(images, (reach, reach, 0, 0), mode="replicate")
    images = torch.stack([padded[..., k : k + width] * kernel[:, 7 - reach + k] for k in range(2 * reach + 1)]).sum(0)
    padded = F.pad(images, (0, 0, reach, reach), mode="replicate")
    return torch.stack([padded[..., k : k + height, :] * kernel[:, 7 - reach + k] for k in range(2 * reach + 1)]).sum(0)


def mix_poses(one: Tensor, two: Tensor, g: torch.Generator) -> Tensor:
    """Two pictures of one palm averaged: all over, by a soft patchwork, or on one side."""
    n = len(one)
    ghost = _rand(0.3, 0.7, n, 1, 1, 1, g=g).expand(n, 1, SIZE, SIZE)
    patchwork = torch.sigmoid(smooth_noise(n, 1, 6, g) * _rand(1, 8, n, 1, 1, 1, g=g))
    pick = _choose(n, 3, g)[:, None, None, None]
    share = torch.where(pick == 0, ghost, patchwork)
    return torch.lerp(one, two, share)


def wreck(images: Tensor, masks: Tensor, hands: Hands, without: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """One local error each in the pixels of good hands.

    Args:
        images: [n, 3, 64, 64]; masks: bool [n, 64, 64].
        without: the same pictures with a digit removed or reposed, [n, 3, 64, 64]: what shows where a digit fades.

    Returns:
        pictures, and int64 [n], an index into `PIXELS`.
    """
    n = len(images)
    kind = _choose(n, len(PIXELS), g)
    centre = finger_points(hands, g)
    disc = window(centre, _rand(4, 9, n, g=g), _rand(1, 6, n, g=g))
    amount = _rand(0, 1, n, g=g)
    field = smooth_noise(n, 2, 10, g) * (2.0 + 2.5 * amount)[:, None, None, None] * disc
    warped = displace(images, field)
    smeared = torch.lerp(images, gaussian(images, 1.8 + 2.2 * amount), disc)
    faded = torch.lerp(images, without, disc * (0.5 + 0.5 * amount)[:, None, None, None])
    closed = -F.max_pool2d(-F.max_pool2d(images, 5, 1, 2), 5, 1, 2)
    unlined = torch.lerp(images, closed, disc)
    around = centre + torch.randn(n, 2, generator=g, device=g.device) * 3
    spot = window(around, _rand(2.0, 4.5, n, g=g), _rand(1, 3, n, g=g))
    palm = in_picture(hands, torch.zeros_like(centre)).round().long().clamp(0, SIZE - 1)
    skin = images[torch.arange(n, device=g.device), :, palm[:, 1], palm[:, 0]][:, :, None, None]
    ink = torch.lerp(skin, skin * 0.35, (amount < 0.35).float()[:, None, None, None])
    lump = torch.lerp(images, ink.expand_as(images), spot)
    ground = images[:, :, 2:4, 2:4].mean((2, 3), keepdim=True).expand_as(images)
    gap = torch.lerp(images, ground, window(centre, _rand(2.4, 4.5, n, g=g), _rand(1, 3, n, g=g)))
    options = torch.stack([warped, smeared, faded, unlined, lump, gap], 1)
    return options[torch.arange(n, device=g.device), kind], kind


def weather(images: Tensor, masks: Tensor, g: torch.Generator, amount: float = 1.0) -> tuple[Tensor, Tensor]:
    """What a small VAE and a sampler do to any picture: soft edges, slight warps, colour shifts, faint noise.

    Returns images and masks [n, 64, 64] (bool), moved alike.
    """
    n = len(images)
    field = smooth_noise(n, 2, 4, g) * _rand(0, 0.55 * amount, n, 1, 1, 1, g=g)
    field = field + smooth_noise(n, 2, 12, g) * _rand(0, 0.28 * amount, n, 1, 1, 1, g=g)
    both = displace(torch.cat([images, masks[:, None].float()], 1), field)
    images, moved = both[:, :3], both[:, 3] > 0.5
    images = gaussian(images, _rand(0, 0.75 * amount, n, g=g).clamp(min=0.05))
    small = F.interpolate(images, scale_factor=0.5, mode="area")
    small = F.interpolate(small, size=SIZE, mode="bicubic", align_corners=False)
    images = torch.lerp(images, small, _rand(-0.8, 0.5 * amount, n, 1, 1, 1, g=g).clamp(min=0))
    tint = torch.randn(n, 3, 1, 1, generator=g, device=g.device) * 0.02 * amount
    gain = _rand(0.9, 1.08, n, 1, 1, 1, g=g)
    blotch = smooth_noise(n, 3, 10, g) * _rand(0, 0.02 * amount, n, 1, 1, 1, g=g)
    grain = torch.randn(n, 3, SIZE, SIZE, generator=g, device=g.device) * _rand(0, 0.02 * amount, n, 1, 1, 1, g=g)
    images = (images - 0.5) * gain + 0.5 + tint + blotch + grain
    return images.clamp(0, 1), moved

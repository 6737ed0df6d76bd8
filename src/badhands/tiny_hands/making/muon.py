# The foreach operations are public in use and private in name.
# pyright: reportPrivateImportUsage=false
"""Muon (K. Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/): momentum with all singular values near 1.

`torch.optim.Muon` reads its learning rate on the host and walks over the matrices one by one. Here the rate may be a
tensor, so that a step fits into a CUDA graph, and matrices of one shape are orthogonalised together.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic a x + b x^3 + c x^5, which lifts small singular values fast and leaves them in about 0.7 to 1.2."""


def orthogonalised(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest half-orthogonal matrices, roughly: bfloat16 [n, rows, columns] of [n, rows, columns].

    Singular vectors stay, singular values move to about 1 by Newton-Schulz iteration in bfloat16.
    """
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).bfloat16()
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x


class Muon:
    """Steps the matrices `params` in place. The state is one momentum tensor for each shape.

    An update has a root mean square of about 0.2, as AdamW's, so both can share one rate (Liu et al. 2025,
    arXiv:2502.16982).
    """

    def __init__(self, params: Iterable[Tensor], weight_decay: float = 0.02, momentum: float = 0.95) -> None:
        self.weight_decay, self.momentum = weight_decay, momentum
        self.stacks: dict[tuple[int, ...], list[Tensor]] = {}
        for p in params:
            if p.ndim != 2:
                raise ValueError(f"Muon steps matrices, and this parameter has the shape {tuple(p.shape)}")
            self.stacks.setdefault(tuple(p.shape), []).append(p)
        self.state = {
            shape: torch.zeros(len(stack), *shape, device=stack[0].device) for shape, stack in self.stacks.items()
        }

    @torch.no_grad()
    def step(self, rate: float | Tensor) -> None:
        for shape, stack in self.stacks.items():
            gradient, velocity = torch.stack([p.grad for p in stack]), self.state[shape]  # type: ignore[misc]
            velocity.lerp_(gradient, 1 - self.momentum)
            nesterov = gradient.lerp(velocity, self.momentum)
            update = orthogonalised(nesterov).float() * (0.2 * math.sqrt(max(shape)) * rate)
            torch._foreach_mul_(stack, 1 - rate * self.weight_decay)
            torch._foreach_sub_(stack, list(update.unbind(0)))

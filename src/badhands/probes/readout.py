"""One probe of one cell: a dot product, or two layers, and what turns its logit into a probability."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Readout:
    """One probe of one cell, float32, in raw activation coordinates."""

    weight: Tensor
    """[d]; with a hidden layer [h]."""
    bias: float
    platt: tuple[float, float] = (1.0, 0.0)
    """Slope and offset: probability = sigmoid(slope * logit + offset), fitted on out-of-fold logits."""
    hidden: tuple[Tensor, Tensor] | None = None
    """([h, d], [h]) for `mlp`: logit = weight . relu(hidden x + bias_h) + bias."""

    @property
    def width(self) -> int:
        return (self.hidden[0] if self.hidden else self.weight).shape[-1]

    def logit(self, x: Tensor) -> Tensor:
        """x: [..., d] in any dtype and on any device -> [...] float32 on that device."""
        x = x.float()
        if self.hidden is not None:
            x = torch.relu(x @ self.hidden[0].to(x.device).T + self.hidden[1].to(x.device))
        return x @ self.weight.to(x.device) + self.bias

    def probability(self, x: Tensor, shift: float = 0.0) -> Tensor:
        """Calibrated probability of the positive class (hand; good) of x [..., d]; `shift` is added to its logit."""
        slope, offset = self.platt
        return torch.sigmoid(slope * self.logit(x) + offset + shift)

    def tensors(self, at: str) -> dict[str, Tensor]:
        """For a file: each part by its name, `<at>/weight` and so on."""
        named = {
            f"{at}/weight": self.weight,
            f"{at}/bias": torch.tensor(self.bias, dtype=torch.float64),
            f"{at}/platt": torch.tensor(self.platt, dtype=torch.float64),
        }
        if self.hidden is not None:
            named[f"{at}/hidden_weight"], named[f"{at}/hidden_bias"] = self.hidden
        return named

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], at: str) -> "Readout":
        """Inverse of `tensors`."""
        slope, offset = tensors[f"{at}/platt"].tolist()
        wide = f"{at}/hidden_weight" in tensors
        hidden = (tensors[f"{at}/hidden_weight"], tensors[f"{at}/hidden_bias"]) if wide else None
        return cls(tensors[f"{at}/weight"], tensors[f"{at}/bias"].item(), (slope, offset), hidden)

    def to(self, device: str | torch.device) -> "Readout":
        """A copy whose tensors lie on `device`."""
        hidden = self.hidden and (self.hidden[0].to(device), self.hidden[1].to(device))
        return replace(self, weight=self.weight.to(device), hidden=hidden)

"""What a probe run may be told: the one frozen value that configuration turns into."""

from dataclasses import dataclass

from badhands.probes.kinds import KINDS

PRECISIONS = ("auto", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class ProbeSettings:
    """One kind of token probe. Defaults are those of `probe=logistic`."""

    kind: str = "logistic"
    penalties: tuple[float, ...] = (0.003, 0.03, 0.3, 3.0, 30.0)
    """Grid of nested grouped cross-validation. logistic, svm: L2, equal to 1/C of scikit-learn where token weights sum
    to 1; lda: share of the scaled identity in the covariance; mlp: weight decay; mass_mean has none and ignores it."""
    seed: int = 0
    tolerance: float = 1e-4
    """Largest gradient component at which a fit counts as converged (scikit-learn's default)."""
    max_passes: int = 200
    precision: str = "auto"
    """auto: products in bfloat16 from 1024 channels on, where the cache itself is bfloat16; else float32."""
    hidden: int = 16
    """mlp only."""
    epochs: int = 30
    """mlp only: passes over the tokens, in batches of at most 1024, ten or more to a pass."""
    bootstraps: int = 200
    """Resamplings of images behind the intervals of token metrics."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "penalties", tuple(float(p) for p in self.penalties))
        if self.kind not in KINDS:
            raise ValueError(f"unknown probe {self.kind!r}: use probe={' | '.join(KINDS)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown probe.precision {self.precision!r}: use {' | '.join(PRECISIONS)}")
        if not self.penalties or min(self.penalties) <= 0:
            raise ValueError(f"probe.penalties must be positive numbers, not {list(self.penalties)}")
        highest = KINDS[self.kind].highest
        if max(self.penalties) > highest:
            raise ValueError(f"probe.penalties of {self.kind} are at most {highest:g}, not {max(self.penalties):g}")
        if self.bootstraps < 10:
            raise ValueError("probe.bootstraps must be at least 10")

    @property
    def grid(self) -> tuple[float, ...]:
        """The penalties that are really tried."""
        return self.penalties if KINDS[self.kind].tuned else (0.0,)

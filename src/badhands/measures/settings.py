"""What the measure stage can be told."""

from dataclasses import dataclass

from badhands.measures.contrasts import CONTRASTS


@dataclass(frozen=True)
class MeasureConfig:
    """Settings of `measure`; the defaults are those of the study."""

    cosine_permutations: int = 500
    """For the null of the cosine matrix, which is larger."""
    halves: int = 50
    """Random splits into disjoint halves, for noise-corrected cosines."""
    weighting: str = "token"
    """"token": every token counts once, as in the study. "image": every image counts once."""
    contrasts: tuple[str, ...] = CONTRASTS
    """good_vs_bad always; the others where the labels allow."""
    fewest: int = 4
    """Images a class below which nothing is measured."""
    max_tokens: int = 20_000
    """Tokens per cell for PCA and held-out scores; drawn evenly from all images when there are more."""
    reduced: int = 10
    """Components for the distance with full covariance (Eq. 7)."""
    points: int = 150
    """Tokens per class drawn in a scatter."""
    threads: int | None = None
    """None: as many as torch has."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.cosine_permutations < 20:
            raise ValueError(
                f"analysis.cosine_permutations={self.cosine_permutations} is too few for a p-value of 0.05: use 20 or "
                "more"
            )
        if self.halves < 1 or self.points < 1 or self.max_tokens < 100:
            raise ValueError("analysis.halves and analysis.points must be positive, analysis.max_tokens at least 100")
        if self.weighting not in ("token", "image"):
            raise ValueError(f"analysis.weighting={self.weighting}: write token or image")
        if not 2 <= self.reduced <= 20:
            raise ValueError(
                f"analysis.reduced={self.reduced}: a full covariance can be trusted for 2 to 20 components"
            )
        unknown = set(self.contrasts) - set(CONTRASTS)
        if unknown or "good_vs_bad" not in self.contrasts:
            raise ValueError(
                f"analysis.contrasts: good_vs_bad and any of {', '.join(CONTRASTS[1:])}, not {self.contrasts}"
            )
        if self.fewest < 4:
            raise ValueError(f"analysis.fewest={self.fewest}: intervals over images need at least 4 images a class")

"""Settings of one training of the judge."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class JudgeTraining:
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

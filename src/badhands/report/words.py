"""The terms of the report, each explained once."""

WORDS = (
    ("cell", "One block of the network at one timestep, written single.8/t20: where something is measured."),
    ("timestep t, step", "t counts down to 1 and is pure noise at its largest; the step counts up from 0."),
    ("hand token", "A patch of the image that is labelled good or bad hand. The image, not the token, is the unit."),
    ("AUROC", "The chance that a bad image gets a worse score than a good one: 0.5 is a coin, 1 is perfect. Always of "
     "images that the probe was not fitted on."),
    ("probe", "A linear rule on the activations of one cell. The headline probe is a ridge on the mean hand token."),
    ("D_B", "Bhattacharyya distance between good and bad hand tokens. The plug-in value is too large by itself; the "
     "corrected one may be negative."),
    ("v, resolved", "The direction from the mean of bad to that of good tokens; resolved if it is longer than shuffled "
     "labels make it."),
    ("beyond chance", "Larger than the largest of everything tested under shuffled labels in 95 of 100 shuffles, so "
     "that one run makes a false finding in one of twenty."),
    ("hint, shown", "One study gives hints. Shown is what a second study with fresh prompts and seeds confirmed, after "
     "the claim had been locked."),
    ("[a, b]", "95 % interval over images. Undecided stands where it leaves everything open."),
)  # fmt: skip
"""(term, what it means)."""

"""Where each figure stands in the report, and what to see in it."""

SECTIONS = (
    ("data", "The data"),
    ("watch", "While the image is being made"),
    ("measures", "How far apart good and bad hands are"),
    ("probes", "What a probe reads out"),
    ("global", "Is there one direction?"),
    ("cells", "Cells"),
    ("other", "Further figures"),
    ("tables", "All tables"),
)

SENTENCES = {
    "separation": "measures", "bias": "measures", "late_rise": "measures", "variance": "measures",
    "control": "measures", "along_v": "measures", "kinds": "measures",
    "best_cell": "probes", "replication": "probes", "controls": "probes",
    "beyond_the_picture": "probes", "hand": "probes",
    "one_direction": "global", "agreement": "global",
}  # fmt: skip
"""Name of a finding -> the section that tells it."""

FIGURES: tuple[tuple[str, str, str], ...] = (
    ("sheet_good", "data", "Images labelled good. Blue outlines: the tokens of good hands that were captured."),
    ("sheet_bad", "data", "Images labelled bad. Vermillion outlines: the tokens of bad hands."),
    ("db_curves", "measures", "Bhattacharyya distance of good and bad hand tokens, per block over the timesteps: the "
     "study's "
     "own curve (plug-in), and beside it the value corrected for bias, its interval over images, and what shuffled "
     "labels "
     "give. Time runs from noise (left) to image."),
    ("db_terms", "measures", "The two terms of the distance: difference of means, and difference of variances."),
    ("db_checks", "measures", "The checks that belong to every D_B: the distance that held-out tokens support "
     "(D_eq), and "
     "the lower bound that their error certifies. A large D_B above a small D_eq is bias and correlated channels."),
    ("db_kinds", "measures", "The same against hands with local errors and with global errors."),
    ("gaussianity", "measures", "Is the Gaussian formula in its right here? Kurtosis of channels and of held-out "
     "scores, the "
     "share of the ten largest channels, and what a classifier gains by using the variances."),
    ("pca_v_in_sample", "measures", "The direction v against the largest component beside it, v fitted on the very "
     "images "
     "that are drawn: along v the classes separate even for random labels."),
    ("pca_v_held_out", "measures", "The same with v fitted on other images."),
    ("pca", "measures", "The two leading components of the hand tokens of each cell, good and bad."),
    ("probe", "probes", "AUROC of every cell, held out: the headline probe on image means, framed where it is beyond "
     "chance, and the token probes behind the overlay."),
    ("baselines", "probes", "The best block at each step beside what needs no block."),
    ("calibration", "probes", "Is a P(bad) of 0.7 bad in seven of ten? Out of fold, per cell."),
    ("agreement", "global", "Cosine between the directions of all cells; unresolved ones are left out."),
    ("shared_directions", "global", "What shared directions lose to each cell's own probe, on cells they were not "
     "learned from."),
    ("transfer", "global", "AUROC of the probe of one cell (row) on another (column), on held-out images."),
)  # fmt: skip
"""(name or beginning of a name, section, caption), in the order of the page."""


def section_of(name: str) -> tuple[str, int]:
    """Section of a figure and its place in the page's order; figures nobody has described come last."""
    for place, (beginning, section, _) in enumerate(FIGURES):
        if name.startswith(beginning):
            return section, place
    return "other", len(FIGURES)


WATCHED = (
    "Fresh images that no fold has seen, drawn with the probes attached. Above: the clean image that the model "
    "predicts at each step. Below, block by block: P(bad), calibrated, on the tokens that the hand head calls hand, on "
    "one colour scale for all steps and images; the score is the mean good-logit over them, low for a bad hand."
)


def strip_caption(name: str) -> str:
    """From the file name: 03_seed171_good."""
    _, seed, *verdict = name.split("_")
    said = f"; the judge calls the finished hand {verdict[0]}" if verdict else ""
    return f"Seed {seed.removeprefix('seed')}{said}."


def caption(name: str) -> str:
    """The figure's caption; its name in words where none is written."""
    for beginning, _, text in FIGURES:
        if name.startswith(beginning):
            return text
    return name.replace("_", " ").capitalize()

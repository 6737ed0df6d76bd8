"""Sections of the report, and what stands in each."""

from badhands.figures.table import FIGURES

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


def section_of(name: str) -> tuple[str, int]:
    """Section of a figure and its place in the page's order; figures nobody has described come last."""
    for place, figure in enumerate(FIGURES):
        if figure.name == name:
            return figure.section, place
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
    return next((f.caption for f in FIGURES if f.name == name), name.replace("_", " ").capitalize())

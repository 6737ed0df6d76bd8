"""One palette for the whole project: the label page, the overlay, every figure and the report.

Blue against vermillion (Okabe and Ito 2008) stays apart for every common colour blindness and in grey print.
"""

from matplotlib.colors import LinearSegmentedColormap

GOOD = "#0072B2"
BAD = "#D55E00"
NOT_HAND = "#8C8C8C"

LOCAL = "#E69F00"
GLOBAL = "#882255"
"""Kinds of bad hands: a local error (an extra finger) and a global one (a hand of the wrong shape)."""

INK = "#1A1A1A"
PAPER = "#FFFFFF"
FAINT = "#D9D9D9"
NULL = "#9A9A9A"
"""What the same measure gives when labels are shuffled over images."""

BLOCK_COLOURS = ("#332288", "#0072B2", "#56B4E9", "#009E73", "#B8A100", "#E69F00", "#D55E00", "#CC79A7", "#882255")
"""Blocks in network order, cold to warm; see `block_colour`."""

P_BAD_CMAP = LinearSegmentedColormap.from_list("p_bad", [GOOD, "#FFFFFF", BAD])
"""P(bad) from blue through white to vermillion. Always drawn on the fixed scale `P_BAD_RANGE`."""

P_BAD_RANGE = (0.0, 1.0)
"""The same for all steps, images and probes, so that frames can be compared."""

COSINE_CMAP = LinearSegmentedColormap.from_list("cosine", ["#5E3C99", "#FFFFFF", "#B35806"])
"""Cosines on the fixed scale -1..1; other hues than P(bad), so that the two are not mixed up."""


def block_colour(index: int, count: int) -> str:
    """Colour of block `index` of `count` blocks in network order, spread over `BLOCK_COLOURS`."""
    if count <= 1:
        return BLOCK_COLOURS[0]
    last = len(BLOCK_COLOURS) - 1
    return BLOCK_COLOURS[round((index % count) * last / (count - 1))]

"""A `hand` probe's mask lands on the tokens where its activations say hand, and is offered by the page's server."""

import numpy as np
import pytest
import torch

from badhands.cells import Cell
from badhands.label.proposals import proposals
from badhands.label.propose import SOURCE, propose_hands
from badhands.probes.artifact import Probes
from badhands.probes.readout import Readout
from badhands.study.activations import write_image
from badhands.study.classes import GOOD
from demo_study import make_study

CELL, EARLY = Cell("single.2", 3), Cell("single.2", 17)


def save_probes(folder, head):
    readout = Readout(torch.tensor([4.0, 0, 0, 0]), -2.0)
    vector = {CELL: torch.ones(4)}
    card = {"fingerprint": "0" * 12, "width": 4}
    Probes({(head, CELL): readout}, vector, vector, {3: (17, 0.2, 20)}, card=card).save(folder)
    return folder


@pytest.fixture
def study(tmp_path):
    """One of three images is captured: tokens 100 to 139, of which 110 to 119 are a hand in the probe's cell alone."""
    study = make_study(tmp_path / "study", images=3, judged=False)
    tokens = np.arange(100, 140, dtype=np.int32)
    late, early = torch.zeros(40, 4), torch.zeros(40, 4)
    late[10:20, 0] = 1
    early[:, 0] = 1
    meta = {"prompt": "", "seed": 0, "grid": (16, 16), "steps": {3: (17, 0.2), 17: (3, 0.9)}, "label_digest": "x"}
    classes = np.ones(40, np.uint8)
    folder = study.activations_folder("0" * 12)
    write_image(folder, "img0001", {CELL: late, EARLY: early}, tokens, classes, classes * 0, meta)
    return study


def test_the_mask_is_where_the_probe_says_hand(study, tmp_path):
    assert propose_hands(study, save_probes(tmp_path / "probes", "hand"), 0.5) == 1
    entries = study.manifest.by_id
    (offered,) = proposals(study, entries["img0001"], None)
    assert (offered.source, offered.quality) == (SOURCE, False)
    assert np.flatnonzero(offered.classes == GOOD).tolist() == list(range(110, 120))
    assert proposals(study, entries["img0000"], None) == []


def test_probes_without_a_hand_head_are_refused(study, tmp_path):
    with pytest.raises(ValueError, match="no hand probe"):
        propose_hands(study, save_probes(tmp_path / "probes", "good"), 0.5)

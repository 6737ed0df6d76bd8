"""The artefact: what P(bad) assumes, and which head scores an image."""

import math
from dataclasses import replace

import pytest
import torch

from badhands.probes.readout import Readout
from watch_probes import make_probes


def test_p_bad_follows_bayes_rule_from_the_balanced_study_to_another_rate():
    probes = make_probes()
    cell = probes.cells[0]
    x = torch.randn(7, probes.width, generator=torch.Generator().manual_seed(3))
    balanced = probes.p_bad(cell, x)
    for rate in (0.02, 0.3, 0.9):
        expected = balanced * rate / (balanced * rate + (1 - balanced) * (1 - rate))
        torch.testing.assert_close(probes.at_rate(rate).p_bad(cell, x), expected)
    assert probes.bad_rate == 0.5 and probes.at_rate(0.9).bad_rate == 0.9
    torch.testing.assert_close(probes.at_rate(0.9).p_hand(cell, x), probes.p_hand(cell, x))
    with pytest.raises(ValueError, match="between 0 and 1"):
        probes.at_rate(1.0)


def test_the_image_head_scores_the_mean_hand_token():
    plain = make_probes()
    cell = plain.cells[0]
    x = torch.randn(9, plain.width, generator=torch.Generator().manual_seed(4))
    mask = torch.arange(9) < 5
    image = Readout(torch.randn(plain.width, generator=torch.Generator().manual_seed(5)), 0.3, (2.0, -0.1))
    probes = replace(plain, readouts={**plain.readouts, **{("image", c): image for c in plain.cells}})
    assert probes.image_head == "image" and plain.image_head == "good"
    score = probes.image_score(cell, x, mask)
    assert score == pytest.approx(float(image.logit(x[mask].mean(0))), abs=1e-5)
    assert probes.image_p_bad(cell, x, mask) == pytest.approx(1 - float(torch.sigmoid(torch.tensor(2 * score - 0.1))))
    assert math.isnan(probes.image_score(cell, x, torch.zeros(9, dtype=torch.bool)))

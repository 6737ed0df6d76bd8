import json

import pytest
import wandb

from badhands.report.wandb_workspace import save_view, write_layout


def test_the_layout_is_written_without_a_network_and_names_what_runs_log(tmp_path):
    view = json.loads(write_layout("someone", "hands", tmp_path / "layout.json").read_text())
    assert view["entity"] == "someone" and view["project"] == "hands"
    text = json.dumps(view)
    for key in (
        "best_auroc",
        "best_p",
        "early_auroc",
        "direction_loss",
        "watch/strips",
        "data/sheet_bad",
        "^curve/auroc/",
    ):
        assert key in text, key
    names = [section["name"] for section in view["spec"]["section"]["panelBankConfig"]["sections"]]
    assert names == ["Which run sees it best?", "Where and when?", "What it looks like", "Numbers"]


def test_saving_without_a_login_is_refused(monkeypatch):
    monkeypatch.setattr(wandb, "login", lambda **_: False)
    with pytest.raises(ValueError, match="wandb login"):
        save_view("someone", "hands")

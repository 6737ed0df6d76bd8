import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import Page, sync_playwright

from badhands.report.answer import answer
from badhands.report.caveats import caveats, standard_error
from badhands.report.headline import headline, interval
from badhands.report.report import write_report
from badhands.report.results import cells_table
from badhands.report.run import Run
from run_folder import BEST, write_run

UNFOLD = "open => document.querySelectorAll('details').forEach((fold) => { fold.open = open; })"
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    made = write_run(tmp_path_factory.mktemp("report") / "run")
    told = {
        "best_cell": "One of 9 cells.",
        "one_direction": "One direction? No: 0.6 <of> it.",
        "controls": "Size: 0.52.",
    }
    (made.folder / "findings.json").write_text(json.dumps([{"id": k, "sentence": v} for k, v in told.items()]))
    write_report(made)
    return made


@pytest.fixture(scope="module")
def page(run):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme="dark")
        page.problems, page.requested = [], []  # pyright: ignore[reportAttributeAccessIssue]
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("console", lambda message: page.problems.append(message.text))
        page.on("request", lambda request: page.requested.append(request.url.split(",")[0][:60]))
        page.goto(run.report.as_uri())
        yield page
        browser.close()


def test_the_page_opens_without_an_error_and_loads_nothing_from_elsewhere(page: Page, run):
    assert page.problems == []
    assert {url for url in page.requested if not url.startswith("data:")} == {run.report.as_uri()[:60]}
    assert page.evaluate("[...document.images].filter(i => i.src).every(i => i.complete && i.naturalWidth > 0)")


def test_it_tells_question_answer_data_and_numbers(page: Page, run):
    shown = page.inner_text("main")
    assert shown.index("Does it know?") < shown.index("A hint: 0.90 in one cell") < shown.index("The data")
    page.evaluate(UNFOLD, True)
    text = page.inner_text("main")
    page.evaluate(UNFOLD, False)
    assert "Does it know?" in text and "One direction? No: 0.6 <of> it." in text
    assert "60 images of 30 prompts: 30 with good hands, 30 with bad ones." in text
    assert str(BEST) in text and "0.90" in text and "p = 0.01" in text
    assert "Size: 0.52." in text and "The data" in text
    assert run.commit[:40] in text and "python train.py probe=logistic" in text
    assert page.locator("figure img").count() == 4


def test_the_whole_configuration_is_there(page: Page):
    page.click("text=The whole configuration")
    assert "kind: logistic" in page.inner_text("pre")


def test_a_figure_opens_large_and_closes(page: Page):
    page.locator("figure img").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("dialog").is_visible()
    fitted = page.locator("dialog img").bounding_box()
    page.locator("dialog img").click()
    full = page.evaluate("document.querySelector('dialog img').naturalWidth")
    assert fitted and page.locator("dialog img").bounding_box()["width"] == full >= fitted["width"]
    page.click("dialog button")
    assert not page.locator("dialog").is_visible()


def test_tables_are_joined_on_the_cell_and_not_on_how_sigma_was_rounded(tmp_path):
    run = write_run(tmp_path / "run")
    before = cells_table(run)
    path = run.folder / "tables" / "headline.csv"
    table = pd.read_csv(path)
    table["sigma"] += 1e-9
    table.to_csv(path, index=False)
    after = cells_table(Run.open(run.folder))
    assert len(after) == len(before) == after["cell"].nunique()
    assert after["d_b"].notna().all() and after["auroc"].notna().all() and after["sigma"].notna().all()


def test_the_first_sentence_claims_what_the_gate_and_a_second_study_allow(tmp_path):
    hint = answer(write_run(tmp_path / "hint"))
    assert hint and hint.startswith("A hint: 0.90 in one cell, at ") and "reaches" in hint
    chance = answer(write_run(tmp_path / "chance", strength=0.5))
    assert chance and chance.startswith("Undecided: no cell")
    run = write_run(tmp_path / "shown")
    for outcome, words in [("confirmed", "Shown: 1 of 1"), ("not confirmed", "none of 1 locked claims held")]:
        row = {"block": "single.1", "timestep": 12, "sentence": "s", "above": 0.5, "value": 0.8, "outcome": outcome}
        pd.DataFrame([row]).to_csv(run.folder / "tables" / "replication.csv", index=False)
        assert words in str(answer(Run.open(run.folder)))
    assert answer(Run.begin(tmp_path / "empty", {})) is None


def test_an_interval_that_leaves_everything_open_is_no_number():
    found = {"direction_loss": 0.3, "direction_loss_lo": -2.0, "direction_loss_hi": 1.0}
    assert interval(found, "direction_loss") == "undecided"
    assert interval({**found, "direction_loss_lo": 0.1, "direction_loss_hi": 0.4}, "direction_loss")[:7] == "0.300 ["


def test_before_unfolding_it_is_short_and_what_is_wide_can_be_scrolled_by_keyboard(page: Page):
    for size in ({"width": 390, "height": 844}, {"width": 1200, "height": 900}):
        page.set_viewport_size(size)
        assert page.evaluate("document.documentElement.scrollHeight / innerHeight") < 8
    page.set_viewport_size({"width": 390, "height": 844})
    wide = page.locator(".scroll.wide[aria-label='Every cell']")
    assert "scroll sideways" in wide.evaluate("place => getComputedStyle(place, '::before').content")
    wide.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("place => place.scrollLeft > 0", arg=wide.element_handle())
    page.set_viewport_size({"width": 1200, "height": 900})


def test_a_narrow_window_does_not_scroll_sideways(page: Page):
    page.set_viewport_size({"width": 380, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    page.set_viewport_size({"width": 1200, "height": 900})


def test_a_failed_run_is_reported_as_far_as_it_came(tmp_path):
    run = write_run(tmp_path / "run")
    (run.folder / "tables" / "verdicts.csv").unlink()
    with pytest.raises(RuntimeError), run.stage("probes"):
        raise RuntimeError("out of <memory>")
    text = write_report(Run.open(run.folder)).read_text()
    assert "stopped in its stage" in text and "out of &lt;memory&gt;" in text
    assert "D_B peaks at" in text and "lost by one direction" not in text


def test_a_run_that_measured_nothing_still_has_a_report(tmp_path):
    run = Run.begin(tmp_path / "run", {"question": "Why?"})
    assert "Why?" in write_report(run).read_text() and "report.html" in headline(run)


def test_caveats_follow_from_the_data(tmp_path):
    few = " ".join(caveats(write_run(tmp_path / "few", images=16)))
    assert "8 good and 8 bad" in few and "judge" in few and "3 of 9 cells" in few and "mostly bias" in few
    many = " ".join(caveats(write_run(tmp_path / "many", images=400)))
    assert "Few images" not in many and "baseline" not in many
    chance = " ".join(caveats(write_run(tmp_path / "chance", strength=0.5)))
    assert "No cell stands out" in chance and "needs no block" in chance


def test_the_standard_error_is_that_of_the_literature():
    assert standard_error(0.8, 100, 100) == pytest.approx(0.031, abs=0.001)


def test_what_people_typed_stays_text(tmp_path):
    run = Run.begin(tmp_path / "run", {"question": "<script>alert(1)</script>"}, overrides=("data.images=<b>",))
    text = write_report(run).read_text()
    assert "<script>alert(1)" not in text and "<b>" not in text


def test_runs_read_back(tmp_path):
    run = write_run(tmp_path / "run", group="g")
    again = Run.open(tmp_path / "run")
    assert again == run and again.config["probe"] == {"kind": "logistic"} and Path(again.folder) == tmp_path / "run"

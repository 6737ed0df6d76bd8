"""axe-core finds nothing serious on any page, dark or light: the labelling page, watch, report and comparison."""

import json

import pytest
import torch
from axe_playwright_python.sync_playwright import Axe

from badhands.report.compare import compare
from badhands.report.report import write_report
from badhands.watch import watch
from demo_study import make_study
from label_site import chromium, open_page, served
from run_folder import write_run
from tiny_pipeline import make_pipeline
from watch_probes import make_probes

SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


def serious(page):
    """What axe-core calls serious or worse: rule, and the elements."""
    found = Axe().run(page).response["violations"]
    return [(one["id"], [node["html"][:90] for node in one["nodes"]]) for one in found if one["impact"] in SERIOUS]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A report with a run's tables, a comparison of two, and the page of a watched picture."""
    root = tmp_path_factory.mktemp("pages")
    runs = [write_run(root / name) for name in ("one", "two")]
    told = [{"id": name, "sentence": "A sentence."} for name in ("best_cell", "controls", "one_direction")]
    (runs[0].folder / "findings.json").write_text(json.dumps(told))
    with watch(make_pipeline(seed=2, scale=3.0), make_probes()) as seen:
        seen.pipe("a hand", height=64, width=64, num_inference_steps=4, max_sequence_length=16, output_type="latent",
                  generator=torch.Generator().manual_seed(0))  # fmt: skip
    return {
        "report": write_report(runs[0]),
        "compare": compare(runs, root),
        "watch": seen.save(root / "watch", title="a hand") / "page.html",
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["report", "compare", "watch"])
def test_pages_of_files(browser, files, name, scheme):
    page = browser.new_context(color_scheme=scheme).new_page()
    page.goto(files[name].as_uri())
    page.evaluate("() => document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
    assert serious(page) == []
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_labelling_page(browser, tmp_path, scheme):
    with served(make_study(tmp_path / "study", images=12)) as address:
        page = open_page(browser, address, color_scheme=scheme)
        page.keyboard.press("2")
        page.wait_for_selector("#confirmed:not([hidden])")
        assert serious(page) == []
        page.keyboard.press("s")
        page.wait_for_selector("#proposals:not([hidden])")
        assert serious(page) == []
        page.keyboard.press("?")
        assert serious(page) == []


def test_a_page_with_a_fault_is_caught(browser):
    page = browser.new_page()
    page.set_content("<html lang=en><title>x</title><main><button></button><p style='color:#ccc'>pale</p></main>")
    assert {name for name, _ in serious(page)} == {"button-name", "color-contrast"}

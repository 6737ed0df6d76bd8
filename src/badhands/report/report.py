"""report.html: one run as a page that explains itself, readable without W&B and without a network.

python -m badhands.report outputs/runs/...      write it again from the run's files
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from badhands.report.answer import answer
from badhands.report.captions import SECTIONS, SENTENCES, WATCHED, caption, section_of, strip_caption
from badhands.report.caveats import caveats
from badhands.report.findings.probed import KINDS
from badhands.report.findings.probed import answer as shares
from badhands.report.headline import cards, interval
from badhands.report.page import data_uri, render
from badhands.report.results import cells_table, findings
from badhands.report.run import Run
from badhands.report.words import WORDS

TABLE_ROWS = 400
"""Longer tables are shown as far as this; the CSV beside the report has them whole."""


@dataclass
class Section:
    """One chapter of the page."""

    id: str
    title: str
    text: list[str] = field(default_factory=list)
    figures: list[dict[str, str]] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)


def write_report(run: Run) -> Path:
    """Write report.html from what the run folder holds, be it whole or not."""
    page = render(
        "report.html",
        title=title(run),
        question=run.config.get("question", ""),
        run=run,
        choices=" · ".join(f"{group}: {choice}" for group, choice in run.choices.items()),
        command="python train.py " + " ".join(run.overrides),
        stopped=run.failed,
        cards=cards(run),
        answer=answer(run),
        words=WORDS,
        caveats=caveats(run),
        sections=[section for section in sections(run) if section.text or section.figures or section.tables],
        config=yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True),
    )
    run.report.write_text(page, encoding="utf-8")
    return run.report


def title(run: Run) -> str:
    return f"What {run.choices.get('model', 'the model')} knows about its hands"


def sections(run: Run) -> list[Section]:
    """The chapters in order: question, data, film strips, measures, probes, everything else."""
    by_id = {name: Section(name, heading) for name, heading in SECTIONS}
    by_id["data"].text = data_text(run)
    told = findings(run)
    for name in sorted(told, key=lambda name: name != "one_direction"):  # the answer of its section first
        if name in SENTENCES:
            by_id[SENTENCES[name]].text.append(told[name])
    if run.strips():
        by_id["watch"].text = [WATCHED, *rate_text(run)]
    for name, path in run.strips().items():
        by_id["watch"].figures.append(
            {"name": name, "uri": data_uri(path), "caption": strip_caption(name), "kind": "strips"}
        )
    for name, path in sorted(run.figures().items(), key=lambda item: section_of(item[0])[1]):
        where, _ = section_of(name)
        by_id[where].figures.append({"name": name, "uri": data_uri(path), "caption": caption(name), "kind": ""})
    shared = one_direction_table(run)
    if not shared.empty:
        by_id["global"].tables.append(shown("AUROC that shared directions lose", shared, folded=False))
        by_id["global"].text = [_without_numbers(text) for text in by_id["global"].text]
    cells = cells_table(run)
    if not cells.empty:
        by_id["cells"].tables.append(shown("Every cell", cells, folded=False))
    for name, path in run.tables().items():
        by_id["tables"].tables.append(shown(name, run.table(name), note=f"tables/{path.name}"))
    return [by_id[name] for name, _ in SECTIONS]


def matching(run: Run, images: pd.DataFrame) -> str:
    """What good and bad images have in common by design, and what a probe could still read instead of the hand."""
    unit = "The image is the independent unit: tokens of one image are near copies of each other. "
    if images["prompt"].nunique() == 1:
        return unit + "All images are of one prompt: what is found holds for this prompt, others were not asked."
    match = [str(axis) for axis in (run.config.get("labels") or {}).get("match") or []]
    if not match:
        return unit + (
            "Folds keep the images of one prompt together, and labels are shuffled over all images. They are not "
            "matched: some prompts may give more bad hands than others, and a probe may then read the prompt instead "
            "of the hand. labels.match= balances good and bad inside the axes of the prompts."
        )
    axes = pd.DataFrame([json.loads(one) for one in images["axes"]]) if "axes" in images else pd.DataFrame()
    left = [str(axis) for axis in axes if axis not in match and axes[axis].nunique() > 1]
    other = f" Not matched: {', '.join(left)}." if left else ""
    return unit + (
        f"Good and bad hands are matched on {', '.join(match)}: images that agree in all of these share a fold, and "
        f"labels are shuffled among them.{other}"
    )


def one_direction_table(run: Run) -> pd.DataFrame:
    """A row for each way to leave cells out: what one shared direction loses there, and what that says."""
    verdicts = run.table("verdicts")
    rows = []
    for kind, name in KINDS.items() if len(verdicts) else ():
        lost = [verdicts[verdicts["what"] == f"{what}:{kind}"] for what in ("to_own", "to_rank3")]
        if any(of.empty for of in lost):
            continue
        own, three = (of.iloc[0] for of in lost)
        values = [interval({"loss": v["value"], "loss_lo": v["lo"], "loss_hi": v["hi"]}, "loss") for v in (own, three)]
        rows.append((name, *values, shares(own, three)))
    columns = ["asked on", "lost to the cells' own probes", "lost to three shared directions", "is one enough?"]
    return pd.DataFrame(rows, columns=columns)


def _without_numbers(sentence: str) -> str:
    """The answer alone, where a table beside it has the numbers."""
    head, parted, _ = sentence.partition(" (less than")
    return f"{head}. The table has the numbers." if parted else sentence


def data_text(run: Run) -> list[str]:
    """n and balance, in words."""
    images = run.table("images")
    if images.empty:
        return []
    good, bad = (images[images["class"] == name] for name in ("good", "bad"))
    hand = int(images["good_tokens"].sum() + images["bad_tokens"].sum())
    who = ", ".join(sorted(set(images["annotator"].dropna().astype(str)) - {""})) or "unknown"
    text = [
        f"{len(images)} images of {images['prompt'].nunique()} prompts: {len(good)} with good hands, {len(bad)} with "
        f"bad "
        f"ones. {hand:,} hand tokens ({int(images['good_tokens'].sum()):,} good, {int(images['bad_tokens'].sum()):,} "
        f"bad) "
        f"and {int(images['not_hand_tokens'].sum()):,} not-hand tokens were captured. Labelled by: {who}.",
        matching(run, images),
    ]
    if "conflict" in images and images["conflict"].any():
        disputed = images[images["conflict"]]
        won = ", ".join(f"{who} {n}" for who, n in disputed["annotator"].value_counts().items())
        text.append(
            f"People disagree about {len(disputed)} of these images; the newest label counts, which is of {won}."
        )
    kinds = bad["kind"].fillna("").replace("", "unknown").value_counts()
    if set(kinds.index) - {"unknown"}:
        text.append("Kinds of error among the bad: " + ", ".join(f"{n} {kind}" for kind, n in kinds.items()) + ".")
    return text


def rate_text(run: Run) -> list[str]:
    """Which share of bad hands P(bad) assumes."""
    card = run.folder / "probes" / "card.json"
    if not card.is_file():
        return []
    rate = json.loads(card.read_text()).get("bad_rate")
    if rate is None:
        return ["P(bad) assumes that half of all hands are bad: the model's own share is not known (watch.bad_rate=)."]
    return [f"P(bad) assumes that {rate:.0%} of the hands are bad, the model's own share among labelled images before "
            "classes were balanced; watch.bad_rate= moves it to another."]  # fmt: skip


def shown(name: str, frame: pd.DataFrame, folded: bool = True, note: str = "") -> dict[str, Any]:
    """A table as HTML: numbers to four digits, at most `TABLE_ROWS` rows."""
    more = f" The first {TABLE_ROWS} of {len(frame)} rows." if len(frame) > TABLE_ROWS else ""
    html = frame.head(TABLE_ROWS).to_html(
        index=False,
        border=0,
        na_rep="–",
        classes=["words"] if len(frame) < 5 else None,  # cells may break their lines
        float_format=lambda v: f"{v:.4g}",
        escape=True,
    )
    return {"title": name, "html": _Safe(html), "rows": len(frame), "folded": folded, "note": (note + more).strip()}


class _Safe(str):
    """pandas has escaped every value; the template must not do it again."""

    def __html__(self) -> str:
        return str(self)

"""Probes on the Hugging Face Hub: the artefact, a model card and a `probe_card.json` that say what they are worth."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import pandas as pd

from badhands.cells import PSEUDO_BLOCKS, Cell
from badhands.study.hub import pull_folder, push_folder
from badhands.study.privacy import refuse_private, texts_of, without_paths

FILES = ["probes.safetensors", "card.json", "probe_card.json", "README.md"]

CAUTIONS = (
    "They read one model at one size and schedule: another model, size, kernel or precision shifts activations. "
    "Recalibrate on labelled samples of your own.",
    "A score says that the activations of this study's bad hands differ from its good ones. It does not say that the "
    "model knows what a hand is, nor that the direction causes anything.",
    "P(bad) is calibrated to the share of bad hands stated above, not to your prompts.",
    "A verdict read in the first steps can be the prompt: compare with the baseline of the prompt's words.",
    "The best of many cells is the best by luck too: read p against the largest of all cells, not the AUROC alone.",
)


class Artefact(Protocol):
    """What is sent of `badhands.Probes`."""

    @property
    def card(self) -> Mapping[str, Any]: ...

    @property
    def heads(self) -> Iterable[str]: ...

    @property
    def cells(self) -> tuple[Cell, ...]: ...

    @property
    def width(self) -> int: ...

    def with_card(self, card: dict[str, Any]) -> "Artefact": ...

    def save(self, folder: Path) -> Any: ...


def push(
    probes: Artefact,
    repo: str,
    *,
    license: str,
    base_model: str | None = None,
    run: Path | str | None = None,
    private: bool = True,
) -> str:
    """Send the probes with their cards to `repo`; returns the address.

    Raises:
        ValueError: something private in a card, no login, no connection; nothing has been sent then.
    """
    with TemporaryDirectory() as folder:
        write_folder(probes, Path(folder), license=license, base_model=base_model, run=run)
        return push_folder(Path(folder), repo, "model", private=private, message="Probes")


def pull(repo: str, *, revision: str | None = None) -> Path:
    """A folder for `Probes.load`."""
    return pull_folder(repo, "model", revision=revision, patterns=FILES)


def write_folder(
    probes: Artefact, folder: Path, *, license: str, base_model: str | None = None, run: Path | str | None = None
) -> Path:
    """What would be sent: probes.safetensors, card.json, probe_card.json, README.md.

    Args:
        license: of the probes, as the Hub writes it (mit, other, ...); probes of a model follow that model's licence.
        base_model: repo id of the model; None takes the one in the probes' fingerprint, if it is a repo.
        run: the run folder, whose tables hold AUROC with intervals and controls; None: the card claims no score.
    """
    cleaned = without_paths(dict(probes.card))
    card = probe_card(cleaned, probes, base_model or _base_model(probes.card), license, evidence(run))
    refuse_private([*texts_of(cleaned, "card.json"), *texts_of(card, "probe_card.json")])
    probes.with_card(cleaned).save(folder)
    (folder / "probe_card.json").write_text(json.dumps(card, indent=1, default=str) + "\n")
    (folder / "README.md").write_text(readme(card))
    return folder


def _base_model(card: Mapping[str, Any]) -> str | None:
    """black-forest-labs/FLUX.1-dev of `black-forest-labs/FLUX.1-dev@<commit>`; None for a local folder."""
    path = str((card.get("generation") or {}).get("weights", "")).partition("@")[0]
    return path if path.count("/") == 1 and not path.startswith(("/", "sha256", "sampled")) else None


def evidence(run: Path | str | None) -> dict[str, Any]:
    """Bad rate, AUROC with intervals and controls, from the tables of a run; empty without one."""
    tables = Path(run) / "tables" if run is not None else None
    if tables is None or not (tables / "headline.csv").is_file():
        if run is not None:
            raise ValueError(f"{run} has no tables/headline.csv: give the folder of a run that has trained its probes")
        return {}
    table = pd.read_csv(tables / "headline.csv")
    own = table[(table["metric"] == "auroc") & (table["split"] == "out_of_fold") & ~table["block"].isin(PSEUDO_BLOCKS)]
    found: dict[str, Any] = {"cells": {f"{r['block']}/t{int(r['timestep'])}": _interval(r) for _, r in own.iterrows()}}
    chance = table[table["metric"] == "auroc_p_family"]
    if len(chance):
        found["p_of_best_cell"] = float(chance["value"].min())
    found["baselines"] = {}
    if (tables / "baselines.csv").is_file():
        rows = pd.read_csv(tables / "baselines.csv")
        rows = rows[rows["metric"] == "auroc"]
        for name, of in rows.groupby("control", sort=False):
            best = of.loc[of["value"].idxmax()]
            found["baselines"][str(name)] = {"what": str(best.get("title", name)), **_interval(best)}
    if (tables / "images.csv").is_file():
        classes = pd.read_csv(tables / "images.csv")["class"].value_counts()
        found["images"] = {str(name): int(count) for name, count in classes.items()}
    return found


def _interval(row: pd.Series) -> dict[str, float]:
    return {key: round(float(row[key]), 4) for key in ("value", "lo", "hi") if pd.notna(row[key])}


def probe_card(
    card: Mapping[str, Any], probes: Artefact, base_model: str | None, license: str, found: Mapping[str, Any]
) -> dict[str, Any]:
    """What OpenInterp's `probe_card.json` asks for, with the names of its controls; what was not run says so."""
    images = found.get("images") or card.get("images") or {}
    total = sum(images.get(name, 0) for name in ("good", "bad"))
    return {
        "library_name": "badhands",
        "base_model": base_model,
        "license": license,
        "model": card.get("model"),
        "study": card.get("study"),
        "probe": card.get("probe"),
        "date": card.get("date"),
        "commit": str(card.get("commit", ""))[:12],
        "fingerprint": card.get("fingerprint"),
        "heads": list(probes.heads),
        "cells": [str(cell) for cell in probes.cells],
        "width": probes.width,
        "images": dict(images),
        "bad_rate": card.get("bad_rate"),
        "bad_rate_of_study": round(images.get("bad", 0) / total, 4) if total else None,
        "image_auroc_out_of_fold": found.get("cells") or {},
        "controls": {
            "shuffled_source": {"run": "p_of_best_cell" in found,
                                "what": "labels shuffled, probes refitted; p against everything the run tests",
                                "p_of_best_cell": found.get("p_of_best_cell")},
            "random_feature": {"run": False, "what": "a random direction as a probe; random directions are shipped for "
                               "steering and are no probe's score"},
            "capacity_sweep": {"run": False, "what": "python train.py -m probe=mass_mean,lda,logistic,mlp compares "
                               "capacities; one artefact holds one of them"},
            **found.get("baselines", {}),
        },
        "what_not_to_conclude": list(CAUTIONS),
    }  # fmt: skip


def readme(card: Mapping[str, Any]) -> str:
    """The model card: metadata that the Hub reads, then the same numbers for people."""
    cells = card["image_auroc_out_of_fold"]
    best = max(cells, key=lambda name: cells[name]["value"]) if cells else None
    head = ["---", "library_name: badhands", f"license: {card['license']}"]
    head += [f"base_model: {card['base_model']}", "base_model_relation: adapter"] if card["base_model"] else []
    head += ["tags:", *(f"- {tag}" for tag in ("badhands", "linear-probe", "interpretability", "text-to-image"))]
    if best:
        head += ["model-index:", f"- name: probes of {card['model']}", "  results:", "  - training:",
                 "      type: image-classification", "      name: bad hands from activations", "    dataset:",
                 f"      name: {card['study']}", f"      type: {card['study']}", "    metrics:",
                 "    - type: roc_auc", f"      name: image AUROC out of fold, best cell ({best})",
                 f"      value: {cells[best]['value']}"]  # fmt: skip
    rate, images, own = card["bad_rate_of_study"], card["images"], card["bad_rate"]
    body = [
        "---", "", f"# Bad-hand probes of {card['model']}", "",
        f"Linear readouts of {len(card['cells'])} cells (block, timestep) of {card['base_model'] or card['model']}, "
        f"width {card['width']}: is a token hand, and is that hand good? One dot product a token.", "",
        "    from badhands import Probes, watch", "", '    probes = Probes.from_hub("<this repo>")',
        "    with watch(pipe, probes) as seen:", '        image = pipe("a hand").images[0]', "",
        "## What they were trained on", "",
        f"Study `{card['study']}`: {images.get('good', '?')} good and {images.get('bad', '?')} bad images"
        + (f", a bad rate of {rate:.0%} among those chosen" if rate is not None else "")
        + (f"; P(bad) is calibrated to the model's own rate of {own:.0%}." if own is not None else "."), "",
        "## How well they read", "", "Image AUROC out of fold, 95 % intervals; all cells are in `probe_card.json`.", "",
        *_table({k: cells[k] for k in sorted(cells, key=lambda name: -cells[name]["value"])[:8]}, "cell"),
        "## Controls", "", *_controls(card["controls"]),
        "## What not to conclude", "", *(f"- {line}" for line in card["what_not_to_conclude"]), "",
    ]  # fmt: skip
    return "\n".join(head + body)


def _table(rows: Mapping[str, Mapping[str, float]], name: str) -> list[str]:
    if not rows:
        return ["These probes were pushed without their run: no score is known here.", ""]
    lines = [f"| {name} | image AUROC | 95 % |", "|---|---|---|"]
    return [*lines, *(f"| {k} | {v['value']:.3f} | {v.get('lo', float('nan')):.3f} to {v.get('hi', float('nan')):.3f} |"
                      for k, v in rows.items()), ""]  # fmt: skip


def _controls(controls: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = []
    for name, control in controls.items():
        numbers = ", ".join(f"{k} {v:.3g}" for k, v in control.items() if isinstance(v, float))
        lines.append(f"- `{name}`: {control['what']}" + (f" ({numbers})" if numbers else "; not run"))
    return [*lines, ""]

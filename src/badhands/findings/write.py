"""findings.json of a run: written after every stage from what is there, by one function that asks one gate."""

import json
from collections.abc import Sequence
from pathlib import Path

from badhands.findings.facts import Facts, Finding
from badhands.findings.measured import MEASURED
from badhands.findings.probed import PROBED

NAME = "findings.json"


def findings(facts: Facts) -> list[Finding]:
    """All sentences that the tables allow."""
    return [found for rule in (*MEASURED, *PROBED) if (found := rule(facts)) is not None]


def write_findings(folder: Path, left_out: Sequence[str] = ()) -> list[Finding]:
    """Write (again) what a run folder says now. `left_out`: sentences about what was not measured; kept once said."""
    path = folder / NAME
    before = json.loads(path.read_text()) if path.is_file() else []
    said = " ".join(left_out) or next((old["sentence"] for old in before if old["id"] == "left_out"), "")
    found = findings(Facts.of(folder))
    if said:
        found.append(Finding("left_out", said))
    path.write_text(json.dumps([one.record for one in found], indent=1) + "\n")
    return found

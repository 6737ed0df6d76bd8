"""findings.json of a run: written after every stage from what is there, by one function that asks one gate."""

import json
from pathlib import Path

from badhands.report.findings.facts import Facts, Finding
from badhands.report.findings.measured import MEASURED, left_out
from badhands.report.findings.probed import PROBED

NAME = "findings.json"


def findings(facts: Facts) -> list[Finding]:
    """All sentences that the tables allow."""
    return [found for rule in (*MEASURED, *PROBED, left_out) if (found := rule(facts)) is not None]


def write_findings(folder: Path) -> list[Finding]:
    """Write (again) what a run folder says now."""
    found = findings(Facts.of(folder))
    (folder / NAME).write_text(json.dumps([one.record for one in found], indent=1) + "\n")
    return found

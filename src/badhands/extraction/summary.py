"""What a run leaves behind, in a few lines."""

from collections.abc import Mapping, Sequence

from badhands.extraction.captures import Refusal
from badhands.extraction.images import ready_images
from badhands.extraction.job import Job
from badhands.study.choice import Choice
from badhands.study.labels import VERDICTS, LabelRecord
from badhands.study.study import Study


def summary(
    job: Job,
    study: Study,
    labels: Mapping[str, LabelRecord],
    choice: Choice,
    refused: Sequence[Refusal],
) -> str:
    """Counts of images, labels and activations, and the next command."""
    said = {verdict: sum(r.hand_verdict == verdict for r in labels.values()) for verdict in VERDICTS}
    counts = ", ".join(f"{n} {verdict.replace('_', ' ')}" for verdict, n in said.items() if n)
    silent = len(job.plan) - len(labels)
    folders = ", ".join(str(study.activations_folder(fp).relative_to(study.root)) for fp in study.fingerprints())
    chosen = set(choice.ids)
    there = sum(
        study.activation_path(entry.fingerprint, entry.id).exists()
        for entry in study.manifest.entries
        if entry.id in chosen
    )
    lines = [
        f"study        {study.root}",
        f"images       {len(ready_images(job, study))} of {len(job.plan)}",
        f"labels       {job.labels.source}: {counts}" + (f", {silent} without a label" if silent else ""),
        f"activations  {there} of {len(chosen)} chosen images, {len(job.cells)} cells, in {folders}",
    ]
    if choice.conflicts:
        lines.append(
            f"conflicts    {len(choice.conflicts)} images called differently by several people; the newest counts"
        )
    if refused:
        lines.append(f"refused      {len(refused)} images, see the warnings above")
    if there == len(chosen):
        name = study.name if study.root.parent.name == "studies" else study.root
        lines.append(f"next         python train.py model={job.spec.name} study={name}")
    return "\n".join(lines)

"""Stage 2: labels, by the embedded model's judge or by people; and the choice of images to capture."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from badhands.extraction.images import ready_images
from badhands.extraction.job import Job
from badhands.study.choice import JUDGE, Choice, ChosenImage
from badhands.study.classes import BAD, GLOBAL, GOOD, LOCAL, NOT_HAND
from badhands.study.labels import LabelRecord, choose_balanced
from badhands.study.study import Study

if TYPE_CHECKING:
    from badhands.tiny_hands.judge import Verdict


class Pause(Exception):
    """The run stops here and goes on when it is called again; the message says what has to happen first."""


def label_images(job: Job, study: Study) -> dict[str, LabelRecord]:
    """Labels of the planned images, by id: those in the log, and with labels=judge new ones for the rest.

    Raises:
        Pause: people have to label first.
        ValueError: the judge does not know pictures of this size.
    """
    if job.labels.source == "judge":
        judge_images(job, study)
    by_image = records_by_image(study)
    chosen: dict[str, LabelRecord] = {}
    for planned in job.plan:
        record = job.labels.counting(by_image.get(planned.id, []))
        if record is not None:
            chosen[planned.id] = record
    if job.labels.source == "painted":
        pause_for_people(job, study, chosen)
    return chosen


def judge_images(job: Job, study: Study) -> None:
    """Let the judge label what it has not labelled. Each image alone, so that a batch's size changes no last digit."""
    name = job.labels.annotator
    assert name is not None
    known = study.labels.latest()
    todo = [entry for entry in ready_images(job, study).values() if (entry.id, name) not in known]
    if not todo:
        return
    from badhands.tiny_hands.judge import Judge

    judge = Judge.load()
    for entry in tqdm(todo, desc="labels", unit="image"):
        try:
            (verdict,) = judge.judge(np.asarray(study.verified(entry))[None])
        except ValueError as error:
            raise ValueError(f"labels=judge: {error}; label by hand with labels=painted") from error
        record = record_of(entry.id, name, verdict, entry.grid)
        if record is not None:
            study.labels.append_if_first(record)
    study.labels.sort_machine_labels({planned.id: i for i, planned in enumerate(job.plan)})


def record_of(image_id: str, annotator: str, verdict: "Verdict", grid: tuple[int, int]) -> LabelRecord | None:
    """The judge's verdict as a label; None where it abstained. A hand is good or bad as a whole."""
    if verdict.verdict == "abstain":
        return None
    classes = np.full(grid, NOT_HAND, np.uint8)
    kinds = np.zeros(grid, np.uint8)
    if verdict.verdict in ("good", "bad"):
        classes[verdict.token_mask] = BAD if verdict.verdict == "bad" else GOOD
    if verdict.verdict == "bad":
        kinds[verdict.token_mask] = {"local": LOCAL, "global": GLOBAL, None: 0}[verdict.kind]
    return LabelRecord(
        image_id=image_id,
        annotator=annotator,
        time="",
        seconds=0.0,
        classes=classes,
        kinds=kinds,
        verdict=verdict.verdict,
        note=f"{verdict.fingers} fingers" if verdict.verdict != "no_hand" else "",
        confidence=round(float(verdict.confidence), 4),
    )


def pause_for_people(job: Job, study: Study, labels: dict[str, LabelRecord]) -> None:
    """Raises Pause until at least one good and one bad image have painted hand tokens."""
    kinds = [record.hand_verdict for record in labels.values() if record.painted]
    if "good" in kinds and "bad" in kinds:
        return
    left = len(job.plan) - len(labels)
    said = f"{left} of {len(job.plan)} images have no label yet" if left else "all images have a verdict"
    need = "" if left else f", but hands are painted on {len(kinds)} only; good and bad ones are needed"
    where = study.name if study.root.parent.name == "studies" else study.root
    raise Pause(
        f"The images are ready in {study.root / 'images'}; {said}{need}.\n"
        f"Label them with:  python -m badhands.label study={where}\n"
        "Then run the same extract.py command again."
    )


def records_by_image(study: Study) -> dict[str, list[LabelRecord]]:
    """The newest record of every annotator, by image."""
    found: dict[str, list[LabelRecord]] = {}
    for (image_id, _), record in study.labels.latest().items():
        found.setdefault(image_id, []).append(record)
    return found


def choose_images(job: Job, study: Study, labels: dict[str, LabelRecord]) -> Choice:
    """Images to capture, in the plan's order, of all shares: the same for every worker.

    Raises:
        Pause: other workers' images are still missing, and the choice depends on all of them.
        ValueError: no good or no bad hands, a prompt lacks an axis to match, or no group has both kinds.
    """
    ready = ready_images(job, study)
    absent = len(job.plan) - len(ready)
    if absent and job.labels.source == "judge":
        raise Pause(
            f"Shard {job.shard.index}/{job.shard.count} has made its images; {absent} of {len(job.plan)} are still to "
            "come from others. Run the same command again when they are there."
        )
    verdicts = {i: record.hand_verdict for i, record in labels.items() if record.painted and i in ready}
    counts = {kind: sum(v == kind for v in verdicts.values()) for kind in ("good", "bad")}
    if not all(counts.values()):
        raise ValueError(
            f"the study has {counts['good']} images with good and {counts['bad']} with bad hands, both are needed: "
            "make more with images=, or label more"
        )
    strata = strata_of(job, verdicts)
    images = tuple(
        ChosenImage(i, str(verdicts[i]), labels[i].annotator, labels[i].digest, strata.get(i, ""))
        for i in chosen_ids(job, verdicts, strata)
    )
    return Choice(
        rule=job.labels,
        images=images,
        labelled=sum(counts.values()),
        bad=counts["bad"],
        conflicts=conflicting(job, study, verdicts),
    )


def conflicting(job: Job, study: Study, verdicts: Mapping[str, str | None]) -> tuple[str, ...]:
    """Labelled images that several annotators call differently, where the rule takes the newest label."""
    if job.labels.annotator is not None:
        return ()
    people = {
        image_id: {r.hand_verdict for r in records if r.annotator != JUDGE}
        for image_id, records in records_by_image(study).items()
    }
    return tuple(image_id for image_id in verdicts if len(people.get(image_id, ())) > 1)


def strata_of(job: Job, verdicts: Mapping[str, str | None]) -> dict[str, str]:
    """The matching key of every image; nothing where nothing is matched.

    Raises:
        ValueError: a prompt lacks an axis to match.
    """
    match = job.labels.match
    if not match:
        return {}
    axes = {planned.id: planned.prompt.axes for planned in job.plan}
    for image_id in verdicts:
        lacks = [name for name in match if name not in axes[image_id]]
        if lacks:
            raise ValueError(
                f"labels.match names {', '.join(lacks)}, which the prompt of {image_id} has not: "
                f"match one of {', '.join(axes[image_id]) or '(its prompts have no axes)'}, or set labels.match=[]"
            )
    return {i: "/".join(axes[i][name] for name in match) for i in verdicts}


def chosen_ids(job: Job, verdicts: Mapping[str, str | None], strata: Mapping[str, str]) -> list[str]:
    """Ids of the images to capture, of those with a verdict; balanced, inside every stratum where there are some.

    Raises:
        ValueError: no stratum has both kinds.
    """
    if not job.labels.balanced:
        return list(verdicts)
    chosen = choose_balanced(verdicts, job.labels.seed, strata or None)
    if verdicts and not chosen and strata:
        raise ValueError(
            f"no group of equal {', '.join(job.labels.match)} holds good and bad hands: make more with images=, "
            "or set labels.match=[]"
        )
    return chosen

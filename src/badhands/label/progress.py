"""How far each annotator is."""

import numpy as np
import pandas as pd

from badhands.study.labels import LabelRecord


def progress_table(labels: dict[tuple[str, str, int], LabelRecord], images: int) -> pd.DataFrame:
    """A row for each annotator and repetition.

    Args:
        labels: by (image id, annotator, repeat).
        images: how many the study has.

    Returns:
        columns annotator, labelled, of, good, bad, no_hand, skip, painted, accepted (of a proposal), s_per_image
        (median of the painted images, else of all).
    """
    groups: dict[tuple[str, int], list[LabelRecord]] = {}
    for (_, annotator, repeat), record in labels.items():
        groups.setdefault((annotator, repeat), []).append(record)
    rows = []
    for (annotator, repeat), records in sorted(groups.items()):
        verdicts = [record.hand_verdict for record in records]
        timed = [r.seconds for r in records if r.seconds and r.painted] or [r.seconds for r in records if r.seconds]
        rows.append(
            {
                "annotator": f"{annotator} again" if repeat else annotator,
                "labelled": sum(verdict is not None for verdict in verdicts),
                "of": images,
                **{name: verdicts.count(name) for name in ("good", "bad", "no_hand", "skip")},
                "painted": sum(record.painted for record in records),
                "accepted": sum(record.accepted_proposal for record in records),
                "s_per_image": round(float(np.median(timed)), 1) if timed else None,
            }
        )
    return pd.DataFrame(rows)

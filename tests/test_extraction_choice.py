from types import SimpleNamespace

import pytest

from badhands.extraction.verdicts import chosen_ids, strata_of
from badhands.study.choice import LabelChoice


def job(match: tuple[str, ...]):
    axes = [{"direction": "up"} for _ in range(6)] + [{"direction": "level"} for _ in range(4)]
    plan = [SimpleNamespace(id=f"i{k}", prompt=SimpleNamespace(axes=a)) for k, a in enumerate(axes)]
    return SimpleNamespace(plan=plan, labels=LabelChoice("judge", "judge", match=match))


VERDICTS: dict[str, str | None] = {f"i{k}": "bad" if k < 5 else "good" for k in range(10)}  # five bad up; one good up


def choice(job, verdicts):
    return chosen_ids(job, verdicts, strata_of(job, verdicts))


def test_matching_an_axis_takes_its_word_out_of_the_labels():
    assert len(choice(job(()), VERDICTS)) == 10
    matched = choice(job(("direction",)), VERDICTS)
    assert len(matched) == 2 and "i5" in matched, "one bad and one good upright hand; all level ones are good"


def test_an_axis_that_prompts_lack_is_named():
    with pytest.raises(ValueError, match=r"names colour, .* match one of direction, or set labels\.match=\[\]"):
        choice(job(("colour",)), VERDICTS)
    with pytest.raises(ValueError, match="no group of equal direction"):
        choice(job(("direction",)), {"i0": "bad", "i9": "good"})

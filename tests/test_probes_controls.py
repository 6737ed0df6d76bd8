import numpy as np
import torch

from badhands.probes.controls import prompt_words
from badhands.probes.task import Task


def test_words_of_the_prompt_are_those_that_tell_prompts_apart():
    image = np.array([0, 0, 1, 2], np.int32)
    task = Task("good", np.arange(4), image, np.ones(4, np.float32), np.array([0, 1, 0], np.int32), np.ones(4))
    x = prompt_words(task, ["A hand, upwards", "a hand downwards", "a big hand, upwards"])
    # `a` and `hand` stand in all, `big` and `downwards` in one: only `upwards` is left.
    assert torch.equal(x, torch.tensor([[1.0], [1.0], [0.0], [1.0]]))
    assert prompt_words(task, ["same", "same", "same"]).shape == (4, 0)

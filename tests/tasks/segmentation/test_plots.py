"""Which images are shown as the best and the worst."""

from __future__ import annotations

import numpy as np

from lab.tasks.segmentation.plots import MAX_PICTURES, Gallery

SIZE = np.array([[2, 4]])


def shown(cases: list[tuple[list[int], list[int]]]) -> list[int]:
    """The chosen ones of images given as (truth, prediction) of eight pixels."""
    gallery = Gallery(4)
    for truth, predicted in cases:
        gallery.add(np.array(predicted, np.uint8).reshape(1, 2, 4), np.array(truth, np.uint8).reshape(1, 2, 4), SIZE)
    return gallery.chosen()


def test_the_best_images_have_something_to_get_right() -> None:
    sea = ([0] * 8, [0] * 8)
    mixed = ([0, 0, 1, 1, 2, 2, 3, 3], [0, 0, 1, 1, 2, 2, 3, 0])
    wrong = ([0, 0, 1, 1, 2, 2, 3, 3], [3, 3, 2, 2, 1, 1, 0, 0])
    half = MAX_PICTURES // 2
    cases = [sea] * 20 + [mixed] * half + [sea] * 20 + [wrong] * half
    assert shown(cases) == [*range(40 + half, 40 + 2 * half), *range(20, 20 + half)]


def test_all_images_are_shown_where_there_are_few_worst_first() -> None:
    right, wrong = ([1] * 8, [1] * 8), ([1] * 8, [0] * 8)
    assert shown([right, wrong, right]) == [1, 0, 2]

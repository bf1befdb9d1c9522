"""Annotations made for the stored picture of an image that is shown turned, as its EXIF tag says (CIPA DC-008)."""

from __future__ import annotations

import numpy as np

from lab.core.errors import DataError
from lab.data.dataset import Boxes
from lab.data.decode import Geometry


def is_turned(stated: tuple[int, int] | None, geometry: Geometry, where: str) -> bool:
    """Whether an annotation for an image of `stated` (height, width) has to be turned with the picture.

    Only where the size is that of the stored picture and not also that of the upright one.

    Raises:
        DataError: it is the size of neither.
    """
    if stated in (None, geometry.size):
        return False
    if stated == geometry.stored:
        return True
    raise DataError(
        f"{where}: the annotation was made for an image of another size",
        got=f"{stated[0]} x {stated[1]} (height x width)" if stated else None,
        expected=f"{geometry.size[0]} x {geometry.size[1]}",
    )


def turn_mask(mask_HW: np.ndarray, orientation: int) -> np.ndarray:
    """From the stored grid to the upright one, for the orientations (5 to 8) that swap height and width."""
    turned = {5: mask_HW.T, 6: np.rot90(mask_HW, -1), 7: np.rot90(mask_HW, 2).T, 8: np.rot90(mask_HW, 1)}
    return np.ascontiguousarray(turned[orientation])


def turn_boxes(boxes: Boxes, geometry: Geometry) -> Boxes:
    """`turn_mask` for boxes."""
    height, width = geometry.stored
    x1_K, y1_K, x2_K, y2_K = boxes.boxes_K4.T
    corners = {
        5: (y1_K, x1_K, y2_K, x2_K),
        6: (height - y2_K, x1_K, height - y1_K, x2_K),
        7: (height - y2_K, width - x2_K, height - y1_K, width - x1_K),
        8: (y1_K, width - x2_K, y2_K, width - x1_K),
    }[geometry.orientation]
    return Boxes.of(np.stack(corners, axis=1), boxes.classes_K, boxes.ignore_K)

"""The preprocessing that a configuration stands for. Numpy only."""

from __future__ import annotations

from lab.tasks.segmentation.config import SegmentationConfig
from lab.tasks.segmentation.geometry import SegmentationPreprocessing


def preprocessing_of(config: SegmentationConfig) -> SegmentationPreprocessing:
    """What deployment needs to know of the image and evaluation sections."""
    image, evaluation = config.image, config.evaluation
    return SegmentationPreprocessing(
        shape=(image.channels, config.side, config.side),
        mode=evaluation.mode,
        base_size=image.base_size,
        base_side=image.base_side,
        overlap=evaluation.overlap,
        mean=image.mean,
        std=image.std,
        interpolation=image.interpolation,
    )

"""A fan chart in Pillow alone: what a machine without matplotlib can draw of a forecast.

Shape letters: P steps to forecast, T time.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from lab.data.series.series import Series
from lab.tasks.forecasting.responses import Forecast

WIDTH, HEIGHT, MARGIN = 720, 320, 28
BANDS = ((0.05, 0.95, (205, 222, 240)), (0.25, 0.75, (145, 182, 219)))
_INK, _MEDIAN, _GRID = (40, 40, 40), (20, 80, 150), (225, 225, 225)
_HISTORY_PER_HORIZON = 3


def fan_chart(series: Series, prediction: Forecast) -> np.ndarray:
    """Uint8 [HEIGHT, WIDTH, 3]: the end of the series, and the median within its 50 % and 90 % bands."""
    horizon = prediction.samples_SP.shape[1]
    history_T = series.target_T[-_HISTORY_PER_HORIZON * horizon :]
    levels = [level for low, high, _ in BANDS for level in (low, high)]
    curves = {level: prediction.quantile(level) for level in (*levels, 0.5)}
    known = np.concatenate([history_T, *curves.values()])
    low, high = float(np.nanmin(known)), float(np.nanmax(known))
    canvas = _Canvas(len(history_T) + horizon, low, high if high > low else low + 1)
    canvas.frame(f"{prediction.name}, from {str(prediction.start).replace('T', ' ')}")
    steps_P = np.arange(len(history_T), len(history_T) + horizon)
    for lower, upper, colour in BANDS:
        canvas.band(steps_P, curves[lower], curves[upper], colour)
    canvas.line(np.arange(len(history_T)), history_T, _INK)
    canvas.line(steps_P, curves[0.5], _MEDIAN)
    return canvas.pixels()


class _Canvas:
    def __init__(self, num_steps: int, low: float, high: float) -> None:
        self._image = Image.new("RGB", (WIDTH, HEIGHT), (255, 255, 255))
        self._draw = ImageDraw.Draw(self._image)
        self._num_steps, self._low, self._high = num_steps, low, high

    def _points(self, steps_T: np.ndarray, values_T: np.ndarray) -> list[tuple[float, float]]:
        x = MARGIN + (WIDTH - 2 * MARGIN) * steps_T / max(self._num_steps - 1, 1)
        y = HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (values_T - self._low) / (self._high - self._low)
        return list(zip(x.tolist(), y.tolist(), strict=True))

    def frame(self, title: str) -> None:
        box = (MARGIN, MARGIN, WIDTH - MARGIN, HEIGHT - MARGIN)
        self._draw.rectangle(box, outline=_GRID)
        self._draw.text((MARGIN, 8), title, fill=_INK)
        self._draw.text((2, MARGIN), f"{self._high:.4g}", fill=_INK)
        self._draw.text((2, HEIGHT - MARGIN - 10), f"{self._low:.4g}", fill=_INK)

    def band(self, steps: np.ndarray, lower: np.ndarray, upper: np.ndarray, colour: tuple[int, int, int]) -> None:
        if len(steps) > 1:
            outline = self._points(steps, upper) + self._points(steps, lower)[::-1]
            self._draw.polygon(outline, fill=colour)

    def line(self, steps: np.ndarray, values: np.ndarray, colour: tuple[int, int, int]) -> None:
        """Broken where values are missing."""
        for part in np.split(np.arange(len(values)), np.flatnonzero(np.isnan(values))):
            kept = part[~np.isnan(values[part])]
            if len(kept) > 1:
                self._draw.line(self._points(steps[kept], values[kept]), fill=colour, width=2)
            elif len(kept):
                (x, y), *_ = self._points(steps[kept], values[kept])
                self._draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)

    def pixels(self) -> np.ndarray:
        return np.asarray(self._image)

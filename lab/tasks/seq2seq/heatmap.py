"""Attention as a picture without a plotting library, for `lab predict --pictures`. T target rows, S source columns."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from lab.tasks.seq2seq.responses import Translation

CELL, MARGIN, CHARACTER = 24, 8, 7
"""Pixels: side of a cell, border, width of a letter of Pillow's own font."""


def draw_attention(prediction: Translation) -> np.ndarray:
    """Uint8 RGB [height, width, 3]: the darker a cell, the more the target token of its row looked there."""
    targets, sources = prediction.best.tokens, prediction.source_tokens
    left = MARGIN + CHARACTER * max((len(token) for token in targets), default=1)
    top = MARGIN + CHARACTER * max((len(token) for token in sources), default=1)
    width, height = left + CELL * max(len(sources), 1) + MARGIN, top + CELL * max(len(targets), 1) + MARGIN
    picture = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(picture)
    for row, token in enumerate(targets):
        pen.text((MARGIN // 2, top + CELL * row + CELL // 4), token, "black")
        for column in range(len(sources)):
            share = float(prediction.attention_TS[row, column])
            colour = (round(255 - 222 * share), round(255 - 153 * share), round(255 - 75 * share))
            x, y = left + CELL * column, top + CELL * row
            pen.rectangle((x, y, x + CELL - 1, y + CELL - 1), fill=colour, outline="lightgrey")
    for column, token in enumerate(sources):
        _write_upwards(picture, token, left + CELL * column + CELL // 4, top - 2)
    return np.asarray(picture)


def _write_upwards(picture: Image.Image, text: str, x: int, bottom: int) -> None:
    label = Image.new("L", (CHARACTER * max(len(text), 1), 14), 0)
    ImageDraw.Draw(label).text((0, 0), text, 255)
    turned = label.rotate(90, expand=True)
    picture.paste("black", (x, max(bottom - turned.height, 0)), turned)

"""Captions below the pictures of a video."""

from __future__ import annotations

from typing import Any

import numpy as np

from .optional import require_package

_TEXT_LINES = 2
_COLORS = {True: (70, 200, 110), False: (240, 100, 90)}
"""Of an outcome: success, failure."""


def add_caption(
    picture: np.ndarray, text: str, step: int, success: bool | None = None, *, reward: float | None = None
) -> np.ndarray:
    """Return `picture` with a strip below it: the text in two lines, the step, and the outcome if there is one.

    Args:
        picture: RGB uint8 `(H, W, 3)`; all pictures of one size get strips of one size.
        text: Instruction; what does not fit ends with "...".
        step: Steps of the episode so far.
        success: Whether the episode that is over succeeded; None while it runs.
        reward: Sum of the rewards of the episode so far; None: not written.
    """
    image, draw_module, font_module = (
        require_package(f"PIL.{name}", extra="vla", purpose="captions of videos", distribution="pillow")
        for name in ("Image", "ImageDraw", "ImageFont")
    )
    width = picture.shape[1]
    size = max(10, width // 20)
    font = font_module.load_default(size)
    line, margin = round(1.35 * size), size // 2
    strip = image.new("RGB", (width, line * (_TEXT_LINES + 1) + 2 * margin), (20, 24, 28))
    draw = draw_module.Draw(strip)
    for row, words in enumerate(_wrapped(text, font, width - 2 * margin)):
        draw.text((margin, margin + row * line), words, font=font, fill=(240, 240, 240))
    bottom = margin + _TEXT_LINES * line
    numbers = f"step {step}" if reward is None else f"step {step}  reward {reward:.2f}"
    draw.text((margin, bottom), numbers, font=font, fill=(150, 160, 170))
    if success is not None:
        word = "success" if success else "failure"
        draw.text((width - margin - font.getlength(word), bottom), word, font=font, fill=_COLORS[success])
    return np.concatenate([picture, np.asarray(strip)])


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    """Return the text in at most `_TEXT_LINES` lines of at most `width` pixels, where words allow it."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    if len(lines) > _TEXT_LINES:
        lines = [*lines[: _TEXT_LINES - 1], f"{lines[_TEXT_LINES - 1]} ..."]
    return lines

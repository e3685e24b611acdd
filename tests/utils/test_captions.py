"""Captions leave the picture alone, and say what they are given."""

from __future__ import annotations

import numpy as np
import pytest
from RoboRenForce.utils.captions import add_caption

pytestmark = pytest.mark.contract

PICTURE = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)


def test_the_picture_stays_and_all_strips_have_one_size() -> None:
    texts = ("go", "put the red block on the blue plate " * 5, "", "w" * 200)
    captioned = [add_caption(PICTURE, text, step, success) for text, step, success in zip(
        texts, (0, 5, 1000, 2), (None, True, False, None), strict=True
    )]  # fmt: skip
    assert len({(picture.shape, picture.dtype) for picture in captioned}) == 1
    for picture in captioned:
        assert np.array_equal(picture[:64], PICTURE) and picture.shape[1:] == (96, 3)


def test_text_step_and_outcome_are_seen() -> None:
    plain = add_caption(PICTURE, "go", 1)[64:].astype(int)
    assert (plain != add_caption(PICTURE, "no", 1)[64:]).any()
    assert (plain != add_caption(PICTURE, "go", 2)[64:]).any()
    for success, channel in ((True, 1), (False, 0)):
        changed = add_caption(PICTURE, "go", 1, success)[64:].astype(int) - plain
        assert changed.sum((0, 1)).argmax() == channel  # green, red
        assert not changed[: changed.shape[0] // 2].any(), "the outcome is in the last line"

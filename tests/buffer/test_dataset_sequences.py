"""Windows over recorded data: of one episode each, with its final observation and the actions that led there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from offline_cases import recorded
from RoboRenForce.buffer import SequenceDatasetBuffer
from RoboRenForce.buffer.dataset_sequences import episode_begins, with_previous_actions

pytestmark = pytest.mark.oracle

LENGTHS = {4: True, 3: False, 6: True}


def test_a_window_ends_with_its_episode_and_the_rest_is_padding():
    data = with_previous_actions(recorded(LENGTHS))
    buffer = SequenceDatasetBuffer(data, 0.9, 3, "cpu", length=5, burn_in=2)
    batch = buffer.windows(torch.tensor([0, 2, 5]))
    assert batch.is_sequence and batch.obs["policy"].shape == (6, 3, 3)
    assert batch.valid.T.tolist() == [[1, 1, 1, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]  # two steps, then two again
    torch.testing.assert_close(batch.obs["policy"][:4, 0], data.obs["policy"][:4])
    torch.testing.assert_close(batch.obs["policy"][4, 0], data.next_obs["policy"][3])
    torch.testing.assert_close(batch.obs["policy"][1:3, 2], data.next_obs["policy"][5:7])
    assert batch.discount[:, 0].tolist()[3] == 0.0 and batch.discount[1, 2] == pytest.approx(0.9)  # a time-out
    torch.testing.assert_close(batch.action[:4, 0], data.action[:4])
    # The action of a row is the one that led to it.
    previous = batch.obs["previous_action"]
    assert not previous[0, 0].any()
    torch.testing.assert_close(previous[1:5, 0], data.action[:4])
    torch.testing.assert_close(previous[0, 1], data.action[1])


def test_a_gap_in_the_recording_begins_an_episode():
    data = recorded(LENGTHS)
    assert episode_begins(data).nonzero().flatten().tolist() == [0, 4, 7]
    kept = torch.ones(len(data), dtype=torch.bool)
    kept[9] = False
    gap = data.select(kept)
    assert episode_begins(gap).nonzero().flatten().tolist() == [0, 4, 7, 9]
    assert not with_previous_actions(gap).obs["previous_action"][9].any()
    same = replace(data, obs={"policy": torch.zeros(13, 3)}, next_obs={"policy": torch.zeros(13, 3)})
    assert episode_begins(same).nonzero().flatten().tolist() == [0, 4, 7]


def test_every_row_is_drawn():
    buffer = SequenceDatasetBuffer(recorded(LENGTHS), 0.9, 400, "cpu", length=2)
    assert buffer.sample().index.unique().tolist() == list(range(13))

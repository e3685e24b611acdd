"""Metrics over two processes that have different numbers: what is averaged, what is summed, what stays apart."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from RoboRenForce.runners.metrics import to_host
from RoboRenForce.runners.statistics import EnvLog, EpisodeStatistics
from RoboRenForce.utils.distributed import DistributedContext
from torch import Tensor

pytestmark = pytest.mark.contract

CPU = torch.device("cpu")


@dataclass(frozen=True)
class OfTwo(DistributedContext):
    """One of two processes; the other one has `others` where this one has its numbers."""

    world_size: int = 2
    others: list[float] = field(default_factory=list)

    def sum_(self, tensor: Tensor) -> Tensor:
        return tensor.add_(torch.tensor(self.others, dtype=tensor.dtype))


def scalars(**values: float) -> dict[str, Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def ratios(**values: tuple[float, float]) -> dict[str, tuple[Tensor, Tensor]]:
    return {name: (torch.tensor(total), torch.tensor(count)) for name, (total, count) in values.items()}


@pytest.mark.parametrize(("mine", "other"), [(False, False), (True, False), (False, True), (True, True)])
def test_means_are_averaged_ratios_summed_and_what_is_local_is_left_alone(mine: bool, other: bool) -> None:
    both = OfTwo(others=[4.0, 2.0, 9.0, -8.0, 0.0, 6.0, 1.0, 0.0, float(other)])
    found, flag = to_host(
        scalars(loss=-1.0, kl=8.0),
        ratios(reward=(-3.0, 2.0), speed=(2.0, 3.0), nothing=(0.0, 0.0)),
        ratios(lap=(-5.0, 2.0), never=(0.0, 0.0)),
        both,
        CPU,
        flag=mine,
    )
    assert found == {"loss": 1.5, "kl": 5.0, "reward": 6.0 / 8.0, "speed": -6.0 / 4.0, "lap": -2.5}
    assert flag is (mine or other)


def test_a_process_that_has_nothing_still_takes_part() -> None:
    assert to_host({}, {}, ratios(lap=(4.0, 2.0)), OfTwo(others=[1.0]), CPU) == ({"lap": 2.0}, True)
    assert to_host({}, {}, {}, OfTwo(others=[0.0]), CPU) == ({}, False)


def test_one_process_alone_keeps_its_numbers_and_counts_exactly() -> None:
    found, flag = to_host(scalars(loss=-1.0), ratios(r=(2.0**25 + 1, 1.0)), {}, DistributedContext(), CPU, flag=True)
    assert found["loss"] == -1.0 and flag is True
    many = {"steps": (torch.tensor(2**25 + 1), torch.tensor(1))}
    assert to_host({}, many, {}, DistributedContext(), CPU)[0] == {"steps": 2.0**25 + 1}


def step(reward: list[float], done: list[int], success: list[bool]) -> tuple[torch.Tensor, ...]:
    return torch.tensor(reward), torch.tensor(done), torch.tensor(success)


def test_statistics_go_on_after_they_were_saved_in_the_middle_of_episodes() -> None:
    """Negative and different returns, success, a window that is full, and another one restored from it."""

    def collected(statistics: EpisodeStatistics) -> dict[str, float]:
        return to_host({}, statistics.collect(), {}, DistributedContext(), CPU)[0]

    first = EpisodeStatistics(2, 2, CPU, success=True, window=3)
    first.record(*step([-1.0, 4.0], [1, 0], [True, True]))
    first.record(*step([-5.0, -2.0], [0, 1], [True, False]))
    assert collected(first) == {
        "Train/mean_reward": 0.5,  # -1 and 4 - 2
        "Train/mean_episode_length": 1.5,
        "Train/success_rate": 0.5,
    }
    second = EpisodeStatistics(2, 2, CPU, success=True, window=3)
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    for statistics in (first, second):
        statistics.record(
            *step([-1.0, 7.0], [1, 1], [False, True])
        )  # -6 after 2 steps, 7 after 1; -1 leaves the window
        found = collected(statistics)
        assert found["Train/mean_reward"] == pytest.approx((2.0 - 6.0 + 7.0) / 3)
        assert found["Train/mean_episode_length"] == pytest.approx((2 + 2 + 1) / 3)
        assert found["Train/success_rate"] == pytest.approx(1 / 3)
    other_size = EpisodeStatistics(3, 2, CPU, success=True, window=3)
    other_size.load_state_dict(first.state_dict())
    assert not other_size.state_dict()["running"].any()
    other_size.record(*step([1.0, 1.0, 1.0], [0, 0, 0], [True, True, True]))
    assert collected(other_size) == pytest.approx(found)


def test_restarted_episodes_count_from_nothing() -> None:
    statistics = EpisodeStatistics(2, 2, CPU)
    statistics.record(*step([5.0, -5.0], [0, 0], [False, False]))
    statistics.restart()
    statistics.record(*step([-1.0, 3.0], [1, 1], [False, False]))
    means = to_host({}, statistics.collect(), {}, DistributedContext(), CPU)[0]
    assert means == {"Train/mean_reward": 1.0, "Train/mean_episode_length": 1.0}


def test_logs_with_different_keys_at_different_steps_are_means_of_their_own() -> None:
    log = EnvLog()
    log.record({"a": torch.tensor(-4.0), "b": torch.tensor(1.0), "x": -1.0, "Group/y": 3})
    log.record({"b": torch.tensor(-3.0)})
    log.record({"a": torch.tensor(8.0), "b": torch.tensor(torch.nan), "x": 5.0})
    ratios, numbers = log.collect()
    found, _ = to_host({}, {}, ratios, DistributedContext(), CPU)
    assert found == {"Episode/a": 2.0, "Episode/b": -1.0}
    assert numbers == {"Episode/x": 2.0, "Group/y": 3.0}

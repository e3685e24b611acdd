"""The loader over `Samples`: the same batches from any number of workers, exact resume, mistakes as sentences."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from RoboRenForce.configclass import configclass
from RoboRenForce.data import DataLoader, DataLoaderCfg, Samples, SamplesCfg
from RoboRenForce.utils.errors import CheckpointError, UserError
from torch import Tensor

pytestmark = pytest.mark.contract


class Noisy(Samples):
    """Numbers with noise; sample `bad` is none."""

    def __init__(self, cfg: NoisyCfg) -> None:
        self.cfg = cfg

    def __len__(self) -> int:
        return self.cfg.size

    def sample(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        if index == self.cfg.bad:
            raise UserError(f"Sample {index} is damaged: record it anew.")
        return {"id": torch.tensor(index), "value": index + torch.randn(2, generator=generator)}


@configclass
class NoisyCfg(SamplesCfg):
    class_type: type = Noisy
    size: int = 23
    bad: int = -1


def loader(size: int = 23, bad: int = -1, seed: int = 5, num_workers: int = 0, **runtime: Any) -> DataLoader:
    cfg = DataLoaderCfg(batch_size=4, num_workers=num_workers)
    return cfg.build(NoisyCfg(size=size, bad=bad).build(), seed=seed, **runtime)


def batches(source: DataLoader, count: int) -> list[Tensor]:
    taken = islice(source.endless(), count)
    return [torch.cat([batch["id"].unsqueeze(1), batch["value"]], 1) for batch in taken]


def test_workers_change_nothing_and_draw_no_random_numbers_of_training() -> None:
    before = torch.get_rng_state()
    alone, shared = batches(loader(), 9), batches(loader(num_workers=2), 9)
    assert torch.equal(torch.stack(alone), torch.stack(shared))
    assert torch.equal(torch.get_rng_state(), before)
    ids = torch.cat(alone)[:, 0].int().tolist()
    assert sorted(ids[:23]) == list(range(23))  # all once, though 23 is no multiple of 4
    twice = ids.index(ids[25])
    assert not torch.equal(torch.cat(alone)[twice], torch.cat(alone)[25])  # another noise in the next epoch


@pytest.mark.parametrize("workers", [0, 2])
def test_what_was_read_ahead_and_not_handed_out_comes_again(workers: int) -> None:
    straight = batches(loader(), 20)
    first = loader(num_workers=workers)
    begun = batches(first, 8)  # in the middle of the second epoch, while workers are ahead
    second = loader(num_workers=2 - workers)
    second.load_state_dict(first.state_dict())
    assert second.epoch == pytest.approx(32 / 23)
    assert torch.equal(torch.stack(begun + batches(second, 12)), torch.stack(straight))
    first.close(), second.close()


def test_the_sequence_does_not_depend_on_how_it_is_shared() -> None:
    """Noise included: three processes, then one, see what one sees."""
    straight = torch.cat(batches(loader(), 15))
    parts = [loader(rank=rank, world_size=3) for rank in range(3)]
    shared = [torch.stack(batches(part, 3)) for part in parts]
    together = torch.stack(shared, 1).flatten(0, 2)
    alone = loader()
    alone.load_state_dict(parts[0].state_dict())
    assert torch.equal(torch.cat([together, *batches(alone, 6)]), straight)


def test_other_data_and_other_seeds_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"has lengths=\[24\], and this run has \[23\]"):
        loader().load_state_dict(loader(size=24).state_dict())
    with pytest.raises(CheckpointError, match="has seed=6, and this run has 5"):
        loader().load_state_dict(loader(seed=6).state_dict())
    with pytest.raises(UserError, match="There are no samples to draw"):
        loader(size=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mistake_in_the_data_is_its_own_sentence(workers: int) -> None:
    with pytest.raises(UserError, match=r"^Sample 7 is damaged: record it anew\.$"):
        batches(loader(bad=7, num_workers=workers), 6)

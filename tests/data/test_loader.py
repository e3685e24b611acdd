"""The loader: the same batches from any number of workers, exact resume, mistakes as sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from RoboRenForce.configclass import configclass
from RoboRenForce.data.loader import Loader, LoaderCfg
from RoboRenForce.data.samples import Samples, SamplesCfg
from RoboRenForce.utils.distributed import DistributedContext
from RoboRenForce.utils.errors import ConfigError, UserError
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


def loader(size: int = 23, bad: int = -1, seed: int = 5, **options: Any) -> Loader:
    made = LoaderCfg(samples=NoisyCfg(size=size, bad=bad), batch_size=4, **options).build()
    made.start(seed, DistributedContext(), torch.device("cpu"))
    return made


def batches(source: Loader, count: int) -> list[Tensor]:
    return [torch.cat([batch["id"].unsqueeze(1), batch["value"]], 1) for batch in (next(source) for _ in range(count))]


def test_workers_change_nothing_and_draw_no_random_numbers_of_training() -> None:
    before = torch.get_rng_state()
    alone, shared = batches(loader(), 9), batches(loader(num_workers=2), 9)
    assert torch.equal(torch.stack(alone), torch.stack(shared))
    assert torch.equal(torch.get_rng_state(), before)
    ids = torch.cat(alone)[:, 0].int().tolist()
    assert sorted(ids[:23]) == list(range(23))
    again = batches(loader(), 9)[6][-1], alone[6][-1]
    assert torch.equal(*again) and not torch.equal(torch.cat(alone)[23:, 1:].sum(), torch.cat(alone)[:13, 1:].sum())


@pytest.mark.parametrize("workers", [0, 2])
def test_what_was_read_ahead_and_not_handed_out_comes_again(workers: int) -> None:
    straight = batches(loader(), 20)
    first = loader(num_workers=workers)
    begun = batches(first, 8)  # in the middle of the second epoch, while workers are ahead
    second = loader(num_workers=2 - workers, seed=99)  # the seed is part of the state
    second.load_state_dict(first.state_dict())
    assert second.epoch == pytest.approx(32 / 23)
    assert torch.equal(torch.stack(begun + batches(second, 12)), torch.stack(straight))
    first.close(), second.close()


def test_other_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="learned from 24 samples, and there are 23 now"):
        loader().load_state_dict(loader(size=24).state_dict())
    with pytest.raises(ConfigError, match="Noisy has no samples"):
        loader(size=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mistake_in_the_data_is_its_own_sentence(workers: int) -> None:
    with pytest.raises(UserError, match=r"^Sample 7 is damaged: record it anew\.$"):
        batches(loader(bad=7, num_workers=workers), 6)

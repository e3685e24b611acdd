"""Draws by row depend on the seed of the row alone, and are what torch's own are: uniform, normal, whole numbers."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("mjlab")

from RRF_mjlab_tasks.seeded_draws import NotDrawnByRowError, SeededDraws

CPU = torch.device("cpu")


def draws(seeds: list[int]) -> list[torch.Tensor]:
    count, buffer = len(seeds), torch.zeros(len(seeds), 2)
    with SeededDraws(seeds, CPU):
        drawn = [
            torch.rand(count, 3),
            torch.randn((count,)),
            torch.randint(7, (count, 2)),
            torch.randint(-2, 3, (count,)),
        ]
        drawn += [torch.rand_like(buffer), torch.randn_like(buffer), buffer.uniform_(2.0, 4.0).clone()]
    return drawn


def test_a_row_draws_alike_in_any_company() -> None:
    together, alone = draws([4, 9, 4]), draws([9])
    for rows, row in zip(together, alone, strict=True):
        assert torch.equal(rows[1], row[0]) and torch.equal(rows[0], rows[2])
        assert rows.dtype == row.dtype
    assert not torch.equal(together[0][0], together[0][1])
    assert not torch.equal(together[0][:, :2], together[4])  # another call, other numbers


def test_numbers_are_distributed_as_torchs() -> None:
    seeds = list(range(20_000))
    uniform, normal, whole, signed, *_, scaled = draws(seeds)
    assert uniform.min() >= 0.0 and uniform.max() < 1.0
    grid = torch.linspace(0.05, 0.95, 19)
    torch.testing.assert_close(uniform.flatten().quantile(grid), grid, atol=0.01, rtol=0.0)
    assert abs(torch.corrcoef(uniform.T).tril(-1)).max() < 0.03
    torch.testing.assert_close(
        torch.stack([normal.mean(), normal.std()]), torch.tensor([0.0, 1.0]), atol=0.03, rtol=0.0
    )
    torch.testing.assert_close(whole.flatten().bincount() / whole.numel(), torch.full((7,), 1 / 7), atol=0.01, rtol=0.0)
    assert signed.unique().tolist() == [-2, -1, 0, 1, 2]
    assert scaled.min() >= 2.0 and scaled.max() < 4.0


def test_what_is_not_drawn_by_row_is_refused() -> None:
    with SeededDraws([1, 2], CPU):
        with pytest.raises(NotDrawnByRowError, match=r"shape \(3,\) for 2 rows"):
            torch.rand(3)
        with pytest.raises(NotDrawnByRowError, match="randperm"):
            torch.randperm(2)

"""Running statistics and normalizers against float64 batches."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from gymnasium.wrappers.utils import RunningMeanStd
from RoboRenForce.components import EmpiricalNormalizerCfg, NormalizerCfg, RewardScaler, RunningMoments, ValueNormalizer
from RoboRenForce.components.normalizer import BoundedRewardScaler
from RoboRenForce.utils.distributed import DistributedContext

pytestmark = pytest.mark.oracle


def _unequal_batches(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    scale, shift = torch.tensor([1.0, 30.0, 1e-3]), torch.tensor([0.0, -500.0, 2.0])
    return [
        (torch.randn(rows, 3, generator=generator) * scale * (1 + 0.1 * i) + shift + i).to(dtype)
        for i, rows in enumerate([1, 7, 300, 2, 50])
    ]


def test_merged_unequal_batches_equal_one_float64_batch():
    moments = RunningMoments(3)
    batches = _unequal_batches()
    for batch in batches:
        moments.update(batch)
    whole = np.concatenate([batch.numpy().astype(np.float64) for batch in batches])
    assert moments.count.item() == len(whole)
    np.testing.assert_allclose(moments.mean.numpy(), whole.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.var.numpy(), whole.var(0), rtol=1e-12)


@pytest.mark.parametrize("absurd", [1e30, -3e38, 1.1e10, math.inf, math.nan])
@pytest.mark.parametrize("when", ["first", "later"])
def test_one_absurd_number_does_not_ruin_the_statistics(absurd, when):
    """It counts as the mean so far; everything else of its row and batch counts as always, bit for bit."""
    normalizer, expected = EmpiricalNormalizerCfg().build(3), EmpiricalNormalizerCfg().build(3)
    batches = _unequal_batches()[2:]
    if when == "first":
        batches.insert(0, torch.zeros(1, 3))
    for index, batch in enumerate(batches):
        bad, good = batch.clone(), batch.double()
        if index == (0 if when == "first" else 1):
            bad[0, 1], good[0, 1] = absurd, expected.moments.mean[1]
        normalizer.update(bad)
        expected.update(good)
    for name in ("count", "mean", "var"):
        assert torch.equal(getattr(normalizer.moments, name), getattr(expected.moments, name))
    assert normalizer(batches[-1]).abs().max() < 10


@pytest.mark.parametrize("scaler", [RewardScaler(2, 0.99), BoundedRewardScaler(2, 0.99)])
def test_one_absurd_reward_does_not_ruin_the_scale(scaler):
    """Its running return would stay absurd for hundreds of steps."""
    done = torch.zeros(2)
    for step in range(200):
        scaler.update(torch.tensor([1.0, 1e30 if step == 50 else -1.0]), done)
    assert 0.01 < scaler(torch.tensor(1.0)) < 1.0
    assert scaler.discounted.abs().max() < 100


def test_the_batch_shape_and_the_order_of_batches_do_not_matter():
    batches = _unequal_batches(torch.float64)
    forward, backward, sequence = RunningMoments(3), RunningMoments(3), RunningMoments(3)
    for batch in batches:
        forward.update(batch)
    for batch in reversed(batches):
        backward.update(batch)
    sequence.update(torch.cat(batches).view(6, -1, 3))  # (T, N, 3)
    for name in ("count", "mean", "var"):
        torch.testing.assert_close(getattr(forward, name), getattr(backward, name), rtol=1e-12, atol=0)
        torch.testing.assert_close(getattr(forward, name), getattr(sequence, name), rtol=1e-12, atol=0)


def test_statistics_hold_after_ten_billion_samples_of_mean_one_million():
    # 1e10 samples of mean 1e6 and variance 1 have been seen; 1,000 batches of 1,000 rows with mean 1e6 + 2 and
    # variance 4 follow. In float32 neither count nor mean would move; the exact result is the law of total variance.
    normalizer = EmpiricalNormalizerCfg(eps=1e-2).build(1)
    normalizer.moments.count.fill_(1e10)
    normalizer.moments.mean.fill_(1e6)
    normalizer.moments.var.fill_(1.0)
    batch = torch.tensor([[1e6 + 2 - 2.0], [1e6 + 2 + 2.0]]).repeat(500, 1)  # mean 1e6 + 2, variance 4
    for _ in range(1000):
        normalizer.update(batch)
    share = 1e6 / (1e10 + 1e6)
    mean, variance = 1e6 + share * 2.0, (1 - share) * 1.0 + share * 4.0 + share * (1 - share) * 4.0
    assert normalizer.moments.count.item() == 1e10 + 1e6
    assert normalizer.moments.mean.item() - 1e6 == pytest.approx(mean - 1e6, abs=1e-7)
    assert normalizer.moments.var.item() - 1.0 == pytest.approx(variance - 1.0, abs=1e-7)
    x = torch.tensor([[1e6 - 1.0], [1e6], [1e6 + 3.0]])
    expected = (x.numpy().astype(np.float64) - mean) / (math.sqrt(variance) + 1e-2)
    np.testing.assert_allclose(normalizer(x).numpy(), expected, atol=1e-6)


def test_large_means_lose_nothing_in_float32():
    # The mean 1e6 + 1/3 is no float32: rounded, it would be off by 0.02 standard deviations.
    normalizer = EmpiricalNormalizerCfg(eps=1e-6).build(1)
    normalizer.moments.mean.fill_(1e6 + 1 / 3)
    normalizer.refresh()
    assert normalizer(torch.tensor([[1e6 + 1.0]])).item() == pytest.approx(2 / 3, rel=1e-5)
    assert normalizer.inverse(normalizer(torch.tensor([[1e6 + 1.0]]))).item() == 1e6 + 1.0


def test_a_constant_feature_maps_to_zero_and_stays_finite_when_it_changes():
    normalizer = EmpiricalNormalizerCfg(eps=1e-2).build(2)
    for _ in range(3):
        normalizer.update(torch.tensor([[7.3, 1.0], [7.3, -1.0]]))
    output = normalizer(torch.tensor([[7.3, 1.0], [7.4, -1.0]]))
    assert output[0, 0].item() == pytest.approx(0.0, abs=1e-5)
    assert output[1, 0].item() == pytest.approx(0.1 / 1e-2, rel=1e-4)
    assert output[0, 1].item() == pytest.approx(1 / (1 + 1e-2), rel=1e-6)


def test_normalization_is_x_minus_mean_over_std_plus_eps_with_its_gradient():
    normalizer = EmpiricalNormalizerCfg(eps=0.5, clip=2.0).build(3)
    batch = _unequal_batches()[2]
    normalizer.update(batch)
    x = batch[:20].clone().requires_grad_()
    y = normalizer(x)
    reference = batch.numpy().astype(np.float64)
    scale = reference.std(0) + 0.5
    expected = ((reference[:20] - reference.mean(0)) / scale).clip(-2, 2)
    np.testing.assert_allclose(y.detach().numpy(), expected, rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    slope = np.where(np.abs(expected) < 2, 1 / scale, 0.0)
    np.testing.assert_allclose(gradient.numpy(), slope, rtol=1e-5)


def test_before_any_data_only_eps_scales_and_the_identity_leaves_everything():
    x = torch.randn(4, 3)
    torch.testing.assert_close(EmpiricalNormalizerCfg(eps=1e-2).build(3)(x), x / 1.01)
    identity = NormalizerCfg().build(3)
    identity.update(x)
    assert identity(x) is x and not identity.state_dict()


def test_statistics_are_frozen_in_eval_mode_and_after_until():
    normalizer = EmpiricalNormalizerCfg(until=10).build(1)
    normalizer.update(torch.full((6, 1), 1.0))
    normalizer.eval()
    normalizer.update(torch.full((6, 1), 100.0))
    assert normalizer.moments.mean.item() == 1.0
    normalizer.train()
    normalizer.update(torch.full((6, 1), 4.0))  # 6 of 10 seen: still merged
    assert normalizer.moments.mean.item() == pytest.approx(2.5)
    normalizer.update(torch.full((6, 1), 100.0))  # 12 seen: frozen
    assert normalizer.moments.mean.item() == pytest.approx(2.5)
    assert normalizer.moments.count.item() == 12


def test_forward_never_changes_the_statistics():
    normalizer = EmpiricalNormalizerCfg().build(3)
    normalizer.update(torch.randn(5, 3))
    before = copy.deepcopy(normalizer.state_dict())
    normalizer(torch.randn(50, 3) * 10)
    assert all(torch.equal(before[name], value) for name, value in normalizer.state_dict().items())


def test_buffers_keep_their_address_so_that_captured_graphs_see_updates():
    normalizer = EmpiricalNormalizerCfg().build(3)
    before = {name: buffer.data_ptr() for name, buffer in normalizer.named_buffers()}
    normalizer.update(torch.randn(5, 3))
    normalizer.load_state_dict(copy.deepcopy(normalizer.state_dict()))
    assert before == {name: buffer.data_ptr() for name, buffer in normalizer.named_buffers()}


def test_the_state_dict_restores_output_and_further_updates_exactly():
    first, second = EmpiricalNormalizerCfg().build(3), EmpiricalNormalizerCfg().build(3)
    batches = _unequal_batches()
    first.update(batches[2])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for normalizer in (first, second):
        normalizer.update(batches[4])
    assert torch.equal(first(batches[1]), second(batches[1]))


def test_conversion_of_the_module_keeps_the_statistics_exact():
    normalizer = EmpiricalNormalizerCfg().build(1)
    normalizer.update(torch.tensor([[1e6], [1e6 + 1]], dtype=torch.float64))
    exact = {name: value.clone() for name, value in normalizer.moments.state_dict().items()}
    converted = normalizer.half().float().double()
    assert all(torch.equal(exact[name], value) for name, value in converted.moments.state_dict().items())
    x = torch.tensor([[1e6 + 0.25]], dtype=torch.float64)
    assert converted(x).item() == pytest.approx((1e6 + 0.25 - 1e6 - 0.5) / 0.51, rel=1e-9)


def test_a_batch_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"got a batch of shape \(5, 2\)"):
        RunningMoments(3).update(torch.zeros(5, 2))


def _rank(rank, world_size, port_file, batches, results):
    torch.distributed.init_process_group("gloo", f"file://{port_file}", rank=rank, world_size=world_size)
    context = DistributedContext(rank, rank, world_size)
    normalizer = EmpiricalNormalizerCfg().build(3)
    for batch in batches[rank]:
        normalizer.update(batch, context)
    results[rank] = {name: value.clone() for name, value in normalizer.state_dict().items()}
    context.close()


def test_two_ranks_with_unequal_batches_share_the_statistics_of_all_data(tmp_path):
    batches = _unequal_batches()
    per_rank = [[batches[2], batches[1]], [batches[4], batches[3]]]
    results = mp.Manager().dict()
    mp.start_processes(_rank, (2, tmp_path / "store", per_rank, results), nprocs=2, start_method="fork")
    whole = np.concatenate([batch.numpy().astype(np.float64) for rank in per_rank for batch in rank])
    for rank in range(2):
        np.testing.assert_allclose(results[rank]["moments.mean"].numpy(), whole.mean(0), rtol=1e-12)
        np.testing.assert_allclose(results[rank]["moments.var"].numpy(), whole.var(0), rtol=1e-11)
        assert results[rank]["moments.count"].item() == len(whole)


def _rollout(seed=0):
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(40, 4, generator=generator) * 3 + 1
    dones = (torch.rand(40, 4, generator=generator) < 0.2).long()
    return rewards, dones


def test_reward_scale_equals_gymnasiums_running_variance_of_discounted_returns():
    rewards, dones = _rollout()
    scaler = RewardScaler(num_envs=4, gamma=0.9)
    reference, returns = RunningMeanStd(epsilon=0.0, shape=()), np.zeros(4)
    for reward, done in zip(rewards, dones, strict=True):
        returns = returns * 0.9 + reward.numpy()
        reference.update(returns)
        scaler.update(reward, done)
        expected = reward.numpy() / np.sqrt(reference.var + 1e-8)
        np.testing.assert_allclose(scaler(reward).numpy(), expected, rtol=1e-5)
        returns = returns * (1 - done.numpy())


def test_a_rollout_at_once_equals_step_by_step_and_carries_open_episodes_over():
    rewards, dones = _rollout()
    at_once, by_step = RewardScaler(4, 0.9), RewardScaler(4, 0.9)
    at_once.update(rewards[:25], dones[:25])
    at_once.update(rewards[25:], dones[25:])
    for reward, done in zip(rewards, dones, strict=True):
        by_step.update(reward, done)
    torch.testing.assert_close(at_once.moments.var, by_step.moments.var)
    assert torch.equal(at_once.discounted, by_step.discounted)


def test_reward_scaling_clips_freezes_in_eval_and_refuses_other_shapes():
    scaler = RewardScaler(num_envs=2, gamma=0.5, clip=1.5)
    scaler.update(torch.tensor([[1.0, -1.0], [2.0, 0.0]]), torch.zeros(2, 2))
    # Discounted returns: 1, -1, then 2.5, -0.5: mean 0.5, variance (0.25 + 2.25 + 4 + 1) / 4.
    assert scaler.moments.var.item() == pytest.approx(1.875)
    assert scaler(torch.tensor([1.0, 100.0])).tolist() == pytest.approx([1 / math.sqrt(1.875), 1.5])
    scaler.eval()
    scaler.update(torch.full((5, 2), 50.0), torch.zeros(5, 2))
    assert scaler.moments.var.item() == pytest.approx(1.875)
    scaler.train()
    with pytest.raises(ValueError, match=r"expected both \(T, 2\)"):
        scaler.update(torch.zeros(5, 3), torch.zeros(5, 3))


def test_a_constant_reward_does_not_explode_before_there_is_a_spread():
    scaler = RewardScaler(num_envs=4, gamma=0.9)
    scaler.update(torch.ones(4), torch.zeros(4))  # all returns are 1: no deviation yet
    assert scaler(torch.ones(4)).tolist() == [10.0] * 4
    scaler.update(torch.ones(4), torch.zeros(4))  # returns 1 and 1.9
    assert scaler(torch.ones(4)).tolist() == pytest.approx([1 / 0.45] * 4)


def test_value_normalizer_maps_returns_to_unit_scale_and_back():
    normalizer = ValueNormalizer()
    values = torch.randn(7, 5)
    torch.testing.assert_close(normalizer.normalize(values), values)  # identity before the first batch
    returns = torch.tensor([[100.0, 300.0], [200.0, 400.0]])
    normalizer.update(returns)
    normalized = normalizer.normalize(returns)
    assert normalized.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert normalized.std(correction=0).item() == pytest.approx(1.0, rel=1e-6)
    torch.testing.assert_close(normalizer.denormalize(normalized), returns)
    assert normalizer.denormalize(torch.tensor([1.0])).item() == pytest.approx(250 + math.sqrt(12500), rel=1e-6)


def test_value_normalizer_survives_constant_returns():
    normalizer = ValueNormalizer(eps=1e-5)
    normalizer.update(torch.full((10,), 3.0))
    assert normalizer.normalize(torch.tensor([3.0])).item() == 0.0
    assert normalizer.denormalize(torch.tensor([0.0])).item() == 3.0

"""Executors of chunks against loops over environments, and real-time chunking against its closed forms."""

import math

import pytest
import torch
from RoboRenForce.components.action_heads import Continuation, DiTHeadCfg, FlowHeadCfg, continuation_weights
from RoboRenForce.components.action_heads.continuation import guidance_gain, guided_velocity
from RoboRenForce.components.chunk_execution import RealTimeChunkingCfg, RecedingHorizonCfg, TemporalEnsembleCfg
from RoboRenForce.configclass import ConfigError
from RoboRenForce.networks import DiTCfg
from RoboRenForce.networks.vlm import Prefix

N, H, A = 3, 6, 2


def build(cfg):
    return cfg.build(num_envs=N, chunk_size=H, action_dim=A, device=torch.device("cpu"))


def planned(step):
    """Chunks whose every number says when it was planned and for which action: `step + index / 100`."""
    return (step + torch.arange(H) / 100).view(1, H, 1).expand(N, H, A)


STARTS = [[1, 1, 1], [0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_receding_horizon_executes_the_first_actions_and_drops_the_rest_at_a_reset():
    executor = build(RecedingHorizonCfg(num_executed=3))
    begun = [0, 0, 0]  # when the running chunk of each environment was planned
    for step, starts in enumerate(STARTS):
        executor.reset(torch.tensor(starts).bool())
        begun = [step if new or step - at == 3 else at for new, at in zip(starts, begun, strict=True)]
        assert executor.needs_chunk.tolist() == [at == step for at in begun]
        executor.add(planned(step))
        expected = [at + (step - at) / 100 for at in begun]
        assert executor.next_action()[:, 1].tolist() == pytest.approx(expected)


def test_all_actions_of_a_chunk_are_executed_unless_told_otherwise():
    executor = build(RecedingHorizonCfg())
    executor.add(planned(0))
    assert torch.stack([executor.next_action()[0, 0] for _ in range(H)]).tolist() == planned(0)[0, :, 0].tolist()
    assert executor.needs_chunk.all()


@pytest.mark.parametrize("decay", [0.3, 0.0, -0.2])
def test_the_temporal_ensemble_is_the_weighted_mean_of_all_chunks_of_the_episode(decay):
    executor = build(TemporalEnsembleCfg(decay=decay))
    chunks, begins = torch.randn(len(STARTS), N, H, A), [0, 0, 0]
    for step, starts in enumerate(STARTS):
        executor.reset(torch.tensor(starts).bool())
        begins = [step if new else at for new, at in zip(starts, begins, strict=True)]
        executor.add(chunks[step])
        action = executor.next_action()
        for env in range(N):
            made = range(max(begins[env], step - H + 1), step + 1)  # oldest first
            weights = torch.tensor([math.exp(-decay * i) for i in range(len(made))])
            said = torch.stack([chunks[at, env, step - at] for at in made])
            torch.testing.assert_close(action[env], (weights[:, None] * said).sum(0) / weights.sum())


# Real-time chunking


def test_weights_are_one_while_a_chunk_is_computed_and_fade_to_the_end_of_the_running_one():
    delay, end = torch.tensor([2, 0, 3]), torch.tensor([5, 0, 3])
    c = torch.tensor([3 / 4, 2 / 4, 1 / 4])  # (end - i) / (end - delay + 1)
    fade = {"linear": c, "exp": c * (c.exp() - 1) / (math.e - 1), "ones": c * 0 + 1, "zeros": c * 0}
    for schedule, expected in fade.items():
        weights = continuation_weights(delay, end, H, schedule)
        torch.testing.assert_close(weights[0], torch.cat([torch.ones(2), expected, torch.zeros(1)]))
        assert weights[1].tolist() == [0] * H  # nothing to go on from
        assert weights[2].tolist() == [1, 1, 1, 0, 0, 0]


def test_the_gain_of_the_guidance_is_that_of_the_paper():
    assert guidance_gain(0.0, 10.0) == 10.0
    r2 = 0.5**2 / (0.5**2 + 0.5**2)
    assert guidance_gain(0.5, 10.0) == pytest.approx((1 - 0.5) / (0.5 * r2))  # 2
    assert guidance_gain(0.01, 10.0) == 10.0 and guidance_gain(0.01, 1000.0) == pytest.approx(0.9802 / 0.0099)


def test_guidance_of_a_linear_velocity_is_its_closed_form_also_below_no_grad():
    """v = M x: the predicted chunk is (I + (1 - t) M) x, its Jacobian the same matrix."""
    matrix, t = torch.randn(H * A, H * A), 0.3
    x, target, weights = torch.randn(N, H, A), torch.randn(N, H, A), torch.rand(N, H)
    jacobian = torch.eye(H * A) + (1 - t) * matrix
    error = (target - (x.flatten(1) @ jacobian.T).view(N, H, A)) * weights.unsqueeze(-1)
    expected = x.flatten(1) @ matrix.T + guidance_gain(t, 10.0) * error.flatten(1) @ jacobian
    continuation = Continuation(target, torch.zeros(N, dtype=torch.int64), weights)
    with torch.no_grad():
        got = guided_velocity(lambda y, _: (y.flatten(1) @ matrix.T).view(N, H, A), x, t, continuation)
    torch.testing.assert_close(got.flatten(1), expected, atol=1e-5, rtol=1e-4)
    assert not got.requires_grad


def _prefix():
    mask = torch.ones(N, 4, dtype=torch.bool)
    return Prefix(torch.randn(N, 4, 8), mask, ~mask, torch.randn(N, 1))


def _flow(cfg):
    head = cfg.build(width=8, state_dim=1, action_dim=A)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return head


def test_a_guided_chunk_agrees_with_the_running_one_where_the_weights_are_and_a_free_one_does_not():
    head, prefix = _flow(FlowHeadCfg(chunk_size=H, num_steps=10)), _prefix()
    target = torch.randn(N, H, A)
    weights = continuation_weights(torch.tensor([3, 3, 0]), torch.tensor([3, 3, 0]), H, "exp")
    continuation = Continuation(target, torch.tensor([3, 3, 0]), weights, max_guidance_weight=10.0)
    noise = head.draw_noise(prefix)
    with torch.no_grad():
        free, guided = head.sample(prefix, noise), head.sample(prefix, noise, continuation=continuation)
    assert (free - target)[:2, :3].abs().mean() > 0.5
    assert (guided - target)[:2, :3].abs().max() < 0.1
    torch.testing.assert_close(guided[2], free[2])


def test_a_head_trained_with_delays_keeps_the_delayed_actions_exactly():
    head = _flow(DiTHeadCfg(chunk_size=H, max_delay=3, network=DiTCfg(dim=16, num_layers=1, num_heads=2)))
    target, delay = torch.randn(N, H, A), torch.tensor([3, 1, 0])
    continuation = Continuation(target, delay, continuation_weights(delay, delay, H, "zeros"))
    chunk, _ = head.act(_prefix(), continuation=continuation)
    kept = torch.arange(H) < delay[:, None]
    assert torch.equal(chunk[kept], target[kept]) and not torch.isclose(chunk[~kept], target[~kept]).any()


def test_real_time_chunking_executes_the_running_chunk_until_the_new_one_arrives():
    executor = build(RealTimeChunkingCfg(num_executed=3, delay=2))
    log = [[] for _ in range(N)]  # what each environment should do: (planned at, index) of each coming step
    for step, starts in enumerate(STARTS):
        executor.reset(torch.tensor(starts).bool())
        needed = executor.needs_chunk.tolist()
        continuation = executor.continuation()
        for env in range(N):
            running = [] if starts[env] or step == 0 else log[env]
            if needed[env]:
                held = [at + index / 100 for at, index in running]
                assert continuation.actions[env, :, 0].tolist() == pytest.approx(held + [0.0] * (H - len(held)))
                assert int(continuation.delay[env]) == (2 if running else 0)
                expected = continuation_weights(
                    torch.tensor([2 if running else 0]), torch.tensor([len(running)]), H, "exp"
                )
                assert torch.equal(continuation.weights[env], expected[0])
                log[env] = running[:2] + [(step, index) for index in range(len(running[:2]), H)]
        executor.add(planned(step))
        action = executor.next_action()
        for env in range(N):
            at, index = log[env].pop(0)
            assert float(action[env, 0]) == pytest.approx(at + index / 100)


def test_what_does_not_fit_the_chunk_is_one_sentence():
    with pytest.raises(ConfigError, match="num_executed is 7, and the policy's chunks have 6 actions"):
        build(RecedingHorizonCfg(num_executed=7))
    for cfg in (RealTimeChunkingCfg(num_executed=5, delay=2), RealTimeChunkingCfg(num_executed=1, delay=2)):
        with pytest.raises(ConfigError, match="take one from 2 to 4"):
            build(cfg)


@pytest.mark.parametrize("cfg", [RecedingHorizonCfg(num_executed=3), TemporalEnsembleCfg(), RealTimeChunkingCfg()])
def test_a_step_never_reads_a_value_back_from_the_device(cfg):
    """On the meta device, where tensors have no values, any read of one raises."""
    executor = cfg.build(num_envs=N, chunk_size=H, action_dim=A, device=torch.device("meta"))
    executor.reset(torch.zeros(N, dtype=torch.bool, device="meta"))
    executor.continuation()
    executor.add(torch.zeros(N, H, A, device="meta"))
    assert executor.next_action().shape == (N, A)

"""SAC with a memory: what it sees while acting is what it learns from, and nothing else counts."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from RoboRenForce import algorithms, components, networks
from RoboRenForce.algorithms.algorithm import RunContext
from RoboRenForce.algorithms.off_policy.q_losses import actor_at_next_obs, actor_at_obs
from RoboRenForce.buffer.replay_batch import ReplayBatch
from RoboRenForce.buffer.sequence import SequenceReplayBufferCfg
from RoboRenForce.configclass import configclass
from RoboRenForce.envs import PREVIOUS_ACTION, ScriptedEnvCfg
from RoboRenForce.networks import MLPCfg
from RoboRenForce.utils.seeding import seed_everything
from stepping import stepped

pytestmark = pytest.mark.oracle

ENCODERS = ("none", "stack", "gru", "lstm", "transformer")
every_encoder = pytest.mark.parametrize("encoder", ENCODERS)
SCRIPT = [["terminated@3", "time_out@5", "time_out@4"], ["time_out@7", "terminated@2"]]
T = 6


def policy(encoder: str = "gru", **options: Any) -> components.HistoryActorQPackCfg:
    backbone = MLPCfg(hidden_features=[8])
    return components.HistoryActorQPackCfg(
        actor_cfg=components.TanhGaussianActorCfg(backbone_cfg=backbone),
        critic_cfg=components.QNetworkCfg(backbone_cfg=backbone),
        **{"history_size": 8, "history_heads": 2, "history_window": 3, "history_encoder": encoder, **options},
    )


def sac(encoder: str = "gru", num_envs: int = 2, head: Any = None, **options: Any) -> tuple[Any, Any]:
    """A learner and its environment."""
    seed_everything(0)
    env = ScriptedEnvCfg(num_envs=num_envs, script=SCRIPT, action_dim=2).build()
    replay = SequenceReplayBufferCfg(capacity=200 * num_envs, length=T)
    cfg = algorithms.SACCfg(**{"replay": replay, "batch_size": 16, "learning_starts": 8, **options})
    modules = policy(encoder)
    modules.critic_cfg.head_cfg = head or components.ScalarHeadCfg()
    return cfg.build(policy=modules, context=RunContext(env.spec, torch.device("cpu"))), env


def collect(learner: algorithms.SAC, env: Any, steps: int) -> dict[str, list[torch.Tensor]]:
    """Act and record; returns what happened as lists over steps of `(N, ...)`."""
    seen: dict[str, list[torch.Tensor]] = {"policy": [], "action": [], "done": []}
    obs = env.get_observations()
    for _ in range(steps):
        out, before = learner.act(obs), obs
        action = out.action.clone()
        seen["policy"].append(obs["policy"].clone())
        obs, reward, done, extras = env.step(action)
        learner.process_env_step(stepped(before, out, obs, reward, done, extras))
        seen["action"].append(action)
        seen["done"].append(done.clone())
    return seen


def learner_batch(batch: ReplayBatch, rows: torch.Tensor) -> ReplayBatch:
    """The sequences `rows` of a batch."""
    return ReplayBatch(
        obs={name: value[:, rows] for name, value in batch.obs.items()},
        action=batch.action[:, rows],
        reward=batch.reward[:, rows],
        discount=batch.discount[:, rows],
        valid=None if batch.valid is None else batch.valid[:, rows],
        start=None if batch.start is None else batch.start[:, rows],
    )


# --- acting equals learning ------------------------------------------------------------------------------------------


@every_encoder
def test_what_the_policy_said_while_acting_is_what_it_says_over_the_sequence(encoder: str):
    """One environment alone, step by step with its own memory, against the training forward; off by one shows."""
    learner, env = sac(encoder, num_envs=1, learning_starts=0)
    learner.eval()  # normalizers stay
    outputs, states = [], []
    forward = learner.actor.evaluate

    def listening(obs: Any, state: Any, starts: Any) -> Any:
        output = forward(obs, state, starts)
        outputs.append(output[0].clone())
        states.append(obs[PREVIOUS_ACTION].clone())
        return output

    learner.actor.evaluate = listening
    seen = collect(learner, env, 12)
    learner.actor.evaluate = forward
    dones = torch.stack(seen["done"])[:, 0] != 0
    assert dones.tolist() == [False, False, True, *[False] * 4, True, *[False] * 3, True]
    for first, last in ((0, 2), (3, 7), (8, 11)):  # whole episodes
        actions = torch.stack(seen["action"][first : last + 1])
        previous = torch.cat([torch.zeros(1, 1, 2), actions[:-1]])
        torch.testing.assert_close(torch.stack(states[first : last + 1]), previous)
        obs = {"policy": torch.stack(seen["policy"][first : last + 1]), PREVIOUS_ACTION: previous}
        starts = torch.zeros(len(actions), 1, dtype=torch.bool)
        output, _ = forward(obs, None, starts)
        torch.testing.assert_close(output, torch.stack(outputs[first : last + 1]), atol=1e-5, rtol=1e-5)


def test_sampled_windows_hold_the_previous_actions_that_were_acted_on():
    learner, env = sac(learning_starts=0)
    seen = collect(learner, env, 40)
    tape = {}  # (episode's number, step) -> the action before; `policy` begins with [100 * seed + episode, step]
    for n in range(2):
        before = torch.zeros(2)
        for t in range(40):
            tape[tuple(seen["policy"][t][n, :2].tolist())] = before
            before = torch.zeros(2) if seen["done"][t][n] else seen["action"][t][n]
    batch = learner.experience.buffer.sample()
    known, valid = 0, batch.valid
    assert valid is not None
    for k in range(T):
        for b in range(16):
            if valid[k, b]:
                key = tuple(batch.obs["policy"][k, b, :2].tolist())
                torch.testing.assert_close(batch.obs[PREVIOUS_ACTION][k, b], tape[key])
                torch.testing.assert_close(batch.obs[PREVIOUS_ACTION][k + 1, b], batch.action[k, b])
                known += 1
    assert known > 30


def test_the_memory_is_emptied_where_an_episode_ends_and_nowhere_else():
    learner, env = sac("gru", learning_starts=0)
    for _ in range(15):
        seen = collect(learner, env, 1)
        done = seen["done"][0] != 0
        memory = learner.collector.policy_state
        assert memory.previous_action is not None and memory.state is not None
        assert torch.equal(memory.start, done)
        assert torch.equal(memory.previous_action, seen["action"][0] * ~done.unsqueeze(1))
        probe, other = env.get_observations(), memory.state.clone()
        other[:, done] = 7.0  # whatever was there before the episode must not matter
        with torch.no_grad():
            seen = {**dict(probe.items()), PREVIOUS_ACTION: memory.previous_action}
            expected = learner.actor(seen, memory.state, memory.start)[0].mode
            torch.testing.assert_close(learner.actor(seen, other, memory.start)[0].mode, expected, atol=0, rtol=0)


def test_random_warm_up_leaves_no_stale_memory():
    learner, env = sac("gru", learning_starts=1_000)
    assert learner.collector.policy_state.state is not None
    learner.collector.policy_state.state.fill_(3.0)  # of a run that is resumed without its replay, and warms up again
    collect(learner, env, 1)
    assert not learner.collector.policy_state.state.any()
    assert (
        learner.collector.policy_state.previous_action is not None
        and learner.collector.policy_state.previous_action.any()
    )


# --- losses ----------------------------------------------------------------------------------------------------------


def losses(learner: algorithms.SAC, batch: ReplayBatch) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(5)
    critic = learner.critic_loss(batch)[0]
    torch.manual_seed(5)
    return critic, learner.policy_loss(batch)[0]


def quiet(learner: algorithms.SAC) -> None:
    """Take the noise out of the policy, so that losses of parts of a batch can be compared."""
    learner.sample = lambda output: (learner.actor.mode(output), output.square().sum(-1))  # type: ignore[method-assign]


@every_encoder
def test_padding_and_burn_in_change_no_loss(encoder: str):
    learner, env = sac(encoder)
    collect(learner, env, 60)
    quiet(learner)
    batch = learner.experience.buffer.sample()
    valid = batch.valid
    assert valid is not None and not valid.all() and valid.any()
    valid[0] = 0.0  # a burn-in of one step
    before = losses(learner, batch)
    # Rows after the last step that counts: rewards, actions, and the observations behind their successor.
    ended = valid.flip(0).cummax(0).values.flip(0) == 0
    noise = torch.randn_like(batch.reward) * 100
    batch.reward = torch.where(valid == 0, noise, batch.reward)
    batch.discount = torch.where(valid == 0, noise, batch.discount)
    for group in batch.obs.values():
        group[1:][ended] += 50.0
    batch.action = torch.where(ended.unsqueeze(-1), 0.9, batch.action)
    torch.testing.assert_close(losses(learner, batch), before)


def test_padding_does_not_enter_the_running_std_of_returns():
    learner, env = sac("gru", head=components.GaussianHeadCfg())
    learner.train()
    collect(learner, env, 60)
    quiet(learner)
    batch = learner.experience.buffer.sample()
    assert batch.valid is not None and not batch.valid.all()
    found = []
    for value in (0.0, 0.9):
        batch.action = torch.where(batch.valid.unsqueeze(-1) == 0, value, batch.action)
        learner.critic.head.std_ema.zero_()
        learner.critic_loss(batch)
        found.append(learner.critic.head.std_ema.clone())
    assert found[0].all()
    torch.testing.assert_close(*found, rtol=0, atol=0)


@every_encoder
def test_the_loss_is_the_mean_over_the_steps_that_count(encoder: str):
    """Not over T times B: leaving sequences out, the sums add up with the numbers of valid steps as weights."""
    learner, env = sac(encoder)
    collect(learner, env, 60)
    quiet(learner)
    batch = learner.experience.buffer.sample()
    parts = [learner_batch(batch, torch.arange(5)), learner_batch(batch, torch.arange(5, 16))]
    valid = [float(part.valid.sum()) for part in parts if part.valid is not None]
    assert valid[0] / valid[1] != pytest.approx(5 / 11)
    for whole, one, two in zip(losses(learner, batch), *(losses(learner, part) for part in parts), strict=True):
        torch.testing.assert_close(whole, (valid[0] * one + valid[1] * two) / sum(valid))


@every_encoder
def test_states_and_successors_are_rows_of_one_pass_over_all_observations(encoder: str):
    learner, env = sac(encoder)
    collect(learner, env, 60)
    batch = learner.experience.buffer.sample()
    here, there = actor_at_obs(learner.actor, batch), actor_at_next_obs(learner.actor, batch)
    assert here.shape[:2] == there.shape[:2] == (T, 16)
    torch.testing.assert_close(here[1:], there[:-1])
    # The successor of the last step is its own row, so the true final observation.
    state, outputs = None, []
    for k in range(T + 1):
        obs = {name: value[k] for name, value in batch.obs.items()}
        starts = None if batch.start is None else batch.start[k]
        output, state = learner.actor.evaluate(obs, state, starts)
        outputs.append(output)
    torch.testing.assert_close(there[-1], outputs[-1], atol=1e-5, rtol=1e-5)


def test_without_a_memory_sequences_are_transitions():
    """history_encoder=none: the same loss as SAC on the valid steps, taken out one by one."""
    learner, env = sac("none")
    collect(learner, env, 60)
    quiet(learner)
    batch = learner.experience.buffer.sample()
    assert batch.valid is not None
    valid = batch.valid != 0
    flat = ReplayBatch(
        obs={name: value[:-1][valid] for name, value in batch.obs.items()},
        action=batch.action[valid],
        reward=batch.reward[valid],
        discount=batch.discount[valid],
        next_obs={name: value[1:][valid] for name, value in batch.obs.items()},
    )
    torch.testing.assert_close(losses(learner, batch), losses(learner, flat))


def test_each_loss_moves_only_its_own_encoder():
    learner, env = sac("gru")
    collect(learner, env, 60)
    batch = learner.experience.buffer.sample()
    actor, critic = dict(learner.actor.named_parameters()), dict(learner.critic.named_parameters())
    assert "backbone.weight_hh_l0" in actor and "history.weight_hh_l0" in critic
    assert all(a.data_ptr() != c.data_ptr() for a in actor.values() for c in critic.values())
    critic_loss = learner.critic_loss(batch)[0]
    grads = torch.autograd.grad(critic_loss, [*actor.values(), *critic.values()], allow_unused=True)
    assert all(grad is None for grad in grads[: len(actor)])
    assert all(grad is not None and grad.any() for grad in grads[len(actor) :])
    policy_loss = learner.policy_loss(batch)[0]
    grads = torch.autograd.grad(policy_loss, list(actor.values()), allow_unused=True)
    assert all(grad is not None and grad.any() for grad in grads)


# --- the rest --------------------------------------------------------------------------------------------------------


@every_encoder
def test_a_checkpoint_goes_on_bit_for_bit(encoder: str):
    options = {"replay": SequenceReplayBufferCfg(capacity=400, length=T, burn_in=2, store=True)}
    learner, env = sac(encoder, **options)
    collect(learner, env, 30)
    learner.update()
    saved, env_state = copy.deepcopy(learner.state_dict()), env.state_dict()
    again, env_again = sac(encoder, **options)
    again.load_state_dict(saved)
    env_again.load_state_dict(env_state)
    results = []
    for one, its_env in ((learner, env), (again, env_again)):
        torch.manual_seed(3)
        seen = collect(one, its_env, 7)
        one.update()
        results.append([*seen["action"], *(value for value in one.networks.state_dict().values())])
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


def test_a_memory_without_sequences_is_refused():
    env = ScriptedEnvCfg(num_envs=2, action_dim=2).build()
    context = RunContext(env.spec, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"actor and critic have a memory.*SequenceReplayBufferCfg"):
        algorithms.SACCfg().build(policy=policy("gru"), context=context)
    wrong = policy("gru")
    wrong.actor_cfg.backbone_cfg = networks.RNNCfg()
    with pytest.raises(ValueError, match=r"before an MLP.*RNNCfg: use MLPCfg"):
        algorithms.SACSeqCfg(replay=SequenceReplayBufferCfg(capacity=400)).build(policy=wrong, context=context)


def test_batch_statistics_of_sequences_are_refused():
    env = ScriptedEnvCfg(num_envs=2, action_dim=2).build()
    context = RunContext(env.spec, torch.device("cpu"))
    with_padding = policy("gru")
    with_padding.critic_cfg.backbone_cfg = networks.FlashNetCfg(width=8)
    with pytest.raises(ValueError, match=r"padding.*use MLPCfg instead of FlashNetCfg"):
        algorithms.SACSeqCfg(replay=SequenceReplayBufferCfg(capacity=400)).build(policy=with_padding, context=context)


@pytest.mark.parametrize(
    ("cfg", "networks_cfg", "kind"),
    [
        (algorithms.SACSeqCfg(), algorithms.sac_seq_policy(), networks.RNN),
        (algorithms.SACTransCfg(), algorithms.sac_trans_policy(), networks.Transformer),
    ],
    ids=["SACSeq", "SACTrans"],
)
def test_the_presets_are_sac_on_sequences_with_an_encoder_each(cfg: Any, networks_cfg: Any, kind: type):
    env = ScriptedEnvCfg(num_envs=2, action_dim=2).build()
    cfg.replay.capacity = 1_000
    learner = cfg.build(policy=networks_cfg, context=RunContext(env.spec, torch.device("cpu")))
    assert type(learner) is algorithms.SAC
    assert isinstance(learner.actor.backbone, kind) and isinstance(learner.critic.history, kind)
    assert learner.actor.groups == ("policy", PREVIOUS_ACTION) and learner.critic.groups == ("critic", PREVIOUS_ACTION)


class SmallActions(algorithms.loss_terms.LossTerm):
    """A regularizer of whole sequences: the mean square of the actions that the memory leads to."""

    name = "small_actions"

    def __init__(self, cfg):
        self.weight = cfg.weight

    def loss(self, actor, critic, batch, num_original, expert=None):
        assert batch.obs.batch_size == (batch.action.shape[0] + 1, batch.action.shape[1])
        mode = actor(batch.obs, None, batch.start)[0].mode[:-1]
        return self.weight * batch.mean(mode.square().sum(-1))


@configclass
class SmallActionsCfg(algorithms.loss_terms.LossTermCfg):
    class_type: type = SmallActions
    weight: float = 3.0


def test_loss_terms_see_whole_sequences():
    (plain, env), (regular, _) = sac("gru", learning_starts=0), sac("gru", loss_terms=[SmallActionsCfg()])
    collect(plain, env, 20)
    regular.networks.load_state_dict(plain.networks.state_dict())
    batch, losses = plain.experience.buffer.sample(), []
    assert (batch.valid == 0).any()
    for learner in (plain, regular):
        torch.manual_seed(4)
        losses.append(learner.policy_loss(learner.actor_critic.augment(batch)))
    mode = regular.actor(batch.obs, None, batch.start)[0].mode[:-1]
    expected = 3.0 * (mode.square().sum(-1) * batch.valid).sum() / batch.valid.sum()
    torch.testing.assert_close(losses[1][0] - losses[0][0], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(losses[1][-1]["Loss/small_actions"], expected.detach())


def test_a_term_that_can_not_take_sequences_says_so():
    term = algorithms.SymmetryCfg(function=lambda obs, action: (obs, action))
    with pytest.raises(ValueError, match=r"SymmetryCfg in loss_terms is not available for.*sequences"):
        sac("gru", loss_terms=[term])

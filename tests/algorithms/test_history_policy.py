"""A policy that reads its own previous action: in play, over sequences and exported, the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from RoboRenForce import components, networks
from RoboRenForce.algorithms.history_policy import HistoryPolicy
from RoboRenForce.components.policy_state import PolicyState
from RoboRenForce.envs.obs_groups import PREVIOUS_ACTION, with_previous_action
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from RoboRenForce.utils.export import export_policy
from tensordict import TensorDict

pytestmark = pytest.mark.contract

T, N, A = 12, 3, 2
SPEC = EnvSpec("Robot", N, {"policy": (3,), "command": (1,)}, ActionSpec("continuous", A), max_episode_length=10)

BACKBONES = {
    "mlp": networks.MLPCfg(hidden_features=[8]),
    "stack": networks.StackCfg(window=3, head_cfg=networks.MLPCfg(hidden_features=[8])),
    "gru": networks.RNNCfg(hidden_size=8, num_layers=2),
    "lstm": networks.RNNCfg(cell="lstm", hidden_size=8),
    "transformer": networks.TransformerCfg(dim=8, num_heads=2, num_layers=2, window=4),
}
every_backbone = pytest.mark.parametrize("backbone", BACKBONES.values(), ids=BACKBONES.keys())


def actor(backbone: networks.NetworkCfg, groups: tuple[str, ...] = ("policy", PREVIOUS_ACTION, "command")):
    """The previous action is in the middle, to be put in its place, and matters as much as the rest."""
    torch.manual_seed(0)
    made = components.TanhGaussianActorCfg(backbone_cfg=backbone).build(
        spec=with_previous_action(SPEC), groups=list(groups)
    )
    made.update_normalizer({**observations(100), PREVIOUS_ACTION: 0.3 * torch.randn(100, A)})
    return made.eval()


def observations(*batch: int) -> dict[str, torch.Tensor]:
    return {"policy": 3.0 + torch.randn(*batch, 3), "command": torch.randn(*batch, 1)}


def row(obs: dict[str, torch.Tensor], t: int) -> TensorDict:
    return TensorDict({name: value[t] for name, value in obs.items()}, batch_size=[N])


def played(policy: HistoryPolicy, obs: dict[str, torch.Tensor], dones: torch.Tensor) -> torch.Tensor:
    """Actions `(T, N, A)`."""
    actions = []
    for t in range(T):
        actions.append(policy(row(obs, t)))
        policy.reset(dones[t])
    return torch.stack(actions)


def shifted(actions: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """What was done one step before, by a loop over episodes: zeros at their first steps."""
    previous = torch.zeros_like(actions)
    for t in range(1, len(actions)):
        for n in range(actions.shape[1]):
            if not starts[t, n]:
                previous[t, n] = actions[t - 1, n]
    return previous


def episodes() -> tuple[torch.Tensor, torch.Tensor]:
    """Ends of episodes `(T, N)`, other ones in every row, and the starts that follow from them."""
    dones = torch.zeros(T, N, dtype=torch.int64)
    dones[4, 0] = dones[0, 1] = dones[7, 1] = 1
    starts = torch.cat([torch.ones(1, N, dtype=torch.bool), dones[:-1] != 0])
    return dones, starts


@every_backbone
def test_playing_equals_the_actor_over_the_sequence_with_actions_one_step_later(backbone):
    net = actor(backbone)
    torch.manual_seed(1)
    obs, (dones, starts) = observations(T, N), episodes()
    actions = played(HistoryPolicy(net), obs, dones)
    sequence = {**obs, PREVIOUS_ACTION: shifted(actions, starts)}
    torch.testing.assert_close(actions, net(sequence, None, starts)[0].mode, atol=1e-5, rtol=1e-5)
    # Shifted by one more step, or not at all, the same network says something else.
    for wrong in (actions, shifted(shifted(actions, starts), starts)):
        assert (net({**obs, PREVIOUS_ACTION: wrong}, None, starts)[0].mode - actions).abs().max() > 1e-3


@every_backbone
def test_one_environment_alone_does_what_it_does_among_others(backbone):
    net = actor(backbone)
    obs, (dones, _) = observations(T, N), episodes()
    actions = played(HistoryPolicy(net), obs, dones)
    alone = HistoryPolicy(net)
    for t in range(T):
        torch.testing.assert_close(alone(row(obs, t)[1:2]), actions[t, 1:2], atol=1e-5, rtol=1e-5)
        alone.reset(dones[t, 1:2])


@every_backbone
def test_collecting_remembers_what_playing_remembers(backbone):
    net = actor(backbone)
    obs, (dones, _) = observations(T, N), episodes()
    memory = PolicyState(net, N, torch.device("cpu"), previous_action=True)
    actions = played(HistoryPolicy(net), obs, dones)
    addresses = [value.data_ptr() for value in memory._kept().values()]
    with torch.no_grad():
        for t in range(T):
            action = memory.distribution(net, row(obs, t)).mode
            torch.testing.assert_close(action, actions[t], atol=1e-6, rtol=1e-6)
            if t == 5:  # through a checkpoint in the middle of episodes
                kept = memory.state_dict()
                memory = PolicyState(net, N, torch.device("cpu"), previous_action=True)
                addresses = [value.data_ptr() for value in memory._kept().values()]
                memory.load_state_dict(kept)
            memory.end_step(action, dones[t] != 0)
    assert addresses == [value.data_ptr() for value in memory._kept().values()]


def test_another_number_of_environments_starts_anew():
    net = actor(BACKBONES["gru"])
    memories = [PolicyState(net, num, torch.device("cpu"), previous_action=True) for num in (N, N + 1)]
    memories[0].end_step(torch.ones(N, A), torch.zeros(N, dtype=torch.bool))
    memories[1].load_state_dict(memories[0].state_dict())
    assert memories[1].start.all() and memories[1].previous_action is not None
    assert not memories[1].previous_action.any()
    with pytest.raises(ValueError, match="remembers"):
        PolicyState(net, N, torch.device("cpu"), previous_action=False).load_state_dict(memories[0].state_dict())


@every_backbone
def test_an_exported_policy_needs_no_previous_action(tmp_path: Path, backbone):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    policy = HistoryPolicy(actor(backbone))
    export_policy(policy.exportable(), tmp_path, formats=["onnx"])
    session = onnxruntime.InferenceSession(str(tmp_path / "policy.onnx"), providers=["CPUExecutionProvider"])
    flat_input, state_input = session.get_inputs()
    assert flat_input.shape[-1] == 4
    state = torch.zeros(1, N, state_input.shape[2]).numpy()
    obs = observations(T, N)
    for t in range(T):
        if t == 6:  # an episode ends in row 0: whoever runs the file empties the state there
            state[:, 0] = 0.0
            policy.reset(torch.tensor([1, 0, 0]))
        flat = torch.cat([obs["policy"][t], obs["command"][t]], dim=-1).numpy()
        actions, state = session.run(["actions", "state_out"], {"obs": flat, "state_in": state})
        torch.testing.assert_close(torch.from_numpy(actions), policy(row(obs, t)), atol=1e-5, rtol=1e-5)
    metadata = policy.exportable().metadata or {}
    assert metadata["obs_groups"] == ["policy", "command"] and metadata["obs_sizes"] == [3, 1]
    assert EnvSpec.from_dict(metadata["spec"]).obs_groups == SPEC.obs_groups

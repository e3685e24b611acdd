"""What recorded data tells a policy, and the policy in an environment."""

import numpy as np
import pytest
import torch
from RoboRenForce.algorithms.vla_training import VLAPlayPolicy, relative_spec, spec_of_data
from RoboRenForce.components.action_heads import RegressionHeadCfg
from RoboRenForce.components.vla_policy import MLPBaselinePolicyCfg
from RoboRenForce.components.vla_preprocessing import VLAPreprocessingCfg
from RoboRenForce.data import LeRobotDatasetCfg, LeRobotWriter
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from RoboRenForce.utils.errors import SpecMismatch, UserError
from tensordict import TensorDict

pytestmark = pytest.mark.contract
pytest.importorskip("pyarrow")
NAMES = ["x", "y", "gripper"]


def write(root, dim=3, cameras=("front",), task="lift the block", shift=0.0):
    """Two episodes of six frames of random numbers; returns states and actions `(2, 6, dim)`."""
    generator = np.random.default_rng(0)
    picture = {"dtype": "image", "shape": [16, 16, 3], "names": ["height", "width", "channels"]}
    vector = {"dtype": "float32", "shape": [dim], "names": {"motors": NAMES[:dim]}}
    features = {"observation.state": vector, "action": vector}
    features |= {f"observation.images.{camera}": picture for camera in cameras}
    states, actions = generator.normal(size=(2, 2, 6, dim)).astype(np.float32) + np.float32(shift)
    with LeRobotWriter.create(root, fps=10, features=features) as writer:
        for episode in range(2):
            for state, action in zip(states[episode], actions[episode], strict=True):
                images = {f"observation.images.{camera}": np.zeros((16, 16, 3), np.uint8) for camera in cameras}
                writer.add_frame({"observation.state": state, "action": action, **images}, task=task)
            writer.save_episode()
    return states, actions


def open_chunks(root, chunk):
    steps = [step / 10 for step in range(chunk)]
    return LeRobotDatasetCfg(data_root=str(root), delta_timestamps={"action": steps}).build()


def test_a_data_set(tmp_path):
    _, actions = write(tmp_path / "one")
    spec = spec_of_data(open_chunks(tmp_path / "one", 1).metadata)
    assert (spec.cameras, spec.instructions) == (("front",), ("lift the block",))
    assert (spec.action.dim, spec.action.names) == (3, tuple(NAMES))
    flat = actions.reshape(-1, 3)
    np.testing.assert_allclose(spec.action.statistics["mean"], flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(spec.action.statistics["q99"], np.quantile(flat, 0.99, axis=0), rtol=1e-5)


def test_a_mixture_has_the_dimensions_of_the_longest(tmp_path):
    _, long = write(tmp_path / "long")
    _, short = write(tmp_path / "short", dim=2, cameras=("front", "wrist"), task="push", shift=5.0)
    parts = [open_chunks(tmp_path / name, 1).metadata for name in ("short", "long")]
    spec = spec_of_data(parts)
    assert spec.action.names == tuple(NAMES) and spec.cameras == ("front", "wrist")
    assert set(spec.instructions) == {"push", "lift the block"}
    both = np.concatenate([long[..., :2].reshape(-1, 2), short.reshape(-1, 2)])
    np.testing.assert_allclose(spec.action.statistics["std"][:2], both.std(0), rtol=1e-5)
    np.testing.assert_allclose(spec.action.statistics["std"][2], long[..., 2].std(), rtol=1e-5)
    with pytest.raises(SpecMismatch, match="the camera 'top'"):
        spec_of_data(parts, cameras=["top"])


def test_statistics_of_relative_actions_are_those_of_the_chunks(tmp_path):
    states, actions = write(tmp_path / "one", shift=3.0)
    dataset = open_chunks(tmp_path / "one", 4)
    pairs = [("x", 1), (2, 2)]
    spec = relative_spec(spec_of_data(dataset.metadata), [dataset], pairs)
    chunks = [
        actions[episode, frame : frame + 4][:, [0, 2]] - states[episode, frame, [1, 2]]
        for episode in range(2)
        for frame in range(6)
    ]
    flat = np.concatenate(chunks)
    for name, expected in (("mean", flat.mean(0)), ("max", flat.max(0)), ("q01", np.quantile(flat, 0.01, axis=0))):
        np.testing.assert_allclose(np.asarray(spec.action.statistics[name])[[0, 2]], expected, rtol=1e-4, atol=1e-6)
    assert spec.action.relative == (0, 2)
    assert spec.action.statistics["mean"][1] == pytest.approx(actions[..., 1].mean(), rel=1e-5)
    policy = MLPBaselinePolicyCfg(
        head=RegressionHeadCfg(chunk_size=4), preprocessing=VLAPreprocessingCfg(relative_actions=pairs)
    ).build(spec)
    batch = dataset.get_batch(np.arange(len(dataset)))
    targets, mask = policy.targets(policy.encode(batch), batch["action"], batch["action_is_pad"])
    assert targets[mask].abs().max() < 1.6  # of quantiles that are -1 and 1
    with pytest.raises(UserError, match="delta_timestamps"):
        relative_spec(
            spec_of_data(dataset.metadata), [LeRobotDatasetCfg(data_root=str(tmp_path / "one")).build()], pairs
        )


def test_playing_takes_as_many_actions_as_the_environment_executes(tmp_path):
    write(tmp_path / "one")
    spec = spec_of_data(open_chunks(tmp_path / "one", 1).metadata)
    policy = MLPBaselinePolicyCfg(head=RegressionHeadCfg(chunk_size=4)).build(spec)
    groups = {"front": (16, 16, 3), "proprio": (3,), "instruction_id": (1,)}
    ids = policy.preprocessing.instructions.ids[[0, 0]].unsqueeze(1)
    obs = TensorDict(
        {"front": torch.zeros(2, 16, 16, 3, dtype=torch.uint8), "proprio": torch.zeros(2, 3), "instruction_id": ids},
        batch_size=[2],
    )
    chunk = policy(obs)
    for executed, expected in ((0, chunk[:, 0]), (1, chunk[:, :1]), (3, chunk[:, :3])):
        action = ActionSpec("continuous", 3, chunk=executed)
        env = EnvSpec(task="Table", num_envs=2, obs_groups=groups, action=action, max_episode_length=9)
        assert torch.equal(VLAPlayPolicy(policy, env)(obs), expected)
    env = EnvSpec("Table", 2, groups, ActionSpec("continuous", 3, chunk=5), 9)
    with pytest.raises(SpecMismatch, match="executes 5 actions per step"):
        VLAPlayPolicy(policy, env)

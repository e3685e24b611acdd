"""From observations to actions in units: the same from recorded data and from an environment, and what is refused."""

import json

import numpy as np
import pytest
import torch
from RoboRenForce.components.action_heads import RegressionHeadCfg
from RoboRenForce.components.vla_normalizer import VectorNormalizerCfg
from RoboRenForce.components.vla_preprocessing import VLAPreprocessingCfg
from RoboRenForce.components.vla_spec import VLASpec
from RoboRenForce.configclass import ConfigError
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from RoboRenForce.utils.errors import CheckpointError, SpecMismatch, UserError
from RoboRenForce.utils.images import resize
from tensordict import TensorDict
from vla_cases import CHUNK, HEIGHT, TEXTS, WIDTH, observed, policy, recorded, spec, vector

pytestmark = pytest.mark.contract


def test_recorded_and_observed_are_the_same():
    built, batch = policy(), recorded()
    obs = TensorDict(observed(batch), batch_size=[2])
    one, other = built.encode(batch), built.encode(obs)
    torch.testing.assert_close(one.to_tensors(), other.to_tensors())
    by_text = {key: value for key, value in batch.items() if key != "instruction_id"}
    assert torch.equal(built.encode(by_text).tokens, one.tokens)
    torch.testing.assert_close(built(obs), built.act(one)[0])
    torch.testing.assert_close(one.state, (batch["observation.state"] - 2) / 4)  # -2 .. 6 becomes -1 .. 1


def test_actions_have_units():
    built, batch = policy(), recorded()
    prefix = built.encode(batch)
    normalized, _ = built.head.act(prefix)
    torch.testing.assert_close(built.act(prefix)[0], 4 * normalized + 2)
    targets, mask = built.targets(prefix, batch["action"])
    torch.testing.assert_close(targets, (batch["action"] - 2) / 4)
    assert mask.all() and built.act(prefix)[0].shape == (2, CHUNK, 2)


def test_padding_is_masked():
    built, batch = policy(), recorded()
    prefix, pad = built.encode(batch), batch["action_is_pad"]
    pad[0, 1:] = True
    dims = torch.tensor([[True, True], [True, False]])
    loss = built.loss(prefix, batch["action"], pad, dims)
    assert loss.count == 2 + CHUNK
    spoiled = batch["action"].clone()
    spoiled[0, 1:], spoiled[1, :, 1] = 1e3, -1e3
    assert built.loss(prefix, spoiled, pad, dims).total == loss.total


def test_transforms_are_those_of_the_environment():
    cfg = VLAPreprocessingCfg(
        flipped_cameras=["wrist"], flipped_actions=[1], relative_actions=[(0, 2)], camera_groups={"front": "agent"}
    )
    from dataclasses import replace

    data = spec(action=replace(vector(2), relative=(0,)))
    built, batch = policy(data=data, preprocessing=cfg), recorded()
    obs = observed(batch)
    obs["agent"] = obs.pop("front")
    obs["wrist"] = obs["wrist"].flip(1, 2)
    prefix = built.encode(batch)
    torch.testing.assert_close(built.encode(obs).tokens, prefix.tokens)
    raw = 4 * built.head.act(prefix)[0] + 2
    state = batch["observation.state"]
    torch.testing.assert_close(built.act(prefix)[0][..., 0], raw[..., 0] + state[:, 2:3])
    torch.testing.assert_close(built.act(prefix)[0][..., 1], -raw[..., 1])
    targets, _ = built.targets(prefix, batch["action"])
    torch.testing.assert_close(targets[..., 0], (batch["action"][..., 0] - state[:, 2:3] - 2) / 4)
    torch.testing.assert_close(targets[..., 1], (batch["action"][..., 1] - 2) / 4)
    with pytest.raises(ConfigError, match="relative in \\[\\]"):
        policy(preprocessing=cfg)


def test_a_camera_that_a_row_lacks_is_not_seen():
    built, batch = policy(), recorded()
    batch["observation.images.wrist_is_present"] = torch.tensor([True, False])
    before = built.encode(batch)
    batch["observation.images.wrist"] = 255 - batch["observation.images.wrist"]
    after = built.encode(batch)
    same = (before.tokens == after.tokens).all(-1) | ~after.mask
    assert same[1].all() and not same[0].any() and not after.mask[1].all()


@pytest.mark.parametrize("size", [(64, 64), (24, 100)])
def test_resize_is_that_of_pil(size):
    image = pytest.importorskip("PIL.Image")
    coarse = recorded()["observation.images.front"][:, :6, :8] // 2 + 64  # smooth: PIL cuts overshoots in between
    pixels = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)
    expected = image.fromarray(pixels[0].numpy()).resize((size[1], size[0]), image.Resampling.BICUBIC)
    difference = resize(pixels, size, "stretch")[0].numpy().astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 1 and (difference == 0).mean() > 0.9


def test_padding_keeps_proportions():
    white = torch.full((1, HEIGHT, WIDTH, 3), 255, dtype=torch.uint8)
    seen = resize(white, (32, 32), "pad")[0, :, :, 0]
    assert (seen[4:28] == 255).all() and (seen[:4] == 0).all() and (seen[28:] == 0).all()


def test_demonstrations_lose_their_proprioception_while_training():
    """In that share of the samples, and neither in validation nor in an environment."""
    with pytest.raises(ConfigError, match="state_dropout: actions relative to the state"):
        VLAPreprocessingCfg(state_dropout=0.5, relative_actions=[(0, 0)]).validate()
    batch = recorded(400)
    model = policy(preprocessing=VLAPreprocessingCfg(state_dropout=0.75)).preprocessing
    whole = model.eval()(batch).state
    assert (whole != 0).all()
    dropped = model.train()(batch).state
    kept = dropped.any(1)
    assert torch.equal(dropped[kept], whole[kept]) and 0.15 < kept.float().mean() < 0.35
    assert not torch.equal(model(batch).state, dropped) and torch.equal(model(observed(batch)).state, whole)


def test_instructions_are_looked_up_and_unknown_ones_refused():
    built, batch = policy(), recorded()
    first, second = (built.encode({**batch, "instruction_id": batch["instruction_id"][[k, k]]}) for k in (0, 1))
    assert (first.tokens - second.tokens).abs().max() > 1e-3
    batch["task"] = ["open the drawer"] * 2
    del batch["instruction_id"]
    with pytest.raises(UserError, match="has not tokenized"):
        built.encode(batch)
    built.add_instructions(["open the drawer"])
    built.encode(batch)
    assert set(built.spec.instructions) == {*TEXTS, "open the drawer"}


def test_the_spec_is_plain_data():
    data = spec(action=vector(2, names=("x", "gripper")))
    assert VLASpec.from_dict(json.loads(json.dumps(data.to_dict()))) == data
    broken = data.to_dict()
    broken["action"]["statistics"]["mean"] = [1.0]
    with pytest.raises(CheckpointError, match="VLASpec"):
        VLASpec.from_dict(broken)


def env(**changes):
    groups = {"front": (64, 64, 3), "wrist": (64, 64, 3), "proprio": (3,), "instruction_id": (1,)}
    fields = {"obs_groups": groups, "action": ActionSpec("continuous", 2, chunk=2)} | changes
    return EnvSpec(task="Table", num_envs=1, max_episode_length=10, **fields)


def test_mismatches_are_a_table_of_both():
    built = policy(data=spec(action=vector(2, names=("x", "gripper"))))
    built.require_env(env())
    built.require_data(spec())
    groups = {"front": (64, 64, 3), "proprio": (5,), "instruction_id": (1,)}
    with pytest.raises(SpecMismatch) as error:
        built.require_env(env(obs_groups=groups, action=ActionSpec("continuous", 7)))
    lines = [line.split("  ") for line in str(error.value).splitlines()[1:]]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells == [
        ["policy", "environment"],
        ["cameras", "front, wrist", "front"],
        ["proprio dimensions", "3", "5"],
        ["action dimensions", "2 (x, gripper)", "7, continuous"],
    ]
    with pytest.raises(SpecMismatch, match=r"state dimensions +3 +4"):
        built.require_data(spec(state=vector(4)))


def test_refusals():
    batch = recorded()
    without = {key: value for key, value in batch.items() if "wrist" not in key}
    with pytest.raises(SpecMismatch, match=r"reads the camera 'wrist', and 'observation\.images\.wrist' is not among"):
        policy().encode(without)
    with pytest.raises(SpecMismatch, match="expected uint8"):
        policy().encode({**batch, "observation.images.front": batch["observation.images.front"].float()})
    with pytest.raises(SpecMismatch, match="expected 3 numbers"):
        policy().encode({**batch, "observation.state": torch.zeros(2, 4)})
    with pytest.raises(SpecMismatch, match="neither 'instruction_id' nor 'task'"):
        policy().encode({key: batch[key] for key in batch if key not in ("instruction_id", "task")})
    built = policy()
    with pytest.raises(SpecMismatch, match=rf"are \[2, 3, 2\].*\[2, {CHUNK}, 2\]"):
        built.loss(built.encode(batch), batch["action"][:, :3])
    with pytest.raises(SpecMismatch, match="reads the cameras"):
        policy(cameras=["top"])
    with pytest.raises(SpecMismatch, match="no camera"):
        policy(data=spec(cameras=()))
    with pytest.raises(ConfigError, match="names the camera 'top'"):
        policy(preprocessing=VLAPreprocessingCfg(flipped_cameras=["top"]))
    assert policy(cameras=["wrist"]).encode(batch).tokens.shape[1] < built.encode(batch).tokens.shape[1]


def test_statistics_travel_with_the_weights():
    one, other = policy(), policy(data=spec(action=vector(2, low=-1, high=1)))
    other.load_state_dict(one.state_dict())
    batch = recorded()
    torch.testing.assert_close(one(batch), other(batch))


def test_methods_of_normalization_are_configured():
    cfg = VLAPreprocessingCfg(action=VectorNormalizerCfg(method="mean_std", identity_dims=[1]))
    built = policy(preprocessing=cfg, head=RegressionHeadCfg(chunk_size=CHUNK))
    targets, _ = built.targets(built.encode(recorded()), recorded()["action"])
    torch.testing.assert_close(targets[..., 0], (recorded()["action"][..., 0] - 2) / 2)
    assert torch.equal(targets[..., 1], recorded()["action"][..., 1])

"""The mapping block: what is seen and moved, to the pixel and the dimension, and what it says where it doesn't fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from RoboRenForce.configclass import ConfigError
from RoboRenForce.envs import (
    ActionSpec,
    EnvSpec,
    MultiModalCfg,
    ObsMappingCfg,
    ScriptedEnvCfg,
    VecEnvWrapper,
    check_vec_env,
)
from RoboRenForce.envs.scripted_env import ScriptedEnv
from tensordict import TensorDict

pytestmark = pytest.mark.contract
BLOCK = """
task_description: pick up the apple
main_images: image
crop: [1, 2, 6, 4]
resize: [3, 2]
states: [policy, {key: critic, slice: [1, 3]}]
action_mapping: {prefix_pad: 1, suffix_pad: 2, keys: [{key: hand, slice: [2, 3]}, {key: arm, slice: [0, 2]}]}
"""


class Recording(ScriptedEnv):
    """Keeps the actions that reach the simulator; its pictures are noise."""

    def __init__(self, cfg: Any) -> None:
        self.pictures = torch.randint(256, (cfg.num_envs, 8, 8, 3), dtype=torch.uint8)
        self.actions: list[torch.Tensor] = []
        super().__init__(cfg)

    def step_rows(self, actions: torch.Tensor, active: torch.Tensor, *, draw: bool = True) -> Any:
        self.actions.append(actions.clone())
        return super().step_rows(actions, active, draw=draw)

    def _observe(self) -> TensorDict:
        return super()._observe().update({"image": self.pictures})


def build(block: str | dict[str, Any] = BLOCK, *, chunk: int | None = 2, **options: Any) -> Any:
    mapping = ObsMappingCfg.from_yaml(block) if isinstance(block, str) else ObsMappingCfg.from_dict(block)
    chain = MultiModalCfg(mapping=mapping, chunk_size=chunk, flat_actions=options.pop("flat_actions", False))
    cfg = ScriptedEnvCfg(class_type=Recording, num_envs=3, image_shape=[8, 8, 3], action_dim=6, action_bound=0.5)
    return cfg.replace(multi_modal=chain, **options).build()


def test_pixels_and_states_are_those_of_the_block() -> None:
    env = build()
    assert dict(env.spec.obs_groups) == {"image": (3, 2, 3), "proprio": (5,), "instruction_id": (1,)}
    inner, obs = env.unwrapped.get_observations(), env.get_observations()
    assert torch.equal(obs["proprio"], torch.cat([inner["policy"], inner["critic"][:, 1:3]], 1))
    for shown, whole in zip(obs["image"], env.unwrapped.pictures, strict=True):
        wanted = Image.fromarray(whole.numpy()[1:7, 2:6]).resize((2, 3), Image.Resampling.BICUBIC)
        assert np.abs(shown.numpy().astype(int) - np.asarray(wanted).astype(int)).max() <= 1
    assert env.instructions == ["pick up the apple"] * 3


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("flat", [False, True])
def test_actions_reach_their_dimensions_and_the_rest_is_zero(chunk: int | None, flat: bool) -> None:
    if flat and chunk is None:
        return
    env = build(chunk=chunk, flat_actions=flat)
    assert env.spec.action.dim == 3 * (2 if flat else 1)
    assert env.spec.action.low == (-0.5,) * env.spec.action.dim
    actions = torch.rand(3, *(() if chunk is None else (2,)), 3) - 0.5
    env.step(actions.flatten(1) if flat else actions)
    reached = torch.stack(env.unwrapped.actions, 1).view(*actions.shape[:-1], 6)
    wanted = torch.zeros_like(reached)
    wanted[..., 1], wanted[..., 2], wanted[..., 3] = actions[..., 2], actions[..., 0], actions[..., 1]
    assert torch.equal(reached, wanted)


def test_the_contract_of_environments_holds() -> None:
    check_vec_env(build(class_type=ScriptedEnv, extras=["final_observations"]))
    check_vec_env(build({"task_description": "go", "states": ["policy"]}, chunk=None))


def test_final_observations_are_mapped_too() -> None:
    env = build(script=[["terminated@2"], ["time_out@1"], ["terminated@5"]], extras=["final_observations"])
    env.step(torch.zeros(3, 2, 3))
    obs, _, done, extras = env.step(torch.full((3, 2, 3), 0.25))
    final = extras["final_observations"]
    assert done.tolist() == [1, 1, 0] and dict(final.items()).keys() == dict(obs.items()).keys()
    assert final["image"].shape == (3, 3, 2, 3)
    assert final["proprio"][:, 1].tolist() == [2, 1, 4], "steps of the episode that ended"
    assert final["proprio"][0, 2].item() == 1.5, "two actions of three times a quarter"


def test_bounds_and_exports_follow_the_dimensions() -> None:
    env = build(chunk=None)
    mapping, numbers = env._mapping, tuple(float(number) for number in range(6))
    assert mapping.action_spec(ActionSpec("continuous", 6, numbers, numbers)).low == (2.0, 3.0, 1.0)
    interface = env.simulator_interface()
    assert interface.action.shape == (3,) and interface.action.high == (0.5,) * 3
    assert dict(interface.simulator) == {"action_columns": [2, 3, 1], "action_dim": 6}


def test_without_a_mapping_of_actions_they_stay() -> None:
    env = build({"task_description": "go", "states": ["policy"]}, chunk=None)
    actions = torch.rand(3, 6)
    env.step(actions)
    assert torch.equal(env.unwrapped.actions[0], actions) and env.spec.action.dim == 6


def test_the_block_makes_the_round_trip() -> None:
    cfg = MultiModalCfg(mapping=ObsMappingCfg.from_yaml(BLOCK), chunk_size=2)
    assert MultiModalCfg.from_yaml(cfg.to_yaml()) == cfg


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"main_images": "imag"}, r"main_images names the group 'imag'.*\['critic', 'image', 'policy'\].*mean 'image'"),
    ({"extra_view_images": ["policy"]}, r"extra_view_images names.*torch.float32 \(3,\), expected uint8"),
    ({"states": ["image"]}, r"holds images \(8, 8, 3\), expected numbers: list cameras under main_images"),
    ({"states": [{"key": "policy", "slice": [1, 4]}]}, r"\[1, 4\] of 'policy', which has 3: write slice"),
    ({"states": [{"key": "policy", "slice": [2, 2]}]}, r"\[2, 2\] of 'policy', which has 3"),
    ({"crop": [4, 0, 5, 8]}, r"5 x 8 pixels from \(4, 0\), and 'image' has 8 x 8"),
    ({"action_mapping": {"prefix_pad": 6}}, r"prefix_pad=6 and suffix_pad=0.*have 6 dimensions: leave at least one"),
    ({"action_mapping": {"keys": [{"key": "a", "slice": [0, 5]}]}}, r"5 dimensions in keys.*have to be as many"),
    ({"action_mapping": {"keys": ["a", "b"]}}, r"keys: 'a' has no slice; write \{key: a, slice"),
    ({"action_mapping": {"keys": [{"key": "a", "slice": [1, 3]}]}}, r"dimensions \[1, 2\].*each from 0 once"),
    ({"extra_view_images": ["image"]}, "'image' is named twice"),
    ({"task_description": None}, r"set MultiModalCfg.mapping.task_description to the text"),
    ({"main_image": "image"}, "main_image: ObsMappingCfg has no such field; did you mean 'main_images'"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=str)
def test_what_does_not_fit_is_one_sentence(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"task_description": "go", "main_images": "image", "states": ["policy"], **change})


def test_a_mapping_and_other_fields_exclude_each_other() -> None:
    cfg = MultiModalCfg(mapping=ObsMappingCfg(states=["policy"]), proprio=["policy"])
    with pytest.raises(ConfigError, match="leave images, proprio and instruction empty"):
        cfg.validate()
    with pytest.raises(ConfigError, match="main_images, extra_view_images and states are all empty"):
        MultiModalCfg(mapping=ObsMappingCfg()).validate()


def test_an_environment_with_texts_of_its_own_takes_no_other() -> None:
    class Telling(VecEnvWrapper):
        def __init__(self, env: Any) -> None:
            super().__init__(env)
            self.spec = EnvSpec(**{**vars(env.spec), "extras": ("instruction",)})

    chain = MultiModalCfg(mapping=ObsMappingCfg(states=["policy"], task_description="go"))
    with pytest.raises(ConfigError, match=r"leave MultiModalCfg\.mapping\.task_description at None"):
        chain.build(Telling(ScriptedEnvCfg().build()))

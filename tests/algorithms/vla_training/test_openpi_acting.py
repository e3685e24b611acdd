"""pi0 and pi0.5 in an environment: each row acts as it would alone, and captured as eagerly."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
import vla_cases
from openpi_cases import fill
from RoboRenForce.algorithms.vla_training import VLAPlayPolicy
from RoboRenForce.components.action_heads import FlowHead
from RoboRenForce.components.openpi_policy import OpenPIPolicyCfg
from RoboRenForce.components.vla_policy import VLAPolicy
from RoboRenForce.envs.instructions import instruction_id
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from RoboRenForce.networks.action_expert import Variant
from RoboRenForce.networks.vlm import Prefix
from RoboRenForce.utils.cuda_graph import GraphedStep
from RoboRenForce.utils.precision import set_matmul_precision
from tensordict import TensorDict
from torch import Tensor

DEVICE, EXECUTED = "cuda:0", 3
TEXTS = (
    *vla_cases.TEXTS,
    "wait",
    "put the small red block behind the two large blue blocks, then go back to the start",
)
variants = pytest.mark.parametrize("variant", ["pi0", "pi05"])


def built(variant: Variant) -> VLAPolicy:
    cfg = OpenPIPolicyCfg(variant=variant, size="tiny")
    cfg.head.chunk_size, cfg.head.num_steps, cfg.head.network.action_dim = vla_cases.CHUNK, 3, 5
    policy = cfg.build(vla_cases.spec(instructions=TEXTS))
    fill(policy)
    return policy.eval()


def env(rows: int) -> EnvSpec:
    groups = {"front": (48, 64, 3), "wrist": (48, 64, 3), "proprio": (3,), "instruction_id": (1,)}
    return EnvSpec("Table", rows, groups, ActionSpec("continuous", 2, chunk=EXECUTED), max_episode_length=10)


def observation(rows: int, seed: int = 0) -> TensorDict:
    """Other pictures and states in every row, and texts of all lengths in turn."""
    generator = torch.Generator().manual_seed(seed)
    front, wrist = torch.randint(0, 256, (2, rows, 48, 64, 3), generator=generator, dtype=torch.uint8)
    ids = torch.tensor([instruction_id(TEXTS[(row + seed) % len(TEXTS)]) for row in range(rows)]).unsqueeze(1)
    state = 2 + torch.randn(rows, 3, generator=generator)  # around the middle of the data
    groups = {"front": front, "wrist": wrist, "proprio": state, "instruction_id": ids}
    return TensorDict(groups, batch_size=[rows])


class GivenNoise:
    """What chunks begin with, the same for a row in whatever batch, and at one address, as a graph reads it."""

    def __init__(self, rows: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.table, self.first = torch.zeros(rows, vla_cases.CHUNK, 5, device=device), 0
        self.draw(0)
        monkeypatch.setattr(FlowHead, "draw_noise", lambda head, prefix, generator=None: self.rows(prefix))

    def draw(self, seed: int) -> None:
        self.table.copy_(torch.randn(self.table.shape, generator=torch.Generator().manual_seed(seed)))

    def rows(self, prefix: Prefix) -> Tensor:
        return self.table[self.first : self.first + len(prefix.state)]


@pytest.mark.contract
@variants
def test_rows_act_in_a_batch_as_they_do_alone(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, obs, noise = built(variant), observation(16), GivenNoise(16, "cpu", monkeypatch)
    play, alone = VLAPlayPolicy(policy, env(16)), []
    for noise.first in range(16):
        alone.append(play(obs[noise.first : noise.first + 1]))
    noise.first, expected = 0, torch.cat(alone)
    assert expected.shape == (16, EXECUTED, 2) and expected.flatten(1).unique(dim=0).shape[0] == 16
    for rows in (1, 3, 16, 3):
        found = play(obs[:rows])
        torch.testing.assert_close(found, expected[:rows], rtol=1e-4, atol=1e-4)
    noise.draw(1)
    assert ((play(obs) - expected).abs().amax((1, 2)) > 1e-2).all()


@pytest.fixture
def exact_products() -> Iterator[None]:
    allowed = torch.backends.cuda.matmul.allow_tf32
    set_matmul_precision("fp32", torch.device(DEVICE))
    yield
    set_matmul_precision("tf32" if allowed else "fp32", torch.device(DEVICE))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("exact_products")
@variants
@pytest.mark.parametrize("rows", [1, 16, 256])
def test_captured_acting_equals_eager_acting(variant: Variant, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step, with pictures, states, texts and noise that a graph has not seen when it was captured."""
    policy, noise = built(variant).to(DEVICE), GivenNoise(rows, DEVICE, monkeypatch)
    eager, captured = (VLAPlayPolicy(policy, env(rows), cuda_graph=mode) for mode in ("off", "on"))
    steps = []
    for step in range(5):  # two are eager, the third is captured
        noise.draw(step)
        obs = observation(rows, seed=step).to(DEVICE)
        steps.append(eager(obs))
        torch.testing.assert_close(captured(obs), steps[-1], rtol=1e-4, atol=1e-4)
    assert isinstance(captured._act, GraphedStep) and captured._act.captured
    assert not isinstance(eager._act, GraphedStep)
    for before, after in pairwise(steps):
        assert ((before - after).abs().amax((1, 2)) > 1e-2).all()

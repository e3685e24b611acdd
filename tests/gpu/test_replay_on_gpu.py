"""Replays on a GPU: captured steps equal eager ones, nothing waits for the host, host memory, very large tables."""

import dataclasses

import pytest
import torch
from RoboRenForce.buffer import PrioritizedReplayBufferCfg, ReplayBufferCfg, SequenceReplayBufferCfg
from RoboRenForce.buffer.prioritized import SumTree
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from RoboRenForce.utils.cuda_graph import GraphedStep

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

DEVICE, CPU = torch.device("cuda:0"), torch.device("cpu")
ENVS, ROWS, BATCH = 64, 20, 512
CFGS = {
    "uniform": ReplayBufferCfg(capacity=ENVS * ROWS),
    "three steps": ReplayBufferCfg(capacity=ENVS * ROWS, n_step=3),
    "prioritized": PrioritizedReplayBufferCfg(capacity=ENVS * ROWS, n_step=2, beta_updates=30),
    "sequences": SequenceReplayBufferCfg(capacity=ENVS * ROWS, length=6, burn_in=2),
}
every_replay = pytest.mark.parametrize("cfg", CFGS.values(), ids=CFGS.keys())


def spec(envs: int = ENVS, width: int = 10) -> EnvSpec:
    groups = {"policy": (width,), "camera": (3, 4, 4)}
    return EnvSpec("synthetic", envs, groups, ActionSpec("continuous", 5), 100, obs_dtypes={"camera": "uint8"})


def build(cfg, device=DEVICE):
    return cfg.build(spec=spec(), gamma=0.9, batch_size=BATCH, device=device)


def random_step(device=DEVICE) -> dict:
    def observations(kind):
        camera = torch.randint(256, (ENVS, 3, 4, 4), dtype=torch.uint8)
        return {f"{kind}/policy": torch.randn(ENVS, 10).to(device), f"{kind}/camera": camera.to(device)}

    done = torch.rand(ENVS) < 0.2
    return {
        **observations("obs"),
        "action": torch.randn(ENVS, 5).to(device),
        "reward": torch.randn(ENVS).to(device),
        "terminated": (done & (torch.rand(ENVS) < 0.5)).to(device),
        "done": done.to(device),
        **observations("next_obs"),
    }


def tensors(batch) -> dict[str, torch.Tensor]:
    found = {}
    for field in dataclasses.fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, dict):
            found |= {f"{field.name}/{name}": tensor for name, tensor in value.items()}
        elif value is not None:
            found[field.name] = value
    return found


def copy_into(into: dict, source: dict) -> None:
    for name, value in source.items():
        into[name].copy_(value)


class Loop:
    """Add, sample and prioritize as a learner does, on inputs whose addresses stay."""

    def __init__(self, cfg, mode):
        self.buffer, self.inputs, self.out = build(cfg), random_step(), {}
        self.step = GraphedStep(self._step, DEVICE, mode, "replay") if mode == "on" else self._step

    def _step(self):
        self.buffer.add(self.inputs)
        batch = self.buffer.sample()
        self.buffer.update_priorities(batch.index, (batch.reward if batch.reward.dim() == 1 else batch.reward[0]) * 3.0)
        for name, value in tensors(batch).items():
            if name not in self.out:
                self.out[name] = value.clone()
            self.out[name].copy_(value)


@every_replay
def test_captured_steps_equal_eager_ones(cfg):
    eager, captured = Loop(cfg, "off"), Loop(cfg, "on")
    for number in range(2 * ROWS + 3):
        step = random_step()
        for loop in (eager, captured):
            copy_into(loop.inputs, step)
            torch.cuda.manual_seed(number)
            loop.step()
        assert eager.out.keys() == captured.out.keys()
        for name, value in eager.out.items():
            assert torch.equal(value, captured.out[name]), name
    assert captured.step.captured
    assert captured.buffer.num_added == (2 * ROWS + 3) * ENVS
    assert captured.buffer.captured


@every_replay
def test_nothing_waits_for_the_host(cfg):
    loop = Loop(cfg, "off")
    loop.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            loop.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(loop.buffer) == 4 * ENVS


@every_replay
def test_contents_in_host_memory_give_the_same_samples(cfg):
    here, there = build(cfg), build(cfg.replace(device="cpu"))
    for _ in range(ROWS + 7):
        step = random_step()
        here.add(step)
        there.add(step)
    assert not there.captured
    assert there.records.tables[torch.float32].is_pinned()
    batch = there.sample()
    there.update_priorities(batch.index, torch.ones(BATCH, device=DEVICE))
    assert all(value.device == DEVICE for value in tensors(batch).values())
    again = here._sequences(batch.index) if batch.is_sequence else here._transitions(batch.index)
    for name, value in tensors(again).items():
        torch.testing.assert_close(tensors(batch)[name], value)


def test_many_asynchronous_samples_from_host_memory_do_not_overwrite_one_another():
    buffer = build(CFGS["uniform"].replace(device="cpu"))
    for _ in range(ROWS):
        buffer.add(random_step())
    batches = [buffer.sample() for _ in range(50)]
    stored = buffer.records.tables[torch.float32].flatten(0, 1)
    for batch in batches:
        assert torch.equal(batch.obs["policy"].cpu(), stored[batch.index.cpu(), :10])


def test_tree_on_a_gpu_equals_the_tree_on_a_cpu():
    size = 300_000
    trees = [SumTree(size, CPU), SumTree(size, DEVICE)]
    for _ in range(5):
        slot, value = torch.randint(size, (4096,)), torch.rand(4096) ** 4
        for tree in trees:
            tree.set(slot.to(tree.values.device), value.to(tree.values.device))
    assert torch.equal(trees[0].values, trees[1].values.cpu())
    torch.testing.assert_close(trees[0].total, trees[1].total.cpu())
    share = torch.rand(20_000, dtype=torch.float64)
    found, expected = trees[1].find(share.to(DEVICE)).cpu(), trees[0].find(share)
    assert (found == expected).double().mean() > 0.9999  # rounding may decide at a border
    assert (trees[0].values[found] > 0).all()


def test_tables_of_more_than_2_to_the_31_elements():
    envs, width = 4096, 60
    rows = 2**31 // (envs * 2 * width) + 10
    if torch.cuda.mem_get_info(DEVICE)[0] < 14 * 2**30:
        pytest.skip("needs 14 GiB")
    one = EnvSpec("large", envs, {"policy": (width,)}, ActionSpec("continuous", 5), 100)
    buffer = ReplayBufferCfg(capacity=rows * envs, n_step=2).build(spec=one, gamma=0.9, batch_size=4, device=DEVICE)
    assert buffer.records.tables[torch.float32].numel() > 2**31
    buffer._count(rows - 2)
    none, env = torch.zeros(envs, dtype=torch.bool, device=DEVICE), torch.arange(envs, device=DEVICE).float()
    for number in (1.0, 2.0, 3.0):  # the last two rows and the first
        obs = (env + number * 10_000).unsqueeze(1).expand(-1, width)
        flags = {"reward": env, "terminated": none, "done": none}
        buffer.add({"obs/policy": obs, "next_obs/policy": obs, "action": torch.zeros(envs, 5, device=DEVICE), **flags})
    slot = torch.tensor([0, (rows - 2) * envs, (rows - 1) * envs + 7, rows * envs - 1], device=DEVICE)
    batch = buffer._transitions(slot)
    assert batch.obs["policy"][:, -1].tolist() == [30_000.0, 10_000.0, 20_007.0, 24_095.0]
    assert batch.next_obs["policy"][:, -1].tolist() == [30_000.0, 20_000.0, 30_007.0, 34_095.0]
    torch.testing.assert_close(batch.reward, torch.tensor([0.0, 0.0, 7 * 1.9, 4095 * 1.9], device=DEVICE))
    assert buffer.sample().reward.shape == (4,)

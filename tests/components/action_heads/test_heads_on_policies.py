"""Every head in a policy: it learns eight samples by heart, and a saved policy gives the same actions."""

import pytest
import torch
from head_cases import CASES, DENSITIES
from RoboRenForce.algorithms.vla_training import VLAPlayPolicy
from RoboRenForce.components.action_heads import BinsHead, FASTHead, FlowHead
from RoboRenForce.components.action_heads.denoising import DenoisingHeadCfg
from RoboRenForce.components.chunk_execution import RealTimeChunkingCfg, RecedingHorizonCfg, TemporalEnsembleCfg
from RoboRenForce.components.vla_export import export_vla, load_vla
from RoboRenForce.components.vla_policy import Qwen2VLPolicyCfg, Qwen3VLPolicyCfg
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from RoboRenForce.networks import MLPDenoiserCfg, ResidualMLPCfg
from RoboRenForce.networks.vlm import MLPBaselineCfg, Qwen2VLCfg, Qwen3VLCfg
from tensordict import TensorDict
from vla_cases import observed, policy, recorded, spec

every_head = pytest.mark.parametrize("name", CASES)
TRANSFORMERS = ["flow-dit", "flow-layerwise", "flow-delays", "diffusion-ddpm-dit"]
learned = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if name in TRANSFORMERS else []) for name in CASES]
)
EXECUTIONS = {
    "chunks": None,
    "receding_horizon": RecedingHorizonCfg(num_executed=2),
    "temporal_ensemble": TemporalEnsembleCfg(),
    "rtc": RealTimeChunkingCfg(num_executed=2, delay=1),
}
LANGUAGE_MODELS = {"qwen2": (Qwen2VLPolicyCfg, Qwen2VLCfg, 56), "qwen3": (Qwen3VLPolicyCfg, Qwen3VLCfg, 64)}


def policy_with(head, backbone="mlp"):
    data = spec(cameras=("front",))
    if backbone == "mlp":
        return policy(head=head, data=data, backbone=MLPBaselineCfg(image_size=[32, 32]))
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    preset, cfg, size = LANGUAGE_MODELS[backbone]
    model = cfg(model_name="tiny", image_size=[size, size], finetune="frozen", frozen_dtype="fp32")
    return policy(preset, head=head, data=data, backbone=model)


def to_learn(name):
    """The head of a case, with the draws (and for an MLP the width) that a short training needs."""
    cfg = CASES[name]
    if name in TRANSFORMERS:
        return cfg.replace(draws_per_feature=4)
    if isinstance(cfg, DenoisingHeadCfg):
        network = MLPDenoiserCfg(network=ResidualMLPCfg(dim=128), time_dim=16)
        return cfg.replace(network=network, draws_per_feature=8)
    return cfg


def overfit(built, batch):
    """Train the head on a batch, whose features stay; returns the mean absolute error of normalized actions."""
    tokens = isinstance(built.head, (BinsHead, FASTHead))
    updates, learning_rate = (250, 1e-2) if tokens else (800, 3e-3)
    with torch.no_grad():
        prefix = built.encode(batch)
    actions, mask = built.targets(prefix, batch["action"])
    built.head.fit(actions)
    optimizer = torch.optim.AdamW(built.head.parameters(), learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for _ in range(updates):
        optimizer.zero_grad()
        built.head.loss(prefix, actions, mask).mean.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return float((built.head.act(built.encode(batch))[0] - actions).abs().mean())


@pytest.mark.learning
@learned
def test_eight_samples_are_learned_by_heart(name):
    assert overfit(policy_with(to_learn(name)), recorded(8)) < 0.08  # always 0 would give 0.2


@pytest.mark.learning
@pytest.mark.long
@pytest.mark.parametrize("backbone", LANGUAGE_MODELS)
@every_head
def test_eight_samples_are_learned_by_heart_from_features_of_language_models(name, backbone):
    assert overfit(policy_with(to_learn(name), backbone), recorded(8)) < 0.08


@pytest.mark.contract
@every_head
def test_gradients_reach_the_backbone(name):
    built, batch = policy_with(CASES[name]), recorded(8)
    built.head.fit(built.targets(built.encode(batch), batch["action"])[0])
    with torch.no_grad():
        for parameter in built.head.parameters():  # fresh output layers are zero
            parameter.add_(0.05 * torch.randn_like(parameter))
    built.loss(built.encode(batch), batch["action"]).mean.backward()
    assert any(parameter.grad.any() for parameter in built.backbone.eye.parameters())


@pytest.mark.contract
@every_head
def test_a_saved_policy_gives_the_same_actions(name, tmp_path):
    built, batch = policy_with(CASES[name]), recorded(8)
    prefix = built.encode(batch)
    built.head.fit(built.targets(prefix, batch["action"])[0])
    loaded = load_vla(export_vla(built, tmp_path))
    for deterministic in (True, False):
        torch.manual_seed(1)
        expected, _ = built.act(prefix, deterministic=deterministic)
        torch.manual_seed(1)
        assert torch.equal(loaded.act(loaded.encode(batch), deterministic=deterministic)[0], expected)


@pytest.mark.contract
@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("name", CASES | DENSITIES)
def test_a_policy_says_whether_its_samples_are_another_way_to_act_than_its_mode(name, execution):
    built, batch = policy_with((CASES | DENSITIES)[name]), recorded(4)
    built.head.fit(built.targets(built.encode(batch), batch["action"])[0])
    if execution == "rtc" and not isinstance(built.head, FlowHead):
        pytest.skip("real-time chunking guides flow heads only")
    obs = TensorDict({key: value for key, value in observed(batch).items() if key != "wrist"}, [4])
    groups = {key: tuple(value.shape[1:]) for key, value in obs.items()}
    action = ActionSpec("continuous", 2, chunk=2 if execution == "chunks" else 0)
    play = VLAPlayPolicy(built, EnvSpec("Table", 4, groups, action, 10), execution=EXECUTIONS[execution])
    found = []
    for deterministic in (True, False):
        play.deterministic = deterministic
        play.reset()
        torch.manual_seed(1)
        found.append(torch.stack([play(obs) for _ in range(4)]))
    assert play.has_samples is not torch.equal(*found)
    assert play.has_samples is (name in DENSITIES and execution != "rtc")

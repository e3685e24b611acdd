"""Weights of a fine-tuned policy for one that explores: only what demonstrations do not teach starts fresh."""

from dataclasses import replace

import pytest
import torch
from RoboRenForce.algorithms.vla_training import SFTAlgorithmCfg, VLAPretrainAlgorithmCfg
from RoboRenForce.algorithms.vla_training.initial_weights import initial_policy
from RoboRenForce.components.action_heads import FlowHeadCfg
from RoboRenForce.components.openpi_policy import OpenPIPolicyCfg
from RoboRenForce.components.vla_policy import MLPBaselinePolicyCfg, Qwen3VLPolicyCfg
from RoboRenForce.networks.vlm import Qwen3VLCfg
from RoboRenForce.utils.checkpoint import save_checkpoint
from RoboRenForce.utils.errors import CheckpointError
from vla_cases import CHUNK, spec

pytestmark = pytest.mark.contract


def _cfg(density):
    return MLPBaselinePolicyCfg(head=FlowHeadCfg(chunk_size=CHUNK, density=density))


@pytest.fixture
def fine_tuned(tmp_path):
    policy = _cfg("none").build(spec())
    path = tmp_path / "model_1.pt"

    def save(left_out=()):
        tensors = {name: value for name, value in policy.state_dict().items() if name not in left_out}
        learner = {"spec": policy.spec.to_dict(), "policy": {"tensors": tensors, "left_out": []}, "optimizer": {}}
        save_checkpoint(path, {"algorithm": learner})
        return str(path)

    return policy, save


@pytest.mark.parametrize("density", ["none", "sde", "noise"])
def test_a_flow_policy_goes_on_with_any_density(fine_tuned, density):
    policy, save = fine_tuned
    explores, loaded = initial_policy(_cfg(density), spec(), save())
    mine = explores.state_dict()
    assert loaded == set(policy.state_dict())
    assert all(torch.equal(mine[name], value) for name, value in policy.state_dict().items())
    assert all(name.startswith("head.noise.") for name in mine.keys() - loaded)


def test_other_tensors_may_not_be_missing(fine_tuned):
    _, save = fine_tuned
    with pytest.raises(CheckpointError, match=r"lacks 'head\.network\.norm\.weight' and 0 more"):
        initial_policy(_cfg("noise"), spec(), save(left_out=["head.network.norm.weight"]))


def test_data_far_beyond_what_was_learned_is_named(fine_tuned, caplog):
    """Statistics stay those of the weights, so that new data may be many times as large as any that they know."""
    _, save = fine_tuned
    path, new = save(), spec()
    initial_policy(_cfg("none"), new, path)
    assert not caplog.text
    wide = {name: (*values[:-1], 40.0 * values[-1]) for name, values in new.action.statistics.items()}
    initial_policy(_cfg("none"), replace(new, action=replace(new.action, statistics=wide)), path)
    assert f"that which '{path}' learned from, in dimension {new.action.name_of(new.action.dim - 1)}" in caplog.text


QWEN = Qwen3VLPolicyCfg(backbone=Qwen3VLCfg(model_name="Qwen/Qwen3-VL-2B-Instruct"))
TINY = Qwen3VLPolicyCfg(backbone=Qwen3VLCfg(model_name="tiny"))
PI05 = OpenPIPolicyCfg(weights="pi05_base.safetensors")


@pytest.mark.parametrize(
    "algorithm, policy, said",
    [
        (SFTAlgorithmCfg(), MLPBaselinePolicyCfg(), ["learns from scratch"]),
        (SFTAlgorithmCfg(), TINY, ["learns from scratch"]),
        (SFTAlgorithmCfg(), OpenPIPolicyCfg(), ["learns from scratch"]),
        (SFTAlgorithmCfg(), QWEN, []),
        (SFTAlgorithmCfg(init_from="run"), MLPBaselinePolicyCfg(), []),
        (VLAPretrainAlgorithmCfg(), MLPBaselinePolicyCfg(), []),
        (VLAPretrainAlgorithmCfg(kl_coef=0.1), QWEN, ["a head with random weights"]),
        (SFTAlgorithmCfg(kl_coef=0.1), TINY, ["a head with random weights", "learns from scratch"]),
        (SFTAlgorithmCfg(kl_coef=0.1, init_from="run"), TINY, []),
        (SFTAlgorithmCfg(kl_coef=0.1), PI05, []),
    ],
)
def test_a_fine_tuning_that_begins_with_random_weights_is_said(algorithm, policy, said):
    found = list(algorithm.doubts(policy))
    assert len(found) == len(said) and all(part in sentence for part, sentence in zip(said, found, strict=True))

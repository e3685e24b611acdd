"""pi0 and pi0.5 on the seam: densities, reused prefixes, padded actions, what is trained, and export."""

from collections import Counter
from contextlib import nullcontext

import pytest
import torch
import vla_cases
from openpi_cases import fill
from RoboRenForce.algorithms.vla_rl.parity import require_parity
from RoboRenForce.components.action_heads import Continuation, continuation_weights
from RoboRenForce.components.action_tokens import ActionTokensCfg
from RoboRenForce.components.openpi_policy import OpenPIPolicyCfg
from RoboRenForce.components.vla_export import export_vla, load_vla
from RoboRenForce.components.vla_preprocessing import without_host_entries
from RoboRenForce.configclass import ConfigError
from RoboRenForce.envs.instructions import instruction_id
from RoboRenForce.networks.vlm import LoRACfg, MLPBaselineCfg, Prefix, merge_lora
from RoboRenForce.networks.vlm.gemma import GemmaLayer
from RoboRenForce.networks.vlm.siglip import SigLIPLayer
from torch.utils._python_dispatch import TorchDispatchMode

CONTRACT = pytest.mark.contract
VARIANTS = ("pi05", "pi0")
PADDED = 5


def build(variant="pi05", *, seed=0, change=lambda cfg: None, **head):
    cfg = OpenPIPolicyCfg(variant=variant, size="tiny")
    cfg.head.chunk_size, cfg.head.num_steps, cfg.head.network.action_dim = vla_cases.CHUNK, 3, PADDED
    for name, value in head.items():
        setattr(cfg.head, name, value)
    change(cfg)
    policy = cfg.build(vla_cases.spec())
    fill(policy, seed)
    return policy


def gradients(policy, prefix, seed=0):
    policy.zero_grad()
    batch = vla_cases.recorded(4)
    actions, mask = policy.targets(prefix, batch["action"])
    loss = policy.head.loss(prefix, actions, mask, generator=torch.Generator().manual_seed(seed)).mean
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


@CONTRACT
@pytest.mark.parametrize("variant", VARIANTS)
def test_configurations_follow_the_variant_and_round_trip(variant):
    cfg = OpenPIPolicyCfg(variant=variant)
    assert cfg.head.network.variant == variant and cfg.backbone.state_in_prompt == (variant == "pi05")
    assert cfg.preprocessing.action.method == {"pi05": "quantile", "pi0": "mean_std"}[variant]
    assert OpenPIPolicyCfg.from_dict(cfg.to_dict()) == cfg
    cfg.variant = "pi0" if variant == "pi05" else "pi05"
    with pytest.raises(ConfigError, match=r"head\.network\.variant"):
        cfg.validate()
    with pytest.raises(ConfigError, match="keys and values of a PaliGemma"):
        build(change=lambda cfg: setattr(cfg, "backbone", MLPBaselineCfg()))(vla_cases.observed(vla_cases.recorded()))


@CONTRACT
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_backbone_for_the_expert_alone_gives_the_same_actions(variant):
    """The last layer's output is nobody's: keys and values of it are enough."""
    policy = build(variant)
    prefix = policy.encode(obs := vla_cases.observed(vla_cases.recorded(4)))
    policy.backbone.serves_head_alone = True
    alone = policy.encode(obs)
    assert alone.tokens.shape[1] == 0 and not alone.pooled.any() and prefix.tokens.shape[1] == 1
    torch.testing.assert_close(alone.key_values, prefix.key_values)
    noise = policy.head.draw_noise(alone)
    torch.testing.assert_close(policy.head.sample(alone, noise), policy.head.sample(prefix, noise))


@CONTRACT
@pytest.mark.parametrize("variant", VARIANTS)
def test_learning_reads_the_state_in_the_pass_of_the_actions(variant):
    """As if it had been read before, with gaps in the prompt; the state sees no action."""
    policy = build(variant).double()
    network = policy.head.network
    prefix = policy.encode(vla_cases.observed(vla_cases.recorded(4))).detach()
    prefix.key_mask[:, 1] = False
    x, time = torch.randn(4, vla_cases.CHUNK, PADDED).double(), torch.rand(4)
    found = []
    for velocity in (network.predict(x, time, prefix), network(x, time, network.encode(prefix))):
        policy.zero_grad()
        velocity.square().sum().backward()
        found.append({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})
        found[-1]["velocity"] = velocity.detach()
    assert found[0].keys() == found[1].keys() and (variant == "pi05") == ("state_proj.weight" not in found[0])
    for name, value in found[1].items():
        torch.testing.assert_close(found[0][name], value, rtol=1e-5, atol=1e-6 * value.abs().max().item(), msg=name)


@CONTRACT
@pytest.mark.parametrize(
    ("variant", "longest", "texts", "tokens"),
    [
        ("pi0", 6, 8, 40),  # <bos>, words and a line break; two cameras have 32 tokens
        ("pi0", 7, 16, 48),
        ("pi0", 30, 32, 64),
        ("pi05", 2, 8, 48),  # 6 more before the state, and 7 of the state's three numbers and the end
        ("pi05", 3, 16, 56),
        ("pi05", 30, 40, 80),
    ],
)
def test_prompts_are_computed_at_the_length_of_the_longest_known_instruction(variant, longest, texts, tokens):
    """And no further: what the authors pad to, 200 or 48 tokens, would cost more than the pictures."""
    policy = OpenPIPolicyCfg(variant=variant, size="tiny").build(vla_cases.spec(instructions=("wait",)))
    policy.add_instructions(["word " * longest])
    computed = []
    policy.backbone.language.register_forward_pre_hook(lambda module, args: computed.append(args[0].shape[:2]))
    obs = vla_cases.observed(vla_cases.recorded(3))
    policy(obs | {"instruction_id": torch.full((3, 1), instruction_id("wait"))})
    assert computed == [(3, tokens)] and policy.preprocessing.instructions.tokens.shape == (2, texts)


@CONTRACT
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_recorded_batch_is_as_wide_as_its_own_longest_text(variant):
    """Where the host has its texts; and features are the same."""
    policy = OpenPIPolicyCfg(variant=variant, size="tiny").build(vla_cases.spec(instructions=("wait", "word " * 30)))
    fill(policy)
    batch = vla_cases.recorded(3) | {"instruction_id": torch.full((3,), instruction_id("wait")), "task": ["wait"] * 3}
    short, long = policy.encode(batch), policy.encode(without_host_entries(batch))
    assert long.key_mask.shape[1] - short.key_mask.shape[1] == {"pi0": 24, "pi05": 32}[variant]
    for row in range(3):
        found, expected = (prefix.key_values[row][..., prefix.key_mask[row], :] for prefix in (short, long))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    unknown = policy.encode(batch | {"task": ["wait", "wait", "an alias of another text"]})
    assert torch.equal(unknown.key_values, long.key_values)


class CastWeights(TorchDispatchMode):
    """Counts how often each weight is cast."""

    def __init__(self, weights):
        super().__init__()
        self.casts = dict.fromkeys((weight.data_ptr() for weight in weights), 0)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default and args[0].data_ptr() in self.casts:
            self.casts[args[0].data_ptr()] += 1
        return func(*args, **(kwargs or {}))


@CONTRACT
@pytest.mark.parametrize("variant", VARIANTS)
def test_sampling_casts_weights_once_and_acts_the_same_to_the_last_bit(variant, monkeypatch):
    policy = build(variant).eval().requires_grad_(False)
    parameters = dict(policy.named_parameters())
    weights = [p.weight for p in policy.head.network.gemma.layers.modules() if isinstance(p, torch.nn.Linear)]
    obs = vla_cases.observed(vla_cases.recorded(4))

    def act():
        torch.manual_seed(0)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), CastWeights(weights) as counter:
            return policy(obs), set(counter.casts.values())

    once, casts = act()
    assert casts == {1}
    assert {name: id(p) for name, p in policy.named_parameters()} == {name: id(p) for name, p in parameters.items()}
    monkeypatch.setattr(type(policy.head.network), "many_passes", lambda self: nullcontext())
    every_time, casts = act()
    assert torch.equal(once, every_time) and min(casts) >= policy.cfg.head.num_steps


@CONTRACT
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("density", ["sde", "noise"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 2e-3)])
def test_ratios_begin_at_one(variant, density, precision, tolerance):
    policy = build(variant, density=density)
    with torch.no_grad():
        found = require_parity(policy, vla_cases.observed(vla_cases.recorded(4)), precision=precision)
        assert found < tolerance  # of the log-probability of a dimension; the ratio is its exponential


@CONTRACT
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_stored_prefix_gives_the_same_gradients(variant):
    """Features that go through a buffer in another order teach the expert what fresh ones do."""
    policy = build(variant, change=lambda cfg: setattr(cfg.backbone.language, "finetune", "frozen"))
    batch = vla_cases.recorded(4)
    fresh = policy.encode(batch)
    order = torch.tensor([3, 1, 0, 2])
    stored = {name: tensor[order].clone() for name, tensor in fresh.to_tensors().items()}
    loss, expected = gradients(policy, fresh)
    again, found = gradients(policy, Prefix.from_tensors(stored).rows(order.argsort()))
    assert loss == again and found.keys() == expected.keys() and all(name.startswith("head.") for name in found)
    assert all(torch.equal(found[name], expected[name]) for name in found)


@CONTRACT
@pytest.mark.parametrize("variant", VARIANTS)
def test_more_dimensions_than_the_robots_are_its_own_business(variant):
    policy = build(variant, density="sde")
    batch = vla_cases.observed(vla_cases.recorded(4))
    with torch.no_grad():
        prefix = policy.encode(batch)
        actions, record = policy.act(prefix, deterministic=False)
        assert actions.shape == record["log_prob"].shape == (4, vla_cases.CHUNK, 2)
        assert record["before"].shape == (4, vla_cases.CHUNK, PADDED)
        assert policy.evaluate(prefix, record).entropy.shape == (4, vla_cases.CHUNK, 2)
        noise = torch.randn(4, vla_cases.CHUNK, PADDED, generator=torch.Generator().manual_seed(0))
        whole, alone = policy.head.sample(prefix, noise), policy.head.sample(prefix, noise[..., :2])
        assert whole.shape == alone.shape and not torch.allclose(whole, alone)  # the others are part of the path
        zeros = torch.cat([noise[..., :2], torch.zeros(4, vla_cases.CHUNK, PADDED - 2)], -1)
        assert torch.equal(alone, policy.head.sample(prefix, zeros))
        delay = torch.tensor([0, 1, 2, 1])
        weights = continuation_weights(delay, torch.full((4,), 3), vla_cases.CHUNK, "exp")
        assert policy.go_on(prefix, Continuation(actions, delay, weights)).shape == actions.shape
    loss = policy.loss(policy.encode(vla_cases.recorded(4)), vla_cases.recorded(4)["action"])
    assert loss.count == 4 * vla_cases.CHUNK * 2  # padding is learned nowhere


@CONTRACT
@pytest.mark.parametrize("variant", VARIANTS)
def test_checkpointed_activations_change_no_gradient(variant, monkeypatch):
    """Every layer of vision tower, language model and expert is computed once more in the backward pass."""

    def recomputed(cfg):
        cfg.backbone.vision.gradient_checkpointing = cfg.backbone.language.gradient_checkpointing = True
        cfg.head.network.gemma.gradient_checkpointing = True

    calls = Counter()
    for layer in (GemmaLayer, SigLIPLayer):

        def counted(self, *args, forward=layer.forward, **kwargs):
            calls[self] += 1
            return forward(self, *args, **kwargs)

        monkeypatch.setattr(layer, "forward", counted)
    batch = vla_cases.recorded(4)
    plain, other = build(variant), build(variant, change=recomputed)
    loss, expected = gradients(plain, plain.encode(batch))
    again, found = gradients(other, other.encode(batch))
    for policy, times in ((plain, 1), (other, 2)):
        layers = [part for part in policy.modules() if isinstance(part, GemmaLayer | SigLIPLayer)]
        assert len(layers) == 2 + 3 + 3 and [calls[layer] for layer in layers] == [times] * len(layers)
    assert loss == again and found.keys() == expected.keys()
    assert all(torch.allclose(found[name], expected[name], atol=1e-7) for name in found)


@CONTRACT
def test_insulation_keeps_actions_from_teaching_the_language_model():
    policy = build(change=lambda cfg: setattr(cfg.head.network, "insulated", True))
    _, found = gradients(policy, policy.encode(vla_cases.recorded(4)))
    assert found and all(name.startswith("head.") for name in found)
    policy = build()
    _, found = gradients(policy, policy.encode(vla_cases.recorded(4)))
    assert any(name.startswith("backbone.vision.") for name in found)


@CONTRACT
def test_action_tokens_teach_the_language_model_what_an_insulated_expert_must_not(tmp_path):
    def insulated(cfg):
        cfg.head.network.insulated = True

    def with_tokens(cfg):
        insulated(cfg)
        cfg.action_tokens = ActionTokensCfg(coef=0.5, scale=4.0)

    batch = vla_cases.recorded(4)
    batch["action_is_pad"][3] = True  # a row that tells nothing
    batch["action_is_pad"][2, 1:] = True

    def learned(policy):
        policy.zero_grad()
        torch.manual_seed(0)
        loss = policy.loss(policy.encode(batch), batch["action"], batch["action_is_pad"])
        loss.mean.backward()
        return loss, {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}

    plain, policy = build(change=insulated), build(change=with_tokens)
    policy.action_tokens.fit(policy.preprocessing.normalize_actions(batch["action"], batch["observation.state"]))
    loss, found = learned(policy)
    alone, expected = learned(plain)
    assert loss.count == alone.count == 2 * vla_cases.CHUNK * 2 + 2
    heads = {name for name in found if name.startswith("head.")}
    assert heads == expected.keys() and all(torch.equal(found[name], expected[name]) for name in heads)
    taught = {name.split(".")[1] for name in found.keys() - heads}
    assert taught == {"vision", "projector", "words", "language"}

    # The cross-entropy, chunk by chunk, with the weight of the chunk's valid elements.
    actions, mask = policy.targets(policy.encode(batch), batch["action"], batch["action_is_pad"])
    tokens, valid = policy.action_tokens.tokenizer.targets(actions, mask)
    logits = policy.backbone.action_logits(policy.encode(batch), tokens, 1025)
    total = 0.0
    for row, weight in enumerate((8, 8, 2, 0)):
        log_p = logits[row].detach().log_softmax(-1).gather(-1, tokens[row][:, None])[:, 0][valid[row]]
        total += -weight * float(log_p.mean()) if weight else 0.0
    assert float(loss.total - alone.total) == pytest.approx(0.5 * total, rel=1e-4)
    assert float(loss.metrics["token_loss"]) == pytest.approx(total / 18, rel=1e-5)

    again = load_vla(export_vla(policy, tmp_path / "exported"))
    assert torch.equal(again.action_tokens.tokenizer.merges, policy.action_tokens.tokenizer.merges)
    with pytest.raises(ConfigError, match="needs 4002 words of the backbone's vocabulary, and PaliGemma has 3968"):
        build(change=lambda cfg: setattr(cfg, "action_tokens", ActionTokensCfg(vocabulary=4000)))
    with pytest.raises(ConfigError, match="MLPBaseline has 0 to give"):
        vla_cases.policy(action_tokens=ActionTokensCfg())


@CONTRACT
def test_adapters_of_model_and_expert_have_ranks_of_their_own(tmp_path):
    pytest.importorskip("transformers")  # peft imports it
    pytest.importorskip("peft")

    def adapted(cfg):
        cfg.backbone.language.finetune = cfg.head.network.gemma.finetune = "lora"
        cfg.backbone.language.lora, cfg.head.network.gemma.lora = LoRACfg(rank=2), LoRACfg(rank=3)

    policy = build(change=adapted)
    ranks = {
        name.partition(".")[0]: p.shape[0]
        for name, p in policy.named_parameters()
        if p.requires_grad and "lora_A" in name
    }
    assert ranks == {"backbone": 2, "head": 3}
    trained = [name for name, p in policy.named_parameters() if p.requires_grad and ".lora_" not in name]
    assert trained and all(name.startswith("head.network.") and ".layers." not in name for name in trained)
    batch = vla_cases.observed(vla_cases.recorded(4))
    noise = torch.randn(4, vla_cases.CHUNK, PADDED)
    with torch.no_grad():
        expected = policy.head.sample(policy.encode(batch), noise)
        again = load_vla(export_vla(policy, tmp_path / "merged"))
        assert not any(".lora_" in name for name, _ in again.named_parameters())
        assert torch.allclose(again.head.sample(again.encode(batch), noise), expected, atol=1e-3)
        merge_lora(policy)
        assert torch.allclose(policy.head.sample(policy.encode(batch), noise), expected, atol=1e-3)

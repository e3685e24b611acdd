"""pi0 and pi0.5 compute what the authors' code computes: features, velocities, samples, loss and gradients.

The expected values are those of openpi's PyTorch port (the packages rlinf-openpi 0.1.1 and rlinf-transformer-openpi
4.53.2 with its patches), on the weights and inputs of `openpi_cases`; only its sizes were made small.
"""

from pathlib import Path

import pytest
import torch
from openpi_cases import CHUNK, DIMS, ROWS, chunks, fingerprint, gradients, inputs, sketch, small_policy
from safetensors.torch import load_file

pytestmark = pytest.mark.oracle
VARIANTS = ("pi05", "pi0")
TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2}


@pytest.fixture(scope="module")
def expected():
    return load_file(Path(__file__).with_name("openpi_expected.safetensors"))


def off(found, expected):
    """Largest difference, relative to the largest value."""
    return float((found.float() - expected).abs().max() / expected.abs().max())


def in_bfloat16(policy):
    """As the authors have it: normalizations, patches and projections of actions stay in float32."""
    policy.bfloat16()
    for name, part in policy.named_modules():
        if "norm" in name.rpartition(".")[2] or name.endswith("embeddings"):
            part.float()
    for name, part in policy.head.network.named_children():
        if name != "gemma":
            part.float()
    return policy


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("variant", VARIANTS)
def test_features_velocity_and_samples_are_those_of_the_authors(variant, precision, expected):
    policy = small_policy(variant)
    policy = in_bfloat16(policy) if precision == "bf16" else policy
    noise, _, time = chunks()
    there = {
        name.removeprefix(f"{variant}.{precision}."): value
        for name, value in expected.items()
        if name.startswith(f"{variant}.{precision}.")
    }
    with torch.no_grad():
        prefix = policy.backbone(inputs())
        kept = prefix.key_mask[:, None, None, :, None]
        for name, part in (("keys", 0), ("values", 1)):
            layers = (prefix.key_values[:, :, part] * kept).float()[..., :60, :]  # the authors pad no further
            found = torch.stack([fingerprint(layers[:, number]) for number in range(layers.shape[1])])
            assert off(found, there[name]) < TOLERANCE[precision], name
        assert off(prefix.tokens[:, 0], there["mean"]) < TOLERANCE[precision]
        network = policy.head.network
        velocity = network(noise, time, network.encode(prefix))
        assert off(velocity, there["velocity"]) < TOLERANCE[precision]
        for steps in (4, 10):
            policy.head.cfg.num_steps = steps
            sampled = policy.head.sample(prefix, noise)
            assert sampled.shape == (ROWS, CHUNK, DIMS)
            assert off(sampled, there[f"sample{steps}"]) < TOLERANCE[precision], steps


@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_gradients_are_those_of_the_authors(variant, expected):
    loss, found = gradients(small_policy(variant), *chunks())
    assert loss == pytest.approx(float(expected[f"{variant}.fp32.loss"]), rel=1e-6)
    prefix = f"{variant}.fp32.gradient."
    names = {name.removeprefix(prefix): value for name, value in expected.items() if name.startswith(prefix)}
    assert len(names) > 90
    largest = max(float(value[0]) for value in names.values())
    for name, value in names.items():
        got = fingerprint(found[name]) if name in found else torch.zeros(2)  # queries of the last layer: no one reads
        assert torch.allclose(got, value, rtol=1e-5, atol=1e-6 * largest), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_in_bfloat16_are_as_near_to_the_authors_as_rounding_lets_them(variant, expected):
    """The whole gradient within 2e-2; theirs is 0.8e-2 (pi0.5) and 1.5e-2 (pi0) from its own value in float32."""
    loss, found = gradients(in_bfloat16(small_policy(variant)), *chunks())
    assert loss == pytest.approx(float(expected[f"{variant}.bf16.loss"]), rel=2e-3)
    prefix = f"{variant}.bf16.sketch."
    theirs = {name.removeprefix(prefix): value for name, value in expected.items() if name.startswith(prefix)}
    assert len(theirs) > 90
    ours = {name: sketch(found[name]) for name in theirs}
    distance, size = (torch.cat(list(each)).norm() for each in ((ours[n] - theirs[n] for n in theirs), theirs.values()))
    assert distance / size < TOLERANCE["bf16"]
    for name, value in theirs.items():  # none of them is another tensor's, however small; noise of a tensor has its own
        assert (ours[name] - value).norm() < 0.1 * value.norm(), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_time_is_drawn_and_the_loss_taken_as_by_the_authors(variant):
    """Head and policy put together what the tests above check: tau = 1 - t is 0.001 + 0.999 Beta(1.5, 1)."""
    policy = small_policy(variant)
    generator = torch.Generator().manual_seed(0)
    actions, mask = torch.zeros(4000, CHUNK, DIMS), torch.ones(4000, CHUNK, DIMS, dtype=torch.bool)
    tau = 1 - policy.head.corrupt(actions, mask, generator).time
    assert tau.min() >= 0.001 and tau.max() <= 1.0
    assert float(tau.mean()) == pytest.approx(0.001 + 0.999 * 0.6, abs=0.01)  # mean of Beta(1.5, 1) is 1.5 / 2.5
    assert float(((tau - 0.001) / 0.999).square().mean()) == pytest.approx(1.5 / 3.5, abs=0.01)

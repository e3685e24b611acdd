"""What holds for the density of every head: parity with acting, gradients, the KL divergence on recorded actions."""

import copy

import pytest
import torch
from head_cases import CASES, DENSITIES, H, trained_looking
from prefixes import build, prefix_for, random_prefix
from RoboRenForce.components.action_heads import Continuation, FASTHeadCfg, FlowHeadCfg
from RoboRenForce.configclass import ConfigError
from RoboRenForce.utils.errors import UserError

every_density = pytest.mark.parametrize("name", DENSITIES)


def _rng():
    return torch.Generator().manual_seed(1)


def _act(head, prefix):
    with torch.no_grad():
        return head.act(prefix, deterministic=False, generator=_rng())


def _other(head, scale=0.9):
    """A frozen head of other weights."""
    other = copy.deepcopy(head).requires_grad_(False)
    for parameter in other.parameters():
        parameter.mul_(scale)
    return other


@pytest.mark.oracle
@every_density
@pytest.mark.parametrize("autocast", [False, True])
def test_evaluating_finds_the_log_probabilities_of_acting_in_any_batch(name, autocast):
    head, prefix = trained_looking(name, batch=16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        actions, record = head.act(prefix, deterministic=False)
        evaluation = head.evaluate(prefix, record)
        rows = torch.tensor([11, 3, 7, 0])
        some = head.evaluate(prefix.rows(rows), {key: value[rows] for key, value in record.items()})
    assert actions.shape == record["log_prob"].shape == evaluation.log_prob.shape == evaluation.entropy.shape
    assert all(len(value) == 16 for value in record.values())
    assert evaluation.log_prob.dtype == evaluation.entropy.dtype == record["log_prob"].dtype == torch.float32
    torch.testing.assert_close(evaluation.log_prob, record["log_prob"], atol=1e-5, rtol=0)
    chunk = (evaluation.log_prob - record["log_prob"]).sum((1, 2)).exp()
    torch.testing.assert_close(chunk, torch.ones(16), atol=2e-5, rtol=0)
    torch.testing.assert_close(some.log_prob, record["log_prob"][rows], atol=0.05 if autocast else 1e-5, rtol=0)


@every_density
def test_acting_without_exploration_has_no_record_and_repeats(name):
    head, prefix = trained_looking(name)
    first, record = head.act(prefix, generator=_rng())
    assert record == {}
    assert torch.equal(first, head.act(prefix, generator=_rng())[0])
    assert not torch.equal(first, _act(head, prefix)[0])


@pytest.mark.oracle
@every_density
def test_gradients_of_log_probabilities_are_those_of_finite_differences(name):
    head, prefix = trained_looking(name)
    _, record = _act(head, prefix)
    weight = torch.randn(6, 1, 1, generator=torch.Generator().manual_seed(3))
    trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad((weight * head.evaluate(prefix, record).log_prob).sum(), trained)
    norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
    direction = [gradient / norm for gradient in gradients]  # the slope along the gradient is its norm

    def along(step):
        with torch.no_grad():
            for parameter, part in zip(trained, direction, strict=True):
                parameter.add_(step * part)
            value = (weight * head.evaluate(prefix, record).log_prob).double().sum()
            for parameter, part in zip(trained, direction, strict=True):
                parameter.sub_(step * part)
        return value

    slope = (along(1e-3) - along(-1e-3)) / 2e-3
    assert float(norm) > 0.1
    assert float(slope) == pytest.approx(float(norm), rel=2e-2)


@every_density
def test_what_the_policy_gradient_trains_gets_a_gradient(name):
    """All but what no density depends on: an std that is fixed has no gradient because it asks for none."""
    head, prefix = trained_looking(name)
    _, record = _act(head, prefix)
    evaluation = head.evaluate(prefix, record)
    (evaluation.log_prob.square().sum() + evaluation.entropy.sum()).backward()
    silent = [key for key, parameter in head.named_parameters() if parameter.requires_grad and parameter.grad is None]
    assert not silent


@pytest.mark.oracle
@every_density
def test_the_mean_log_ratio_of_many_chunks_is_the_mean_kl_divergence(name):
    """E log(p / q) = KL(p || q), with chunks of one observation as the head draws them."""
    head, prefix = trained_looking(name)
    other, number = _other(head, 0.7), 1500 if name in ("fast", "bins-autoregressive") else 6000
    one = prefix.rows(slice(0, 1)).repeat(number)
    with torch.no_grad():
        _, record = _act(head, one)
        ratio = (record["log_prob"] - other.evaluate(one, record).log_prob).double().sum((1, 2))
        kl = head.record_divergence(one, other, one, record).double().sum((1, 2))
    assert float(kl.mean()) > 0.02 and float(kl.min()) >= -1e-6
    noise = (ratio - kl).std() / number**0.5
    assert float((ratio - kl).mean().abs()) < 4 * float(noise) < 0.5 * float(kl.mean())


@every_density
def test_the_divergence_from_itself_is_zero_and_only_the_head_gets_its_gradient(name):
    head, prefix = trained_looking(name)
    _, record = _act(head, prefix)
    assert head.record_divergence(prefix, head, prefix, record).abs().max() < 1e-6
    other = _other(head).requires_grad_()
    elsewhere = prefix.map(lambda tensor: tensor + 0.1 if tensor.is_floating_point() else tensor)
    kl = head.record_divergence(prefix, other, elsewhere, record)
    assert kl.shape == (6, H, 2) and kl.dtype == torch.float32
    assert not torch.allclose(kl, head.record_divergence(prefix, other, prefix, record))
    kl.sum().backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in head.parameters())
    assert all(parameter.grad is None for parameter in other.parameters())


@every_density
def test_acting_evaluating_and_comparing_never_read_a_value_back_from_the_device(name):
    """On the meta device, where tensors have no values, any read of one raises."""
    head, prefix = trained_looking(name)
    head, prefix = head.to("meta"), prefix.map(lambda tensor: tensor.to("meta"))
    _, record = head.act(prefix, deterministic=False)
    head.evaluate(prefix, record).log_prob.sum().backward()
    head.record_divergence(prefix, head, prefix, record)


@pytest.mark.oracle
def test_tokens_behind_the_end_have_no_log_probability_no_entropy_and_no_divergence():
    head, prefix = trained_looking("fast")
    _, record = _act(head, prefix)
    tokens = record["tokens"].clone()
    tokens[:, 3] = head.tokenizer.end
    changed = tokens.clone()
    changed[:, 4:] = (tokens[:, 4:] + 1) % head.tokenizer.end
    other = _other(head)

    def everything(tokens):
        evaluation, record = head.evaluate(prefix, {"tokens": tokens}), {"tokens": tokens}
        return evaluation.log_prob, evaluation.entropy, head.record_divergence(prefix, other, prefix, record)

    for one, two in zip(everything(tokens), everything(changed), strict=True):
        torch.testing.assert_close(one, two)
        assert one.abs().sum() > 0
    logits = head.decoder(tokens, head.decoder.encode(prefix))[:, :4]
    log_p = logits.detach().double().log_softmax(-1)
    by_hand = [sum(float(log_p[row, i, tokens[row, i]]) for i in range(4)) for row in range(6)]
    ends = (tokens[:, :3] == head.tokenizer.end).any(1)
    total = head.evaluate(prefix, {"tokens": tokens}).log_prob.sum((1, 2)).double()
    torch.testing.assert_close(total[~ends], torch.tensor(by_hand, dtype=torch.float64)[~ends], rtol=1e-5, atol=1e-5)
    assert head.only_whole_chunks and not ends.all()


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["bins", "bins-autoregressive"])
@pytest.mark.parametrize("temperature", [0.5, 1.6])
@torch.no_grad()
def test_token_log_probabilities_and_divergences_by_brute_force_at_a_temperature(name, temperature):
    head, prefix = trained_looking(name)
    head.cfg = head.cfg.replace(temperature=temperature)
    other = _other(head)
    _, record = _act(head, prefix)
    tokens = record["tokens"]
    mine, theirs = (one.logits(prefix, tokens).double() / temperature for one in (head, other))
    for row, step, dim in ((0, 0, 0), (3, 2, 1), (5, 3, 0)):
        p, q = (values[row, step, dim].exp() / values[row, step, dim].exp().sum() for values in (mine, theirs))
        at = (row, step, dim)
        drawn = p[tokens[at]].log()
        assert float(record["log_prob"][at]) == pytest.approx(float(drawn), abs=1e-5)
        evaluation = head.evaluate(prefix, record)
        assert float(evaluation.entropy[at]) == pytest.approx(float(-(p * p.log()).sum()), abs=1e-5)
        kl = head.record_divergence(prefix, other, prefix, record)
        assert float(kl[at]) == pytest.approx(float((p * (p / q).log()).sum()), abs=1e-5)


@pytest.mark.oracle
@torch.no_grad()
def test_the_kl_of_normal_distributions_by_quadrature():
    head, prefix = trained_looking("regression-pooled")
    other = _other(head, 0.8)
    _, record = _act(head, prefix)
    kl = head.record_divergence(prefix, other, prefix, record)
    x = torch.linspace(-6, 6, 200_001, dtype=torch.float64)
    for at in ((0, 0, 0), (4, 3, 1)):
        p, q = (
            torch.distributions.Normal(one.mean(prefix)[at].double(), one.bounded_log_std()[at[-1]].double().exp())
            for one in (head, other)
        )
        integral = torch.trapezoid(p.log_prob(x).exp() * (p.log_prob(x) - q.log_prob(x)), x)
        assert float(kl[at]) == pytest.approx(float(integral), abs=1e-5) and integral > 1e-3


def test_a_learned_std_stays_within_its_bounds_and_can_come_back():
    cfg = DENSITIES["regression-pooled"].replace(min_std=0.05, max_std=0.5)
    head, prefix = build(cfg), prefix_for(cfg, 6)
    with torch.no_grad():
        head.log_std.copy_(torch.tensor([-9.0, 9.0]))
    torch.testing.assert_close(head.bounded_log_std().exp(), torch.tensor([0.05, 0.5]))
    far = {"actions": head.mean(prefix).detach() + torch.tensor([1.0, 0.0])}
    (-head.evaluate(prefix, far).log_prob.sum()).backward()  # likelier with a wider and with a narrower std
    assert head.log_std.grad[0] < 0 < head.log_std.grad[1]
    head.zero_grad()
    head.evaluate(prefix, far).log_prob.sum().backward()  # outwards
    assert not head.log_std.grad.any()
    with pytest.raises(ConfigError, match=r"std: 0\.1 is not within min_std=0\.2"):
        build(cfg.replace(min_std=0.2))


@pytest.mark.parametrize("name", ["diffusion", "flow"])
def test_a_head_without_density_says_what_to_choose(name):
    head, prefix = trained_looking(name)
    actions, record = head.act(prefix, deterministic=False)
    assert actions.shape == (6, H, 2) and record == {} and not head.has_density
    density = "dppo" if name == "diffusion" else "sde"
    advice = rf"has no log-probabilities .* need them: set policy\.head\.density={density}"
    for refused in (
        head.require_density,
        lambda: head.evaluate(prefix, {}),
        lambda: head.record_divergence(prefix, head, prefix, {}),
    ):
        with pytest.raises(UserError, match=advice):
            refused()


def test_a_head_of_one_s_own_without_density_is_refused_with_the_choice_there_is():
    head, _ = trained_looking("regression")
    head.has_density = False
    with pytest.raises(UserError, match=r"RegressionHead has no .*: choose a flow head with density='sde', or one"):
        head.require_density()


def test_a_reference_of_another_kind_is_named():
    head, prefix = trained_looking("flow-sde")
    _, record = _act(head, prefix)
    with pytest.raises(UserError, match="The reference policy has a FASTHead, expected a FlowHead"):
        head.record_divergence(prefix, build(FASTHeadCfg(chunk_size=H)), prefix, record)


def test_the_density_changes_neither_what_demonstrations_teach_nor_acting_without_exploration():
    plain, prefix = trained_looking("flow")
    actions, mask = torch.randn(6, H, 2), torch.ones(6, H, 2, dtype=torch.bool)
    for density in ("sde", "noise"):
        head = build(CASES["flow"].replace(density=density))
        missing = head.load_state_dict(plain.state_dict(), strict=False).missing_keys
        assert all(key.startswith(head.untaught) for key in missing) and bool(missing) == (density == "noise")
        first, second = (one.loss(prefix, actions, mask, generator=_rng()).total for one in (plain, head))
        assert torch.equal(first, second)
        first, second = (one.act(prefix, generator=_rng())[0] for one in (plain, head))
        assert torch.equal(first, second)


def test_a_chunk_that_goes_on_from_a_running_one_has_no_record():
    head, prefix = trained_looking("flow-sde")
    running = Continuation(torch.zeros(6, H, 2), torch.ones(6, dtype=torch.int64), torch.ones(6, H))
    assert head.act(prefix, deterministic=False, continuation=running)[1] == {}


def test_a_robot_without_proprioception_explores_too():
    cfg = FlowHeadCfg(chunk_size=H, density="noise")
    head, prefix = build(cfg, state_dim=0), random_prefix(3, state_dim=0)
    _, record = _act(head, prefix)
    assert head.evaluate(prefix, record).log_prob.shape == (3, H, 2)


@pytest.mark.oracle
@pytest.mark.parametrize("name", CASES | DENSITIES)
def test_heads_that_read_no_single_token_see_the_same_in_a_condensed_prefix(name):
    head, prefix = trained_looking(name)
    actions, mask = torch.rand(6, H, 2) - 0.5, torch.ones(6, H, 2, dtype=torch.bool)
    if head.cfg.taps(2).num_layers:
        assert head.cfg.taps(2).reads_tokens  # of several layers
        return
    whole, condensed = (
        torch.cat([head.loss(seen, actions, mask, generator=_rng()).total.view(1), _act(head, seen)[0].flatten()])
        for seen in (prefix, prefix.condensed())
    )
    assert torch.equal(whole, condensed) is not head.cfg.taps(2).reads_tokens

"""Two-hot regression in symlog space: codes, round trip, edges, and the gradient of the cross-entropy."""

import pytest
import torch
from RoboRenForce.components import TwoHotHead, TwoHotHeadCfg
from RoboRenForce.components.return_heads.two_hot import symexp, symlog
from RoboRenForce.configclass import ConfigError
from torch import Tensor

pytestmark = pytest.mark.oracle


def head() -> TwoHotHead:
    return TwoHotHeadCfg().build(num_members=2).double()


def logits_of(values: Tensor) -> Tensor:
    """Log-probabilities `(..., 101)` of the two-hot codes of `values`."""
    lower, above = head().encode(values)
    code = torch.zeros(*values.shape, 101, dtype=torch.float64)
    code.scatter_(-1, lower.unsqueeze(-1), (1 - above).unsqueeze(-1))
    return code.scatter_add(-1, (lower + 1).unsqueeze(-1), above.unsqueeze(-1)).log()


@pytest.mark.parametrize(
    ("value", "bin_above", "weight"), [(0.0, 51, 0.0), (1.0, 54, 0.465736), (-3.7, 43, 0.262187), (250.0, 78, 0.627265)]
)
def test_codes_of_known_values(value: float, bin_above: int, weight: float) -> None:
    lower, above = head().encode(torch.tensor([value], dtype=torch.float64))
    # Of a value on a bin, either neighbor may be the lower one: its code is the same.
    position = lower.item() + above.item()
    assert position == pytest.approx(bin_above - 1 + weight, abs=2e-6)


def test_values_come_back_and_those_beyond_the_edges_are_clipped() -> None:
    values = torch.cat([torch.linspace(-300, 300, 97), torch.tensor([1e-3, -2e4, 2e4])]).double()
    found = head().mean(logits_of(values))
    assert ((found - values).abs() <= 1e-4 * (1 + values.abs())).all()
    edge = symexp(torch.tensor(10.0, dtype=torch.float64))
    far = head().mean(logits_of(torch.tensor([1e9, -1e9], dtype=torch.float64)))
    torch.testing.assert_close(far, torch.stack([edge, -edge]))
    torch.testing.assert_close(symexp(symlog(values)), values)


def test_the_mean_is_that_of_the_bins_and_not_of_the_values() -> None:
    logits = torch.full((101,), -torch.inf, dtype=torch.float64)
    logits[50], logits[70] = 0.0, 0.0  # symlog 0 and 4, half each
    assert head().mean(logits).item() == pytest.approx(symexp(torch.tensor(2.0)).item())


def test_the_loss_is_the_cross_entropy_with_the_code() -> None:
    torch.manual_seed(0)
    output = torch.randn(2, 6, 101, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([-1e9, -3.7, 0.0, 1.0, 250.0, 1e9], dtype=torch.float64)
    loss = head().loss(output, target)
    code = logits_of(target).exp()
    torch.testing.assert_close(loss, -(code * output.log_softmax(-1)).sum(-1))
    (grad,) = torch.autograd.grad(loss.sum(), output)
    torch.testing.assert_close(grad, output.softmax(-1) - code)


def test_targets_are_scalars_of_the_smaller_member() -> None:
    values = torch.tensor([[1.0, -4.0], [3.0, -5.0]], dtype=torch.float64)
    reward, discount = torch.tensor([0.5, 2.0]).double(), torch.tensor([0.9, 0.0]).double()
    found = head().target(logits_of(values), 0.0, reward, discount, "min")
    torch.testing.assert_close(found, torch.tensor([0.5 + 0.9 * 1.0, 2.0], dtype=torch.float64), atol=1e-6, rtol=0)


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"v_min: 3\.0 is not below v_max=3\.0"):
        TwoHotHeadCfg(v_min=3.0, v_max=3.0).build(num_members=1)

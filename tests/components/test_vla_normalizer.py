"""Normalizers by hand-made statistics: units, exact inverse, what happens where nothing moves."""

import logging

import pytest
import torch
from RoboRenForce.components.vla_normalizer import VectorNormalizerCfg
from RoboRenForce.components.vla_spec import VectorSpec
from RoboRenForce.configclass import ConfigError

pytestmark = pytest.mark.oracle

STATISTICS = {
    "min": (-4.0, 0.0, -1.0),
    "max": (8.0, 10.0, 1.0),
    "mean": (1.0, 4.0, 0.0),
    "std": (2.0, 5.0, 0.5),
    "q01": (-2.0, 1.0, -1.0),
    "q99": (6.0, 9.0, 1.0),
}
SPEC = VectorSpec(3, ("x", "y", "gripper"), STATISTICS)
X = torch.tensor([[-2.0, 9.0, 1.0], [6.0, 1.0, -1.0]])


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("mean_std", [[-1.5, 1.0, 2.0], [2.5, -0.6, -2.0]]),
        ("min_max", [[-4 / 6, 0.8, 1.0], [4 / 6, -0.8, -1.0]]),
        ("quantile", [[-1.0, 1.0, 1.0], [1.0, -1.0, -1.0]]),
        ("identity", X.tolist()),
    ],
)
def test_methods(method, expected):
    normalizer = VectorNormalizerCfg(method=method).build(SPEC, "action")
    torch.testing.assert_close(normalizer(X), torch.tensor(expected))
    torch.testing.assert_close(normalizer.inverse(normalizer(X)), X)
    assert set(normalizer.state_dict()) == {"center", "scale"}  # in the policy's checkpoint


@pytest.mark.parametrize("which", [2, "gripper"])
def test_chosen_dimensions_stay(which):
    normalizer = VectorNormalizerCfg(method="mean_std", identity_dims=[which]).build(SPEC, "action")
    assert torch.equal(normalizer(X)[:, 2], X[:, 2]) and normalizer(X)[0, 0] == -1.5


def test_what_does_not_move_is_named_and_keeps_its_value(caplog):
    statistics = STATISTICS | {"q01": (-2.0, 3.0, -1.0), "q99": (6.0, 3.0, 1.0), "min": (-4, 3, -1), "max": (8, 3, 1)}
    with caplog.at_level(logging.WARNING):
        normalizer = VectorNormalizerCfg().build(VectorSpec(3, ("x", "y", "gripper"), statistics), "action")
    assert "1 ('y')" in caplog.text and "action" in caplog.text and "'x'" not in caplog.text
    assert normalizer.scale[1].item() == pytest.approx(0.01 * 4)  # a hundredth of the largest
    assert normalizer(torch.tensor([0.0, 3.0, 0.0]))[1] == 0 and normalizer.inverse(torch.zeros(3))[1] == 3


def test_a_gripper_that_is_rarely_open_is_no_constant(caplog):
    """Its quantiles meet; opening it would otherwise be a target of 200."""
    statistics = STATISTICS | {"q01": (-2.0, 1.0, -1.0), "q99": (6.0, 9.0, -1.0)}
    with caplog.at_level(logging.WARNING):
        normalizer = VectorNormalizerCfg().build(VectorSpec(3, (), statistics), "action")
    assert not caplog.text and normalizer(X)[:, 2].tolist() == [1.0, -1.0]


def test_nothing_moves_at_all(caplog):
    statistics = {name: (2.0,) if name != "std" else (0.0,) for name in STATISTICS}
    with caplog.at_level(logging.WARNING):
        normalizer = VectorNormalizerCfg().build(VectorSpec(1, (), statistics), "state")
    assert normalizer(torch.tensor([2.0])).item() == 0 and normalizer.scale.item() == 1 and "state" in caplog.text


def test_refusals():
    without = VectorSpec(3, (), {name: STATISTICS[name] for name in ("min", "max", "mean", "std")})
    with pytest.raises(ConfigError, match="needs its q01 and q99"):
        VectorNormalizerCfg().build(without, "action")
    with pytest.raises(ConfigError, match="names dimension 'grip', expected 0 to 2, or x, y, gripper"):
        VectorNormalizerCfg(identity_dims=["grip"]).build(SPEC, "action")

"""Every option that rsl_rl's configurations have, in each supported release, arrives where it is used or is refused.

The releases' options are those of the recordings beside this file, so the one that is not installed is covered too. A
value in a table is never the default: an option that is dropped on the way fails its row.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from RoboRenForce import algorithms, components, networks
from RoboRenForce.envs.scripted_env import ScriptedEnvCfg
from RoboRenForce.interop import rsl_rl_options
from RoboRenForce.interop.rsl_rl_options import RELEASES, ppo_cfg_from_rsl_rl
from RoboRenForce.utils.errors import ConfigError, UserError
from tensordict import TensorDict

pytestmark = pytest.mark.contract

PARITIES = list(RELEASES.values())
OPTIONS = {parity: json.loads(Path(__file__).with_name(f"{parity}.json").read_text())["options"] for parity in PARITIES}
FILLED = {
    "PPO": {"actor", "critic", "storage", "device", "multi_gpu_cfg"},
    "RandomNetworkDistillation": {"num_states", "obs_groups", "device"},
    "Symmetry": {"env"},
}
"""Arguments that rsl_rl gives itself."""

STATES, STEP_DT = 3, 0.1


def mirror(env: Any, obs: TensorDict | None, actions: torch.Tensor | None) -> tuple[Any, Any]:
    if obs is not None:
        obs = torch.cat([obs, obs.apply(torch.neg)])
    return obs, None if actions is None else torch.cat([actions, -actions])


def build(options: dict[str, Any], parity: Any, **extra: Any) -> algorithms.PPO:
    def mlp() -> networks.MLPCfg:
        return networks.MLPCfg(hidden_features=[8])

    spec = ScriptedEnvCfg(num_envs=8).build().spec
    groups = {"actor": ["policy"], "critic": ["critic"], "rnd_state": ["policy"]}
    context = algorithms.RunContext(spec=spec, device=torch.device("cpu"), rollout_steps=6, obs_groups=groups)
    policy = components.ActorCriticPackCfg(
        actor_cfg=components.StateIndStdActorCfg(backbone_cfg=mlp()),
        critic_cfg=components.VNetworkCfg(backbone_cfg=mlp()),
    )
    env = SimpleNamespace(unwrapped=SimpleNamespace(step_dt=STEP_DT))
    cfg = ppo_cfg_from_rsl_rl(options, env, parity=parity, num_rnd_states=STATES, **extra)
    return cfg.build(policy=policy, context=context)


class Refused:
    """Instead of a place: the option is refused with its name."""


Row = tuple[Any, Callable[[Any], Any] | type[Refused], Any]

PPO: dict[str, Row] = {
    "num_learning_epochs": (2, lambda ppo: len(list(ppo.mini_batches.epochs)) / 4, 2),
    "num_mini_batches": (3, lambda ppo: len(list(ppo.mini_batches.epochs)) / 5, 3),
    "clip_param": (0.1, lambda ppo: ppo.cfg.clip_param, 0.1),
    "gamma": (0.9, lambda ppo: ppo.cfg.gamma, 0.9),
    "lam": (0.8, lambda ppo: ppo.cfg.lam, 0.8),
    "value_loss_coef": (0.5, lambda ppo: ppo.cfg.value_loss_coef, 0.5),
    "entropy_coef": (0.003, lambda ppo: ppo.entropy_coef.item(), 0.003),
    "learning_rate": (0.0005, lambda ppo: ppo.optimizer.lr.item(), 0.0005),
    "max_grad_norm": (0.3, lambda ppo: ppo.optimizer.max_grad_norm, 0.3),
    "optimizer": ("adamw", Refused, None),
    "use_clipped_value_loss": (False, lambda ppo: ppo.cfg.use_clipped_value_loss, False),
    "schedule": ("fixed", lambda ppo: ppo.cfg.schedule, "fixed"),
    "desired_kl": (0.05, lambda ppo: ppo.cfg.desired_kl, 0.05),
    "normalize_advantage_per_mini_batch": (True, lambda ppo: ppo.cfg.normalize_advantage_per_mini_batch, True),
    "use_mixed_precision": (True, lambda ppo: ppo.cfg.precision, "bf16"),
    "grad_reduce_bucket_mb": (10, Refused, None),
    "rnd_cfg": ("RND", lambda ppo: len(ppo.reward_terms), 1),
    "symmetry_cfg": ("SYMMETRY", lambda ppo: len(ppo.loss_terms), 1),
}
RND = {"num_outputs": 4, "predictor_hidden_dims": [16], "target_hidden_dims": [12]}
RND_ROWS: dict[str, Row] = {
    "num_outputs": (5, lambda rnd: rnd.predictor.out_features, 5),
    "predictor_hidden_dims": ([7, -1], lambda rnd: [layer.out_features for layer in linear(rnd.predictor)], [7, 3, 4]),
    "target_hidden_dims": ([-1], lambda rnd: [layer.out_features for layer in linear(rnd.target)], [3, 4]),
    "activation": (
        "lrelu",
        lambda rnd: [type(part.layers[1]).__name__ for part in (rnd.predictor, rnd.target)],
        ["LeakyReLU"] * 2,
    ),
    "state_normalization": (True, lambda rnd: rnd.state_normalizer and rnd.state_normalizer.cfg.until, 10**8),
    "reward_normalization": (True, lambda rnd: rnd.reward_normalizer and rnd.reward_normalizer.cfg.until, 10**8),
    "weight": (5.0, lambda rnd: rnd.weight, 5.0 * STEP_DT),
    "weight_schedule": (
        {"mode": "step", "final_step": 9, "final_value": 0.2},
        lambda rnd: weights(rnd, 8, 9),
        [0, 0.2],
    ),
    "learning_rate": (0.02, lambda rnd: rnd.optimizer.lr.item(), 0.02),
}
SYMMETRY = {"data_augmentation_func": mirror, "use_mirror_loss": True, "mirror_loss_coeff": 0.5}
SYMMETRY_ROWS: dict[str, Row] = {
    "data_augmentation_func": (
        lambda env, obs, actions: (obs, actions * env.unwrapped.step_dt),
        lambda term: term.cfg.function(None, torch.ones(1))[1].item(),
        STEP_DT,
    ),
    "use_data_augmentation": (True, lambda term: term.cfg.use_data_augmentation, True),
    "use_mirror_loss": (False, Refused, None),  # with nothing else on, it would only log
    "mirror_loss_coeff": (0.25, lambda term: term.cfg.mirror_loss_coef, 0.25),
}


def linear(network: torch.nn.Module) -> list[torch.nn.Linear]:
    return [module for module in network.modules() if isinstance(module, torch.nn.Linear)]


def weights(rnd: Any, *steps: int) -> list[float]:
    """The weight of the bonus per step after so many steps."""
    found = []
    for step in steps:
        rnd.steps.fill_(step)
        found.append(rnd._scheduled_weight().item())
    return found


def check(row: Row, name: str, make: Callable[[dict[str, Any]], Any], plain: dict[str, Any]) -> None:
    value, read, expected = row
    if read is Refused:
        with pytest.raises(ConfigError, match=name):
            make({name: value})
        return
    assert read(make({name: value})) == pytest.approx(expected)
    assert plain.get(name) is not None or read(make({})) != pytest.approx(expected), "the row's value is the default"


def rows(section: str) -> list[Any]:
    return [(parity, name) for parity in PARITIES for name in OPTIONS[parity][section] if name not in FILLED[section]]


@pytest.mark.parametrize(("parity", "name"), rows("PPO"))
def test_options_of_ppo(parity: str, name: str) -> None:
    sections = {"RND": RND, "SYMMETRY": SYMMETRY}
    value, read, expected = PPO[name]
    check(
        (sections.get(value, value) if isinstance(value, str) else value, read, expected),
        name,
        lambda options: build(options, parity),
        {},
    )


@pytest.mark.parametrize(("parity", "name"), rows("RandomNetworkDistillation"))
def test_options_of_rnd(parity: str, name: str) -> None:
    def make(options: dict[str, Any]) -> Any:
        return build({"rnd_cfg": RND | options}, parity).reward_terms[0]

    check(RND_ROWS[name], name, make, RND)


@pytest.mark.parametrize(("parity", "name"), rows("Symmetry"))
def test_options_of_symmetry(parity: str, name: str) -> None:
    def make(options: dict[str, Any]) -> Any:
        return build({"symmetry_cfg": SYMMETRY | options}, parity).loss_terms[0]

    check(SYMMETRY_ROWS[name], name, make, SYMMETRY)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (None, [0.5, 0.5, 0.5]),
        ({"mode": "constant"}, [0.5, 0.5, 0.5]),
        ({"mode": "step", "final_step": 8, "final_value": 0.1}, [0.5, 0.5, 0.1]),
        ({"mode": "linear", "initial_step": 2, "final_step": 6, "final_value": 0.1}, [0.5, 0.3, 0.1]),
    ],
)
def test_the_weight_of_rnd_is_per_second_and_the_end_of_its_schedule_per_step(schedule: Any, expected: Any) -> None:
    rnd = build({"rnd_cfg": RND | {"weight": 5.0, "weight_schedule": schedule}}, PARITIES[0]).reward_terms[0]
    assert weights(rnd, 1, 4, 9) == pytest.approx(expected)


@pytest.mark.parametrize("parity", PARITIES)
@pytest.mark.parametrize(
    ("section", "options"),
    [
        ("algorithm", {"clip_parm": 0.1}),
        ("rnd_cfg", {"rnd_cfg": RND | {"clip_parm": 0.1}}),
        ("weight_schedule", {"rnd_cfg": RND | {"weight_schedule": {"mode": "constant", "clip_parm": 0.1}}}),
        ("symmetry_cfg", {"symmetry_cfg": SYMMETRY | {"clip_parm": 0.1}}),
    ],
)
def test_unknown_names_are_refused_in_every_section(parity: str, section: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"\['clip_parm'\] of {section}"):
        build(options, parity)


@pytest.mark.parametrize("name", ["use_mixed_precision", "grad_reduce_bucket_mb"])
def test_options_of_5_5_are_unknown_to_5_4(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        build({name: 25}, "rsl_rl_5_4")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"schedule": "linear"}, "schedule='linear'"),
        ({"use_mixed_precision": True, "precision": "fp32"}, "drop one"),
        ({"rnd_cfg": {"num_outputs": 1}}, r"lacks \['predictor_hidden_dims', 'target_hidden_dims'\]"),
        ({"rnd_cfg": RND | {"weight_schedule": {"mode": "step"}}}, r"lacks \['final_step', 'final_value'\]"),
        ({"rnd_cfg": RND | {"weight_schedule": {"mode": "cosine"}}}, "mode='cosine'"),
        ({"symmetry_cfg": {"use_mirror_loss": True}}, "data_augmentation_func"),
    ],
)
def test_values_without_a_counterpart_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        build(options, "rsl_rl_5_5")


def test_what_has_no_effect_here_is_accepted() -> None:
    ppo = build({"grad_reduce_bucket_mb": 25, "optimizer": "Adam", "rnd_cfg": None, "symmetry_cfg": {}}, "rsl_rl_5_5")
    assert not ppo.reward_terms and not ppo.loss_terms
    assert build({"desired_kl": None}, "rsl_rl_5_5").cfg.schedule == "fixed"


def test_the_compile_mode_of_the_runner() -> None:
    def compiles(**extra: Any) -> str:
        return ppo_cfg_from_rsl_rl(extra.pop("options", {}), parity="rsl_rl_5_5", **extra).compile

    assert compiles() == "auto" and compiles(torch_compile_mode="default") == "on"
    with pytest.raises(ConfigError, match="max-autotune-no-cudagraphs"):
        compiles(torch_compile_mode="max-autotune-no-cudagraphs")
    with pytest.raises(ConfigError, match="drop one"):
        compiles(torch_compile_mode="default", options={"compile": "off"})


@pytest.mark.parametrize("parity", PARITIES)
def test_parity_follows_the_release(parity: str) -> None:
    ppo = build({}, parity)
    assert ppo.cfg.normalizer_update == {"rsl_rl_5_4": "step", "rsl_rl_5_5": "iteration"}[parity]
    assert (ppo.cfg.time_out_bootstrap, ppo.cfg.shuffle) == ("current", "once")
    with pytest.raises(ConfigError, match=f"parity='{parity}'"):
        algorithms.PPOCfg(parity=parity, time_out_bootstrap="none").validate()


@pytest.mark.parametrize(
    ("installed", "expected"), [("5.4.0", "rsl_rl_5_4"), ("5.4.2", "rsl_rl_5_4"), ("5.5.1", "rsl_rl_5_5"),
                                ("5.5", "rsl_rl_5_5"), ("5.3.0", None), ("5.6.0", None), ("5.40.0", None)]
)  # fmt: skip
def test_the_drop_in_follows_the_installed_release(
    monkeypatch: pytest.MonkeyPatch, installed: str, expected: str | None
) -> None:
    pytest.importorskip("rsl_rl")
    monkeypatch.setattr(rsl_rl_options, "version", lambda name: installed)
    if expected is not None:
        assert rsl_rl_options.installed_parity() == expected
    else:
        with pytest.raises(UserError, match=rf"5\.4 and 5\.5.*is {installed}: install rsl-rl-lib==5\.4\.2 or 5\.5\.1"):
            rsl_rl_options.installed_parity()


# ------------------------------------------------------------------------------------------- mjlab's own configurations

TASK = "Mjlab-Cartpole-Balance"
MJLAB_MODEL: dict[str, tuple[Any, Callable[[Any], Any] | type[Refused], Any]] = {
    "hidden_dims": ((5, 4), lambda net: net.backbone_cfg.hidden_features, [5, 4]),
    "activation": ("lrelu", lambda net: net.backbone_cfg.activations, "LEAKYRELU"),
    "obs_normalization": ("TOGGLED", lambda net: net.normalizer_cfg is not None, None),
    "cnn_cfg": ({"output_channels": [4], "kernel_size": 5}, lambda net: net.cnn_cfg.kernel_sizes, [5]),
    "rnn_type": ("gru", lambda net: net.backbone_cfg.cell, "gru"),
    "rnn_hidden_dim": (9, lambda net: net.backbone_cfg.hidden_size, 9),
    "rnn_num_layers": (2, lambda net: net.backbone_cfg.num_layers, 2),
    "class_name": ("somewhere:OwnModel", Refused, None),
}
OF_MJLABS_SCRIPTS = {"class_name", "logger", "wandb_project", "wandb_tags", "resume", "load_run", "load_checkpoint"}
OF_MJLABS_SCRIPTS |= {"upload_model", "experiment_name", "actor", "critic", "algorithm"}
"""Fields of the runner that say where to log and what to load, and the sections."""


@pytest.fixture
def rl_cfg() -> Any:
    pytest.importorskip("mjlab")
    import mjlab.tasks  # noqa: F401 - registers the tasks
    from mjlab.tasks.registry import load_rl_cfg

    return load_rl_cfg(TASK)


def translated(rl_cfg: Any) -> Any:
    from RRF_mjlab_tasks.agents import runner_cfg_from_mjlab

    return runner_cfg_from_mjlab(rl_cfg, TASK)


def test_mjlabs_algorithm_section(rl_cfg: Any) -> None:
    rows = {"share_cnn_encoders": (True, Refused, None), **PPO}
    for field in fields(rl_cfg.algorithm):
        if field.name == "class_name":
            continue
        value, read, _ = rows[field.name]
        assert getattr(rl_cfg.algorithm, field.name) != value
        changed = replace(rl_cfg, algorithm=replace(rl_cfg.algorithm, **{field.name: value}))
        if read is Refused:
            with pytest.raises(UserError, match=rf"{TASK}.*{value if isinstance(value, str) else field.name}"):
                translated(changed)
        else:
            assert getattr(translated(changed).algorithm, field.name) == value
    plain = translated(rl_cfg).algorithm
    assert (plain.parity, plain.shuffle, plain.time_out_bootstrap) == ("none", "once", "current")


@pytest.mark.parametrize("section", ["actor", "critic"])
def test_mjlabs_model_sections(rl_cfg: Any, section: str) -> None:
    model = getattr(rl_cfg, section)
    for field in fields(model):
        if field.name == "distribution_cfg":
            continue
        value, read, expected = MJLAB_MODEL[field.name]
        if value == "TOGGLED":
            value = expected = not getattr(model, field.name)
        options = {field.name: value} | (
            {"rnn_type": "lstm"} if field.name.startswith("rnn_") and value != "gru" else {}
        )
        changed = replace(rl_cfg, **{section: replace(model, **options)})
        if read is Refused:
            with pytest.raises(UserError, match="OwnModel"):
                translated(changed)
        else:
            assert read(getattr(translated(changed).policy, f"{section}_cfg")) == expected, field.name


def test_mjlabs_distribution_section(rl_cfg: Any) -> None:
    options = {"init_std": 0.5, "std_range": (0.1, 0.9), "std_type": "log", "learn_std": False}
    assert set(OPTIONS["rsl_rl_5_5"]["GaussianDistribution"]) == {*options, "output_dim"}
    rl_cfg.actor.distribution_cfg = {"class_name": "GaussianDistribution", **options}
    actor = translated(rl_cfg).policy.actor_cfg
    found = (actor.init_std, (actor.min_std, actor.max_std), actor.use_log_std, actor.learn_std)
    assert found == (0.5, (0.1, 0.9), True, False)
    rl_cfg.actor.distribution_cfg["std_rnge"] = (0, 1)
    with pytest.raises(UserError, match="std_rnge"):
        translated(rl_cfg)


def test_mjlabs_runner_section(rl_cfg: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"seed": 7, "num_steps_per_env": 5, "max_iterations": 9, "save_interval": 3, "run_name": "x"}
    values["obs_groups"] = {"actor": ("actor",), "critic": ("actor",)}
    assert {field.name for field in fields(rl_cfg)} == {*values, *OF_MJLABS_SCRIPTS, "clip_actions"}
    changed = replace(rl_cfg, **values, clip_actions=3.0)
    found = translated(changed)
    for name, value in values.items():
        expected = {key: list(groups) for key, groups in value.items()} if name == "obs_groups" else value
        assert getattr(found, name) == expected
    from mjlab.tasks import registry
    from RRF_mjlab_tasks.registration import find_mjlab_task

    monkeypatch.setattr(registry, "load_rl_cfg", lambda task: changed)
    task = find_mjlab_task(TASK)
    assert task is not None and task.env_cfg.clip_actions == 3.0


def test_options_of_a_cnn_that_are_not_known_are_refused(rl_cfg: Any) -> None:
    for options, sentence in (({"stridee": 2}, "stridee"), ({"flatten": False}, "flatten=False")):
        rl_cfg.actor.cnn_cfg = {"output_channels": [4], "kernel_size": 5, **options}
        with pytest.raises(UserError, match=sentence):
            translated(rl_cfg)
    assert set(OPTIONS["rsl_rl_5_5"]["CNNModel"]) - set(OPTIONS["rsl_rl_5_5"]["MLPModel"]) == {"cnn_cfg", "cnns"}

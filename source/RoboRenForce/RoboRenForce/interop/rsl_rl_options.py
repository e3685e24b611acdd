"""Translation of rsl_rl's training options to ours: each is translated, or refused by its name.

The known options are those of the installed release: options of 5.5 are unknown to 5.4, here as there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from tensordict import TensorDict
from torch import Tensor

from ..algorithms.loss_terms import SymmetryCfg
from ..algorithms.on_policy.ppo import PPOCfg
from ..algorithms.reward_terms import RNDCfg
from ..networks import MLPCfg
from ..utils.errors import ConfigError, UserError
from ..utils.optional import require_package

DROP_IN = "RoboRenForce.interop.rsl_rl:PPO"

Parity = Literal["rsl_rl_5_4", "rsl_rl_5_5"]

RELEASES: dict[str, Parity] = {"5.4": "rsl_rl_5_4", "5.5": "rsl_rl_5_5"}
"""rsl_rl releases whose numbers our PPO reproduces, and the `parity` for each."""

SAME_NAME = (
    "num_learning_epochs",
    "num_mini_batches",
    "clip_param",
    "gamma",
    "lam",
    "value_loss_coef",
    "entropy_coef",
    "learning_rate",
    "max_grad_norm",
    "use_clipped_value_loss",
    "schedule",
    "desired_kl",
    "normalize_advantage_per_mini_batch",
)
"""Options with the same meaning in rsl_rl's PPO and in ours."""

TRANSLATED = ("optimizer", "rnd_cfg", "symmetry_cfg")
"""Options of every supported release that mean something else here."""

SINCE_5_5 = ("use_mixed_precision", "grad_reduce_bucket_mb")

OURS = ("cuda_graph", "compile", "precision")
"""Options of ours that an rsl_rl configuration may add."""

ACTIVATIONS = {"crelu": "CELU", "lrelu": "LeakyReLU"}
"""rsl_rl's activations whose names differ from `torch.nn`."""


def require_rsl_rl(module: str) -> Any:
    """Import a module of rsl_rl, or say how to install it."""
    return require_package(module, distribution="rsl-rl-lib==5.4.2", purpose="the rsl_rl drop-in")


def installed_parity() -> Parity:
    """Return the `parity` of the installed rsl_rl.

    Raises:
        UserError: The release is not one whose numbers are reproduced.
    """
    require_rsl_rl("rsl_rl")
    try:
        found = version("rsl-rl-lib")
    except PackageNotFoundError:
        found = "without a version"
    release = ".".join(found.split(".")[:2])
    if release not in RELEASES:
        raise UserError(
            f"{DROP_IN} has the numbers of rsl-rl-lib {' and '.join(RELEASES)}, but the installed one is {found}: "
            "install rsl-rl-lib==5.4.2 or 5.5.1, or use rsl_rl's own PPO."
        )
    return RELEASES[release]


def ppo_cfg_from_rsl_rl(
    options: Mapping[str, Any],
    env: Any = None,
    *,
    parity: Parity | None = None,
    num_rnd_states: int = 0,
    torch_compile_mode: str | None = None,
) -> PPOCfg:
    """Translate the `algorithm` section of an rsl_rl configuration.

    Args:
        options: The section without `class_name`.
        env: The environment, which the symmetry function is called with and whose `step_dt` is the unit of RND.
        parity: The release to follow; None: the installed one.
        num_rnd_states: Size of the observation set `rnd_state`.
        torch_compile_mode: The runner's option of this name.

    Raises:
        ConfigError: an option, or a value of one, that has no counterpart here.
    """
    parity = parity or installed_parity()
    known = (*SAME_NAME, *TRANSLATED, *(SINCE_5_5 if parity == "rsl_rl_5_5" else ()), *OURS)
    _refuse_unknown("algorithm", options, known)
    ours = {name: options[name] for name in (*SAME_NAME, *OURS) if name in options}
    if (optimizer := options.get("optimizer", "adam")).lower() != "adam":
        raise _unavailable(f"optimizer='{optimizer}'", "Adam (optimizer='adam')")
    if (schedule := options.get("schedule", "adaptive")) not in ("adaptive", "fixed"):
        raise _unavailable(f"schedule='{schedule}'", "schedule='adaptive' or 'fixed'")
    if (bucket := options.get("grad_reduce_bucket_mb", 25)) != 25:
        raise _unavailable(f"grad_reduce_bucket_mb={bucket}", "the default: all gradients travel in one buffer")
    if "desired_kl" in ours and ours["desired_kl"] is None:  # nothing to steer the learning rate by
        del ours["desired_kl"]
        ours["schedule"] = "fixed"
    if options.get("use_mixed_precision") and ours.setdefault("precision", "bf16") != "bf16":
        raise ConfigError(
            f"use_mixed_precision=True means precision='bf16', but precision is '{ours['precision']}': drop one."
        )
    if torch_compile_mode is not None:
        if torch_compile_mode != "default":
            raise _unavailable(f"torch_compile_mode='{torch_compile_mode}'", "'default' or None")
        if ours.setdefault("compile", "on") == "off":
            raise ConfigError("torch_compile_mode='default' asks to compile, but compile='off' forbids it: drop one.")
    if rnd := options.get("rnd_cfg"):
        step_dt = getattr(getattr(env, "unwrapped", None), "step_dt", None) or 1.0
        ours["reward_terms"] = [_rnd_cfg(rnd, num_rnd_states, step_dt)]
    if symmetry := options.get("symmetry_cfg"):
        ours["loss_terms"] = [_symmetry_cfg(symmetry, env)]
    return PPOCfg(parity=parity, **ours)


def activation_from_rsl_rl(name: str) -> str:
    """Return our name of one of rsl_rl's activations."""
    return ACTIVATIONS.get(name.lower(), name)


def _rnd_cfg(options: Mapping[str, Any], num_states: int, step_dt: float) -> RNDCfg:
    needed = ("num_outputs", "predictor_hidden_dims", "target_hidden_dims")
    optional = ("activation", "state_normalization", "reward_normalization", "weight", "weight_schedule")
    _refuse_unknown("rnd_cfg", options, (*needed, *optional, "learning_rate"))
    _require("rnd_cfg", options, needed)
    return RNDCfg(
        weight=options.get("weight", 0.0),
        num_outputs=options["num_outputs"],
        predictor_cfg=_mlp_cfg(options, "predictor_hidden_dims", num_states),
        target_cfg=_mlp_cfg(options, "target_hidden_dims", num_states),
        learning_rate=options.get("learning_rate", 1e-3),
        normalize_state=options.get("state_normalization", False),
        normalize_reward=options.get("reward_normalization", False),
        normalize_until=10**8,  # where rsl_rl freezes both statistics
        **_weight_schedule(options.get("weight_schedule"), step_dt),
    )


def _mlp_cfg(options: Mapping[str, Any], name: str, num_states: int) -> MLPCfg:
    widths = [num_states if width == -1 else width for width in options[name]]
    return MLPCfg(hidden_features=widths, activations=activation_from_rsl_rl(options.get("activation", "elu")))


def _weight_schedule(options: Mapping[str, Any] | None, step_dt: float) -> dict[str, Any]:
    """Convert rsl_rl's schedule, which ends at a weight per step, to ours, which ends at one per second."""
    if options is None:
        return {}
    needed = {"constant": (), "step": ("final_step", "final_value")}
    needed["linear"] = ("initial_step", "final_step", "final_value")
    mode = options.get("mode")
    if mode not in needed:
        raise _unavailable(f"weight_schedule with mode={mode!r}", f"one of {', '.join(needed)}")
    _refuse_unknown("weight_schedule", options, ("mode", *needed["linear"]))
    _require("weight_schedule", options, needed[mode])
    ours = {name: options[name] for name in needed[mode] if name != "final_value"}
    if "final_value" in needed[mode]:
        ours["final_weight"] = options["final_value"] / step_dt
    return {"weight_schedule": mode, **ours}


def _symmetry_cfg(options: Mapping[str, Any], env: Any) -> SymmetryCfg:
    switches = ("use_data_augmentation", "use_mirror_loss")
    _refuse_unknown("symmetry_cfg", options, ("data_augmentation_func", *switches, "mirror_loss_coeff"))
    _require("symmetry_cfg", options, ("data_augmentation_func",))
    if not any(options.get(name) for name in switches):
        raise _unavailable("a symmetry_cfg that only logs", f"{' or '.join(switches)}, or no symmetry_cfg")
    function = options["data_augmentation_func"]
    if not callable(function):
        function = require_rsl_rl("rsl_rl.utils").resolve_callable(function)
    return SymmetryCfg(
        function=_bind_environment(function, env),
        use_data_augmentation=options.get("use_data_augmentation", False),
        use_mirror_loss=options.get("use_mirror_loss", False),
        mirror_loss_coef=options.get("mirror_loss_coeff", 0.0),
    )


def _bind_environment(function: Callable, env: Any) -> Callable:
    """Convert rsl_rl's `f(env=, obs=, actions=)` to our `f(obs, actions)`."""

    def mirror(obs: TensorDict | None, actions: Tensor | None) -> tuple[TensorDict | None, Tensor | None]:
        return function(env=env, obs=obs, actions=actions)

    return mirror


def _refuse_unknown(section: str, options: Mapping[str, Any], known: Iterable[str]) -> None:
    known = list(known)
    if unknown := sorted(set(options) - set(known)):
        raise ConfigError(
            f"rsl_rl options {unknown} of {section} have no counterpart in {DROP_IN}: remove them; known are "
            f"{', '.join(known)}."
        )


def _require(section: str, options: Mapping[str, Any], needed: Iterable[str]) -> None:
    if missing := [name for name in needed if name not in options]:
        raise ConfigError(f"{section} lacks {missing}, which rsl_rl needs too: add them.")


def _unavailable(got: str, instead: str) -> ConfigError:
    return ConfigError(f"{DROP_IN} got {got}, which it does not have: use {instead}, or rsl_rl's own PPO.")

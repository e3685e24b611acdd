"""Whole updates of rsl_rl, live and recorded: the cases in which our PPO has to give its numbers.

Both learners start from the same weights, see the same stream of observations and outcomes, and draw action noise and
permutations from torch's default generator, seeded before every rollout and every update (rsl_rl samples actions inside
its update too, without using them). A recording holds, for one release, the losses and two sums over each tensor after
two updates in float64, so that releases that are not installed are tested too. To write it for the installed one:

    python tests/interop/rsl_rl_recording.py

and for another, from a folder:

    pip install --no-deps --target FOLDER rsl-rl-lib==5.5.1
    PYTHONPATH=FOLDER python tests/interop/rsl_rl_recording.py
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from RoboRenForce.interop.rsl_rl_options import RELEASES, installed_parity
from tensordict import TensorDict

FOLDER = Path(__file__).parent
STEPS, ENVS, ACTIONS, HIDDEN, STEP_DT = 12, 16, 3, [32, 16], 0.02
GROUPS = {"policy": (5,), "critic": (7,)}
ENV = SimpleNamespace(num_envs=ENVS, num_actions=ACTIONS, unwrapped=SimpleNamespace(step_dt=STEP_DT))

SECTIONS = {
    "PPO": "rsl_rl.algorithms",
    "RandomNetworkDistillation": "rsl_rl.extensions",
    "Symmetry": "rsl_rl.extensions",
    "MLPModel": "rsl_rl.models",
    "RNNModel": "rsl_rl.models",
    "CNNModel": "rsl_rl.models",
    "GaussianDistribution": "rsl_rl.modules.distribution",
}
"""Classes whose arguments are rsl_rl's options, and where they are."""


def mirror(obs, actions):
    """Observations and actions with their negatives behind them."""
    if obs is not None:
        flipped = {name: torch.cat([value, -value]) for name, value in obs.items()}
        obs = TensorDict(flipped, batch_size=[2 * next(iter(obs.values())).shape[0]])
    return obs, None if actions is None else torch.cat([actions, -actions])


def mirror_of_env(env, obs, actions):
    """`mirror` with the arguments that rsl_rl gives."""
    assert env is ENV
    return mirror(obs, actions)


BASE = {"num_learning_epochs": 3, "num_mini_batches": 4, "learning_rate": 1e-3, "entropy_coef": 0.01}
RND = {"num_outputs": 4, "predictor_hidden_dims": [16], "target_hidden_dims": [16], "weight": 5.0}
RND |= {"state_normalization": True, "learning_rate": 2e-3}
LINEAR = {"mode": "linear", "initial_step": 4, "final_step": 20, "final_value": 0.01}
SYMMETRY = {"data_augmentation_func": mirror_of_env, "use_mirror_loss": True, "mirror_loss_coeff": 0.5}

CASES: dict[str, dict[str, Any]] = {
    "base": BASE,
    "per_mini_batch": BASE | {"normalize_advantage_per_mini_batch": True, "use_clipped_value_loss": False},
    "all_options": {
        "num_learning_epochs": 2,
        "num_mini_batches": 3,
        "clip_param": 0.05,
        "gamma": 0.9,
        "lam": 0.8,
        "value_loss_coef": 0.5,
        "entropy_coef": 0.05,
        "learning_rate": 4e-3,
        "max_grad_norm": 0.2,
        "optimizer": "Adam",
        "use_clipped_value_loss": True,
        "schedule": "fixed",
        "desired_kl": 0.02,
        "normalize_advantage_per_mini_batch": True,
    },
    "other_kl": BASE | {"desired_kl": 3e-4},
    "no_kl": BASE | {"desired_kl": None},
    "gru": BASE,
    "lstm": BASE,
    "symmetry": BASE | {"symmetry_cfg": SYMMETRY | {"use_data_augmentation": True}},
    "mirror_loss": BASE | {"symmetry_cfg": SYMMETRY},
    "rnd": BASE | {"rnd_cfg": RND | {"weight_schedule": LINEAR}},
    "rnd_normalized": BASE | {"rnd_cfg": RND | {"weight_schedule": LINEAR, "reward_normalization": True}},
    "rnd_step": BASE
    | {
        "rnd_cfg": {
            **RND,
            "predictor_hidden_dims": [-1, 8],
            "activation": "lrelu",
            "state_normalization": False,
            "weight_schedule": {"mode": "step", "final_step": 15, "final_value": 0.3},
        }
    },
}
"""Name -> the `algorithm` section; `gru` and `lstm` are recurrent."""


def recurrent_cell(case: str) -> str | None:
    """The recurrent cell of a case, None if it is feed-forward."""
    return case if case in ("gru", "lstm") else None


def tape() -> tuple[list[TensorDict], list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """A stream of observations, rewards, dones and time-outs that neither learner influences."""
    random = np.random.RandomState(3)  # its stream is frozen for good

    def observations() -> TensorDict:
        groups = {name: random.standard_normal((ENVS, *shape)) * 2 + 1 for name, shape in GROUPS.items()}
        dtype = torch.get_default_dtype()
        return TensorDict({name: torch.as_tensor(v, dtype=dtype) for name, v in groups.items()}, batch_size=[ENVS])

    obs = [observations() for _ in range(2 * STEPS + 1)]
    done = [torch.as_tensor(random.uniform(size=ENVS) < 0.15).long() for _ in range(2 * STEPS)]
    time_outs = [d.bool() & torch.as_tensor(random.uniform(size=ENVS) < 0.5) for d in done]
    reward = [torch.as_tensor(random.standard_normal(ENVS), dtype=torch.get_default_dtype()) for _ in range(2 * STEPS)]
    return obs, reward, done, time_outs


def initial(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state of a model or of RND with its weights replaced by numbers that depend on name and shape only."""
    filled = {}
    for name, tensor in state.items():
        weight = name.startswith(("mlp.", "rnn.", "predictor.", "target."))
        random = np.random.RandomState(zlib.crc32(name.encode()))
        values = torch.as_tensor(random.uniform(-0.3, 0.3, tuple(tensor.shape)), dtype=tensor.dtype)
        filled[name] = values if weight else tensor
    return filled


def make_theirs(case: str, **extra: Any) -> Any:
    """rsl_rl's PPO as its runner would build it."""
    cell = recurrent_cell(case)
    model = {"hidden_dims": HIDDEN, "activation": "elu", "obs_normalization": True}
    model["class_name"] = "rsl_rl.models:RNNModel" if cell else "rsl_rl.models:MLPModel"
    if cell:
        model |= {"rnn_type": cell, "rnn_hidden_dim": 12, "rnn_num_layers": 1}
    gaussian = {"class_name": "rsl_rl.modules.distribution:GaussianDistribution", "init_std": 0.7}
    algorithm = {"class_name": "rsl_rl.algorithms:PPO", "rnd_cfg": None, "symmetry_cfg": None} | CASES[case] | extra
    for section in ("rnd_cfg", "symmetry_cfg"):  # rsl_rl writes into them
        algorithm[section] = algorithm[section] and dict(algorithm[section])
    cfg = {
        "algorithm": algorithm,
        "actor": model | {"distribution_cfg": gaussian},
        "critic": dict(model),
        "obs_groups": {"actor": ["policy"], "critic": ["critic"], "rnd_state": ["policy"]},
        "num_steps_per_env": STEPS,
        "multi_gpu": None,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = import_module("rsl_rl.algorithms").PPO.construct_algorithm(tape()[0][0], ENV, cfg, "cpu")
    for module in (theirs.actor, theirs.critic, *([theirs.rnd] if theirs.rnd else [])):
        module.load_state_dict(initial(module.state_dict()))
    return theirs


def run_theirs(theirs: Any) -> list[dict[str, float]]:
    """Losses and learning rate of two rollouts with their updates."""
    obs, reward, done, time_outs = tape()
    history = []
    for update in range(2):
        torch.manual_seed(update)
        with torch.inference_mode():
            for t in range(update * STEPS, (update + 1) * STEPS):
                theirs.act(obs[t])
                theirs.process_env_step(obs[t + 1], reward[t], done[t], {"time_outs": time_outs[t]})
            theirs.compute_returns(obs[(update + 1) * STEPS])
        torch.manual_seed(10 + update)
        history.append(theirs.update() | {"learning_rate": theirs.learning_rate})
    return history


def state_of_theirs(theirs: Any) -> dict[str, torch.Tensor]:
    """Every tensor that it learned."""
    parts = {"actor": theirs.actor, "critic": theirs.critic} | ({"rnd": theirs.rnd} if theirs.rnd else {})
    return {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}


def sums(tensor: torch.Tensor) -> list[float]:
    """Two numbers that hardly any change of a tensor leaves alone."""
    flat = tensor.double().flatten()
    return [flat.sum().item(), (flat * torch.arange(1, len(flat) + 1, dtype=torch.float64).cos()).sum().item()]


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Everything in float64; rsl_rl's GAE casts dones with `.float()`, which rounds gamma to float32 even there."""
    torch.set_default_dtype(torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        yield
    torch.set_default_dtype(torch.float32)


def random_numbers() -> list[float]:
    """What torch draws; recordings are of no use if that changes."""
    torch.manual_seed(0)
    return [*torch.randn(48, dtype=torch.float64)[:2].tolist(), *map(float, torch.randperm(192)[:2].tolist())]


def options_of(section: str) -> list[str]:
    """The options of the installed rsl_rl in one section of its configuration."""
    parameters = list(inspect.signature(getattr(import_module(SECTIONS[section]), section).__init__).parameters)
    return [name for name in parameters if name != "self"]


def first_losses_in_bf16() -> dict[str, float] | None:
    """Losses of the one mini-batch of an update in mixed precision, None where rsl_rl has none."""
    if "use_mixed_precision" not in options_of("PPO"):
        return None
    one = {"num_learning_epochs": 1, "num_mini_batches": 1, "use_mixed_precision": True}
    return run_theirs(make_theirs("base", **one))[0]


def recording_of(parity: str) -> dict[str, Any]:
    """The recording of a release."""
    return json.loads((FOLDER / f"{parity}.json").read_text())


def record() -> dict[str, Any]:
    """The numbers of the installed rsl_rl."""
    cases = {}
    mixed = first_losses_in_bf16()
    with in_float64():
        for case in CASES:
            theirs = make_theirs(case)
            history = run_theirs(theirs)
            cases[case] = {
                "history": history,
                "sums": {name: sums(tensor) for name, tensor in state_of_theirs(theirs).items()},
            }
    return {
        "rsl-rl-lib": version("rsl-rl-lib"),
        "command": "python tests/interop/rsl_rl_recording.py",
        "torch": torch.__version__.partition("+")[0],
        "random_numbers": random_numbers(),
        "options": {section: options_of(section) for section in SECTIONS},
        "bf16": mixed,
        "cases": cases,
    }


if __name__ == "__main__":
    assert installed_parity() in RELEASES.values()
    path = FOLDER / f"{installed_parity()}.json"
    path.write_text(json.dumps(record(), indent=1) + "\n")
    print(path.name, path.stat().st_size, "bytes")

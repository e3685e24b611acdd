"""Our PPO inside rsl_rl's own runner, with checkpoints in both directions.

Name `RoboRenForce.interop.rsl_rl:PPO` as `algorithm.class_name` of an rsl_rl configuration (mjlab's and Isaac Lab's
`train` pass it through): rsl_rl still builds its models, collects, logs and saves; this class learns, with the
numbers of the installed rsl_rl (5.4 or 5.5, by `parity`) and the speed of ours. Because the models stay rsl_rl's own,
checkpoints, play and export don't change.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from ..algorithms.algorithm import RunContext
from ..algorithms.loss_terms import Symmetry
from ..algorithms.on_policy.ppo import PPO as Learner  # noqa: N811 - rsl_rl looks for our own class under its name
from ..algorithms.reward_terms import RND
from ..buffer.transition import ActOut, Transition
from ..components.optimizer import load_per_parameter_state
from ..envs.spec import ActionSpec, EnvSpec
from ..utils.distributed import DistributedContext
from .rsl_rl_checkpoint import load_rsl_rl_rnd, rsl_rl_optimizer_state, rsl_rl_rnd_state
from .rsl_rl_models import RslRlModels
from .rsl_rl_options import SAME_NAME, installed_parity, ppo_cfg_from_rsl_rl, require_rsl_rl

__all__ = ["PPO", "SAME_NAME", "ppo_cfg_from_rsl_rl"]


class PPO:
    """Adapter of our PPO to the interface that rsl_rl's `OnPolicyRunner` uses."""

    def __init__(self, actor: nn.Module, critic: nn.Module, learner: Learner) -> None:
        self.actor: Any = actor
        self.critic: Any = critic
        self.learner = learner
        self._rnd: Any = next(iter(learner.reward_terms), None)
        self.rnd = None if self._rnd is None else _RndView(self._rnd)
        self._acted: tuple[TensorDict, ActOut]
        self.intrinsic_rewards: Tensor | None = None if self._rnd is None else self._rnd.last_bonus

    @staticmethod
    def construct_algorithm(obs: TensorDict, env: Any, cfg: dict, device: str) -> PPO:
        """Build rsl_rl's models as rsl_rl would, and our learner around them."""
        parity = installed_parity()
        for extension in ("rnd_cfg", "symmetry_cfg"):  # rsl_rl's logger looks them up even where they are not used
            cfg["algorithm"].setdefault(extension, None)
        options = dict(cfg["algorithm"])
        options.pop("class_name", None)
        sets = ["actor", "critic", *(["rnd_state"] if options["rnd_cfg"] else [])]
        cfg["obs_groups"] = require_rsl_rl("rsl_rl.utils").resolve_obs_groups(obs, cfg["obs_groups"], sets)
        shared = bool(options.pop("share_cnn_encoders", False))
        actor, critic = _build_models(obs, env, cfg, device, share_cnn_encoders=shared)
        groups = {name: list(members) for name, members in cfg["obs_groups"].items()}
        spec = EnvSpec(
            task="rsl_rl environment",
            num_envs=env.num_envs,
            obs_groups={name: tuple(value.shape[1:]) for name, value in obs.items()},
            action=ActionSpec("continuous", env.num_actions),
            max_episode_length=int(torch.as_tensor(env.max_episode_length).max()),
            obs_dtypes={name: str(value.dtype).removeprefix("torch.") for name, value in obs.items()},
            step_dt=getattr(env.unwrapped, "step_dt", None),
        )
        context = RunContext(
            spec=spec,
            device=torch.device(device),
            rollout_steps=cfg["num_steps_per_env"],
            obs_groups=groups,
            distributed=_context_of(cfg.get("multi_gpu")),
        )
        learner_cfg = ppo_cfg_from_rsl_rl(
            options,
            env=env,
            parity=parity,
            num_rnd_states=spec.obs_dim(groups["rnd_state"]) if options["rnd_cfg"] else 0,
            torch_compile_mode=cfg.get("torch_compile_mode"),
        )
        return PPO(actor, critic, learner_cfg.build(policy=RslRlModels(actor, critic, parity), context=context))

    @property
    def learning_rate(self) -> float:
        """Current learning rate, for rsl_rl's log."""
        return float(self.learner.optimizer.lr)

    def act(self, obs: TensorDict) -> Tensor:
        """Sample actions `(N, A)`."""
        # rsl_rl collects in inference mode; what we store is read by autograd later, so it must be ordinary tensors.
        with torch.inference_mode(mode=False):
            self._acted = obs, self.learner.act(obs)
            return self._acted[1].action

    def process_env_step(self, obs: TensorDict, rewards: Tensor, dones: Tensor, extras: Mapping[str, Any]) -> None:
        """Store one environment step."""
        time_outs = extras.get("time_outs", torch.zeros_like(dones)).bool()
        flags = {"terminated": dones.bool() & ~time_outs, "time_outs": time_outs}
        before, out = self._acted
        with torch.inference_mode(mode=False):
            step = (obs, rewards, dones, flags)
            self.learner.process_env_step(Transition.of_step(before, out.action, out.record, step))

    def compute_returns(self, obs: TensorDict) -> None:
        """Do nothing: the learner computes returns at the start of `update` from the last stored observation."""

    def update(self) -> dict[str, float]:
        """Learn; returns rsl_rl's loss names as floats, fetched in one transfer."""
        metrics = {k.removeprefix("Loss/"): v for k, v in self.learner.update().items() if k.startswith("Loss/")}
        metrics.pop("learning_rate")
        for term in self.learner.loss_terms:  # rsl_rl logs the mirror loss bare, we as it enters the loss
            if not isinstance(term, Symmetry):
                continue
            if term.cfg.use_mirror_loss:
                metrics["symmetry"] = metrics["symmetry"] / term.cfg.mirror_loss_coef
            else:
                del metrics["symmetry"]  # not computed
        return dict(zip(metrics, torch.stack(list(metrics.values())).tolist(), strict=True))

    def train_mode(self) -> None:
        """Switch the models to training mode."""
        self.learner.train()

    def eval_mode(self) -> None:
        """Switch the models to evaluation mode."""
        self.learner.eval()

    def save(self) -> dict[str, Any]:
        """Return a checkpoint with rsl_rl's keys; the learning rate is in the optimizer's groups as in rsl_rl."""
        saved = {
            "actor_state_dict": self.actor.state_dict(),
            "critic_state_dict": self.critic.state_dict(),
            "optimizer_state_dict": rsl_rl_optimizer_state(self.learner.optimizer, self._parameters()),
        }
        return saved if self._rnd is None else saved | rsl_rl_rnd_state(self._rnd)

    def load(self, loaded_dict: dict, load_cfg: dict | None, strict: bool) -> bool:
        """Load what `load_cfg` names (everything if None) from an rsl_rl checkpoint."""
        wanted = load_cfg or dict.fromkeys(("actor", "critic", "optimizer", "iteration", "rnd"), True)
        if wanted.get("actor"):
            self.actor.load_state_dict(loaded_dict["actor_state_dict"], strict=strict)
        if wanted.get("critic"):
            self.critic.load_state_dict(loaded_dict["critic_state_dict"], strict=strict)
        if wanted.get("optimizer"):
            load_per_parameter_state(self.learner.optimizer, loaded_dict["optimizer_state_dict"])
        if wanted.get("rnd") and self._rnd is not None:
            load_rsl_rl_rnd(loaded_dict, self._rnd)
        return wanted.get("iteration", False)

    def get_policy(self) -> nn.Module:
        """Return rsl_rl's actor model, with the distribution of the last collected step as its output."""
        mean = self.learner.buffer.rows.get("dist/mean")
        if mean is not None:
            # rsl_rl logs the std of the last forward pass, which here happens inside our learner. Without no_grad, the
            # distribution would keep a graph of the default stream alive, which a captured update must not touch.
            with torch.no_grad():
                self.actor.distribution.update(mean[-1])
        return self.actor

    def compile(self, mode: str | None = None) -> None:
        """Do nothing: the learner compiles its losses, not the models, when it is built."""

    def broadcast_parameters(self) -> None:
        """Do nothing: the learner broadcast rank 0's parameters when it was built."""

    def _parameters(self) -> list[nn.Parameter]:
        """Return the parameters that rsl_rl's optimizer would hold, in its order."""
        return list(chain(self.actor.parameters(), self.critic.parameters()))


def _build_models(
    obs: TensorDict, env: Any, cfg: Mapping[str, Any], device: str, *, share_cnn_encoders: bool
) -> tuple[nn.Module, nn.Module]:
    """Build rsl_rl's actor and critic from their sections, which are not changed."""
    resolve = require_rsl_rl("rsl_rl.utils").resolve_callable

    def build(name: str, outputs: int, **extra: Any) -> Any:
        options = copy.deepcopy(cfg[name])
        model_class = resolve(options.pop("class_name"))
        return model_class(obs, cfg["obs_groups"], name, outputs, **options, **extra).to(device)

    actor = build("actor", env.num_actions)
    return actor, build("critic", 1, **({"cnns": actor.cnns} if share_cnn_encoders else {}))


def _context_of(multi_gpu: Mapping[str, Any] | None) -> DistributedContext:
    if not multi_gpu:
        return DistributedContext()
    return DistributedContext(multi_gpu["global_rank"], multi_gpu["local_rank"], multi_gpu["world_size"])


class _RndView:
    """RND's attribute that rsl_rl's runner logs."""

    def __init__(self, term: RND) -> None:
        self._term = term

    @property
    def weight(self) -> float:
        return float(self._term.metrics()["Rnd/weight"])

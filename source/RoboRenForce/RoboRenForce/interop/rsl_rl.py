"""Our PPO inside rsl_rl's own runner, and checkpoints both ways.

Name `RoboRenForce.interop.rsl_rl:PPO` as `algorithm.class_name` of an rsl_rl configuration (mjlab's and Isaac Lab's
`train` pass it through): rsl_rl still builds its models, collects, logs and saves; this class learns, with the
numbers of rsl_rl 5.4 (`parity="rsl_rl_5_4"`) and the speed of ours. Because the models stay rsl_rl's own,
checkpoints, play and export don't change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from ..algorithms.algorithm import RunContext, StepOut
from ..algorithms.loss_terms import SymmetryCfg
from ..algorithms.on_policy.ppo import PPO as Learner  # noqa: N811 - rsl_rl looks for our own class under its name
from ..algorithms.on_policy.ppo import PPOCfg
from ..algorithms.reward_terms import RNDCfg
from ..components.distributions import DiagGaussian, Distribution
from ..components.optimizer import load_per_parameter_state, per_parameter_state
from ..envs.spec import ActionSpec, EnvSpec
from ..networks import MLPCfg
from ..utils.distributed import DistributedContext
from ..utils.optional import require_package

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
"""Options that mean the same in rsl_rl's PPO and in ours."""

OURS = ("cuda_graph", "compile", "precision")
"""Options of ours that an rsl_rl configuration may add."""


class PPO:
    """The algorithm surface that rsl_rl's `OnPolicyRunner` uses, over our learner."""

    def __init__(self, actor: nn.Module, critic: nn.Module, learner: Learner) -> None:
        self.actor: Any = actor
        self.critic: Any = critic
        self.learner = learner
        self.rnd = None
        self.intrinsic_rewards: Tensor | None = None

    @staticmethod
    def construct_algorithm(obs: TensorDict, env: Any, cfg: dict, device: str) -> PPO:
        """Build rsl_rl's models as rsl_rl would and our learner around them."""
        rsl_utils = require_package("rsl_rl.utils", distribution="rsl-rl-lib==5.4.2", purpose="the rsl_rl drop-in")
        for extension in ("rnd_cfg", "symmetry_cfg"):  # rsl_rl's logger looks them up even where they are not used
            cfg["algorithm"].setdefault(extension, None)
        options = dict(cfg["algorithm"])
        options.pop("class_name", None)
        cfg["obs_groups"] = rsl_utils.resolve_obs_groups(obs, cfg["obs_groups"], ["actor", "critic"])
        models = {}
        for name, outputs in (("actor", env.num_actions), ("critic", 1)):
            model_cfg = dict(cfg[name])
            model_class = rsl_utils.resolve_callable(model_cfg.pop("class_name"))
            if name == "critic" and options.pop("share_cnn_encoders", None):
                model_cfg["cnns"] = models["actor"].cnns
            models[name] = model_class(obs, cfg["obs_groups"], name, outputs, **model_cfg).to(device)
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
            obs_groups={name: list(groups) for name, groups in cfg["obs_groups"].items()},
            distributed=_context_of(cfg.get("multi_gpu")),
        )
        learner_cfg = ppo_cfg_from_rsl_rl(options, env=env)
        learner = learner_cfg.build(policy=_RslRlModels(models["actor"], models["critic"]), context=context)
        algorithm = PPO(models["actor"], models["critic"], learner)
        algorithm.rnd = _RndView(learner) if learner.reward_terms else None
        return algorithm

    @property
    def learning_rate(self) -> float:
        """The current learning rate, for rsl_rl's log."""
        return float(self.learner.optimizer.lr)

    def act(self, obs: TensorDict) -> Tensor:
        """Sample actions `(N, A)`."""
        # rsl_rl collects in inference mode; what we store is read by autograd later, so it must be ordinary tensors.
        with torch.inference_mode(mode=False):
            return self.learner.act(obs).action

    def process_env_step(self, obs: TensorDict, rewards: Tensor, dones: Tensor, extras: Mapping[str, Any]) -> None:
        """Record one environment step."""
        time_outs = extras.get("time_outs", torch.zeros_like(dones))
        with torch.inference_mode(mode=False):
            self.learner.record(StepOut(obs, rewards, dones, {"time_outs": time_outs}))

    def compute_returns(self, obs: TensorDict) -> None:
        """Nothing to do: the learner computes returns at the start of `update` from the last recorded observation."""

    def update(self) -> dict[str, float]:
        """Learn; returns rsl_rl's loss names as floats, fetched in one transfer."""
        metrics = {k.removeprefix("Loss/"): v for k, v in self.learner.update().items() if k.startswith("Loss/")}
        metrics.pop("learning_rate")
        return dict(zip(metrics, torch.stack(list(metrics.values())).tolist(), strict=True))

    def train_mode(self) -> None:
        """Switch the models to training mode."""
        self.learner.train()

    def eval_mode(self) -> None:
        """Switch the models to evaluation mode."""
        self.learner.eval()

    def save(self) -> dict[str, Any]:
        """rsl_rl's checkpoint keys; the learning rate travels in the optimizer's groups as in rsl_rl."""
        saved = {
            "actor_state_dict": self.actor.state_dict(),
            "critic_state_dict": self.critic.state_dict(),
            "optimizer_state_dict": per_parameter_state(self.learner.optimizer),
        }
        if self.learner.reward_terms:
            saved["rnd_state_dict"] = self.learner.reward_terms[0].state_dict()
        return saved

    def load(self, loaded_dict: dict, load_cfg: dict | None, strict: bool) -> bool:
        """Load what `load_cfg` names (everything if None) from an rsl_rl checkpoint."""
        wanted = load_cfg or dict.fromkeys(("actor", "critic", "optimizer", "iteration", "rnd"), True)
        if wanted.get("actor"):
            self.actor.load_state_dict(loaded_dict["actor_state_dict"], strict=strict)
        if wanted.get("critic"):
            self.critic.load_state_dict(loaded_dict["critic_state_dict"], strict=strict)
        if wanted.get("optimizer"):
            load_per_parameter_state(self.learner.optimizer, loaded_dict["optimizer_state_dict"])
        if wanted.get("rnd") and self.learner.reward_terms:
            self.learner.reward_terms[0].load_state_dict(loaded_dict["rnd_state_dict"])
        return wanted.get("iteration", False)

    def get_policy(self) -> nn.Module:
        """rsl_rl's actor model, with the distribution of the last collected step as its output."""
        std = self.learner.buffer.dist_params.get("std")
        if std is not None and not self.actor.is_recurrent:
            # rsl_rl logs the std of the last forward pass, which here happens inside our learner. Without no_grad, the
            # distribution would keep a graph of the default stream alive, which a captured update must not touch.
            with torch.no_grad():
                self.actor.distribution.update(self.learner.buffer.dist_params["mean"][-1])
        return self.actor

    def compile(self, mode: str | None = None) -> None:
        """Accepted for rsl_rl's sake: our learner compiles its loss by its own option `compile`."""

    def broadcast_parameters(self) -> None:
        """Nothing to do: the learner broadcast rank 0's parameters when it was built."""


def ppo_cfg_from_rsl_rl(options: Mapping[str, Any], env: Any = None) -> PPOCfg:
    """Translate the `algorithm` section of an rsl_rl configuration; names that neither side knows are refused."""
    options = dict(options)
    if (optimizer := options.pop("optimizer", "adam")) != "adam":
        raise ValueError(
            f"RoboRenForce.interop.rsl_rl:PPO steps with Adam, got optimizer='{optimizer}'. "
            "Use adam, or rsl_rl's own PPO."
        )
    rnd, symmetry = options.pop("rnd_cfg", None), options.pop("symmetry_cfg", None)
    unknown = sorted(set(options) - set(SAME_NAME) - set(OURS))
    if unknown:
        raise ValueError(
            f"rsl_rl options {unknown} have no counterpart in RoboRenForce.interop.rsl_rl:PPO. "
            f"Remove them; known are {', '.join((*SAME_NAME, *OURS, 'rnd_cfg', 'symmetry_cfg'))}."
        )
    return PPOCfg(
        **options,
        parity="rsl_rl_5_4",
        reward_terms=[_rnd_cfg(rnd)] if rnd else [],
        loss_terms=[_symmetry_cfg(symmetry, env)] if symmetry else [],
    )


def _rnd_cfg(options: Mapping[str, Any]) -> RNDCfg:
    schedule = dict(options.get("weight_schedule") or {})
    activation = options.get("activation", "elu")
    return RNDCfg(
        weight=options.get("weight", 0.0),
        weight_schedule=schedule.get("mode", "constant"),
        final_weight=schedule.get("final_value", 0.0),
        initial_step=schedule.get("initial_step", 0),
        final_step=schedule.get("final_step", 1),
        num_outputs=options["num_outputs"],
        predictor_cfg=MLPCfg(hidden_features=list(options["predictor_hidden_dims"]), activations=activation),
        target_cfg=MLPCfg(hidden_features=list(options["target_hidden_dims"]), activations=activation),
        learning_rate=options.get("learning_rate", 1e-3),
        normalize_state=options.get("state_normalization", False),
        normalize_reward=options.get("reward_normalization", False),
    )


def _symmetry_cfg(options: Mapping[str, Any], env: Any) -> SymmetryCfg:
    rsl_utils = require_package("rsl_rl.utils", distribution="rsl-rl-lib==5.4.2", purpose="the rsl_rl drop-in")
    function = rsl_utils.resolve_callable(options["data_augmentation_func"])
    return SymmetryCfg(
        function=_bind_environment(function, env),
        use_data_augmentation=options.get("use_data_augmentation", False),
        use_mirror_loss=options.get("use_mirror_loss", False),
        mirror_loss_coef=options.get("mirror_loss_coeff", 0.0),
    )


def _bind_environment(function: Callable, env: Any) -> Callable:
    """rsl_rl's `f(env=, obs=, actions=)` as our `f(obs, actions)`."""

    def mirror(obs: TensorDict | None, actions: Tensor | None) -> tuple[TensorDict | None, Tensor | None]:
        return function(env=env, obs=obs, actions=actions)

    return mirror


def _context_of(multi_gpu: Mapping[str, Any] | None) -> DistributedContext:
    if not multi_gpu:
        return DistributedContext()
    return DistributedContext(multi_gpu["global_rank"], multi_gpu["local_rank"], multi_gpu["world_size"])


class _RndView:
    """The one attribute of RND that rsl_rl's runner logs."""

    def __init__(self, learner: Learner) -> None:
        self._term = learner.reward_terms[0]

    @property
    def weight(self) -> float:
        return float(self._term.metrics()["Rnd/weight"])


class _RslRlModels(nn.Module):
    """rsl_rl's models in the place of an `ActorCriticPack`; what our learner builds its policy from."""

    def __init__(self, actor: nn.Module, critic: nn.Module) -> None:
        super().__init__()
        self.actor = _ModelView(actor, stochastic=True)
        self.critic = _ModelView(critic, stochastic=False)

    def build(self, *, spec: EnvSpec, obs_groups: Mapping[str, Any]) -> _RslRlModels:
        """The modules exist already."""
        return self


class _ModelView(nn.Module):
    """An rsl_rl model through our interface: `(obs, state, starts) -> (distribution or value, state)`."""

    def __init__(self, model: nn.Module, *, stochastic: bool) -> None:
        super().__init__()
        self.model: Any = model  # rsl_rl's class, which need not be installed where types are checked
        self.stochastic = stochastic
        self.is_recurrent = bool(self.model.is_recurrent)
        if stochastic and type(self.model.distribution).__name__ != "GaussianDistribution":
            raise ValueError(
                f"RoboRenForce.interop.rsl_rl:PPO supports rsl_rl's GaussianDistribution, got "
                f"{type(self.model.distribution).__name__}. Use GaussianDistribution, or rsl_rl's own PPO."
            )

    def initial_state(self, num_envs: int) -> Tensor:
        """Zeros `(layers, N, hidden)`; cell and hidden state side by side for an LSTM."""
        rnn = self.model.rnn.rnn
        width = rnn.hidden_size * (2 if isinstance(rnn, nn.LSTM) else 1)
        return torch.zeros(rnn.num_layers, num_envs, width, device=next(self.parameters()).device)

    def forward(
        self, obs: TensorDict, state: Tensor | None = None, starts: Tensor | None = None
    ) -> tuple[Distribution | Tensor, Tensor | None]:
        """Evaluate one step `(N,)` or, if recurrent, a sequence `(T, N)`."""
        model = self.model
        if self.is_recurrent:
            if state is None or starts is None:
                raise ValueError(
                    "A recurrent model needs its state and the starts of episodes; start with initial_state()."
                )
            latent = model.obs_normalizer(torch.cat([obs[name] for name in model.obs_groups], dim=-1))
            latent, state = _unroll(model.rnn.rnn, latent, state, starts)
        else:
            latent = model.get_latent(obs)
        output = model.mlp(latent).float() if torch.is_autocast_enabled() else model.mlp(latent)
        if not self.stochastic:
            return output.squeeze(-1), state
        return DiagGaussian(output, _std_parameter(model.distribution)), state

    def update_normalizer(self, obs: TensorDict, distributed: DistributedContext | None = None) -> None:
        """Update rsl_rl's own statistics."""
        self.model.update_normalization(obs)


def _std_parameter(distribution: Any) -> Tensor:
    std = distribution.std_param if distribution.std_type == "scalar" else distribution.log_std_param.exp()
    low, high = distribution.std_range
    return std.clamp(low, high)


def _unroll(rnn: nn.Module, x: Tensor, state: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Run nn.GRU or nn.LSTM over `(N, F)` or `(T, N, F)`, zeroing the state of environments that start an episode."""
    sequence = x if x.dim() == 3 else x.unsqueeze(0)
    first = starts if x.dim() == 3 else starts.unsqueeze(0)
    outputs = []
    for x_t, start_t in zip(sequence, first, strict=True):
        state = state.masked_fill(start_t[None, :, None], 0.0)
        if isinstance(rnn, nn.LSTM):
            hidden, cell = (part.contiguous() for part in state.chunk(2, dim=-1))
            y, (hidden, cell) = rnn(x_t.unsqueeze(0), (hidden, cell))
            state = torch.cat([hidden, cell], dim=-1)
        else:
            y, state = rnn(x_t.unsqueeze(0), state.contiguous())
        outputs.append(y[0])
    output = torch.stack(outputs)
    return (output if x.dim() == 3 else output[0]), state

"""rsl_rl's own models in place of our actor and critic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..components.distributions import DiagGaussian, Distribution
from ..components.normalizer import batch_moments
from ..components.observation import Observations
from ..envs.spec import EnvSpec
from ..utils.distributed import DistributedContext
from ..utils.errors import ConfigError
from .rsl_rl_options import DROP_IN, Parity, require_rsl_rl


class RslRlModels(nn.Module):
    """Both models in place of an `ActorCriticPack`; our learner builds its policy from it."""

    def __init__(self, actor: nn.Module, critic: nn.Module, parity: Parity) -> None:
        super().__init__()
        merge_ranks = parity != "rsl_rl_5_4"
        self.actor = _ModelView(actor, stochastic=True, merge_ranks=merge_ranks)
        self.critic = _ModelView(critic, stochastic=False, merge_ranks=merge_ranks)

    def build(self, *, spec: EnvSpec, obs_groups: Mapping[str, Any]) -> RslRlModels:
        """Return the models, which exist already."""
        return self


class _ModelView(nn.Module):
    """rsl_rl model with our interface: `(obs, state, starts) -> (distribution or value, state)`."""

    def __init__(self, model: nn.Module, *, stochastic: bool, merge_ranks: bool) -> None:
        super().__init__()
        self.model: Any = model  # rsl_rl's class, which need not be installed where types are checked
        self.stochastic, self.merge_ranks = stochastic, merge_ranks
        self.is_recurrent = bool(self.model.is_recurrent)
        _require_known(self.model, stochastic)

    def initial_state(self, num_envs: int) -> Tensor:
        """Return zeros `(layers, N, hidden)`; cell and hidden state are concatenated for an LSTM."""
        rnn = self.model.rnn.rnn
        width = rnn.hidden_size * (2 if isinstance(rnn, nn.LSTM) else 1)
        return torch.zeros(rnn.num_layers, num_envs, width, device=next(self.parameters()).device)

    def forward(
        self, obs: Observations, state: Tensor | None = None, starts: Tensor | None = None
    ) -> tuple[Distribution | Tensor, Tensor | None]:
        """Evaluate one step `(N,)` or, if recurrent, a sequence `(T, N)`."""
        model = self.model
        if self.is_recurrent:
            if state is None or starts is None:
                raise ValueError(
                    "A recurrent model needs its state and the starts of episodes; start with initial_state()."
                )
            latent, state = _unroll(model.rnn.rnn, model.obs_normalizer(self._flat(obs)), state, starts)
        else:
            latent = model.get_latent(obs)
        output = model.mlp(latent)
        if output.dtype == torch.bfloat16:  # log-probabilities and values stay in float32 under autocast
            output = output.float()
        if not self.stochastic:
            return output.squeeze(-1), state
        return DiagGaussian(output, _std_parameter(model.distribution)), state

    @torch.no_grad()
    def update_normalizer(
        self, obs: Observations, distributed: DistributedContext | None = None, mask: Tensor | None = None
    ) -> None:
        """Merge a batch of any shape, where `mask` is True, into rsl_rl's statistics, by its formula.

        In place, because captured graphs read these very tensors; rsl_rl replaces `_std` by a new one.
        """
        normalizer = self.model.obs_normalizer
        if not (self.model.obs_normalization and self.training):
            return
        merged = distributed if self.merge_ranks else None
        rows, mean, var = batch_moments(self._flat(obs).flatten(0, -2), merged, mask)
        normalizer.count.add_(rows.to(normalizer.count.dtype))
        rate = rows / normalizer.count
        delta = mean - normalizer._mean
        normalizer._mean.add_(rate * delta)
        normalizer._var.add_(rate * (var - normalizer._var + delta * (mean - normalizer._mean)))
        normalizer._std.copy_(normalizer._var.sqrt())

    def _flat(self, obs: Observations) -> Tensor:
        return torch.cat([obs[name] for name in self.model.obs_groups], dim=-1)


def _require_known(model: Any, stochastic: bool) -> None:
    """Refuse a model whose computation differs from the rsl_rl code that is reproduced here."""
    models = require_rsl_rl("rsl_rl.models")
    kind = type(model)
    if kind.forward is not models.MLPModel.forward or (
        model.is_recurrent and kind.get_latent is not models.RNNModel.get_latent
    ):
        raise ConfigError(
            f"{DROP_IN} supports rsl_rl's MLPModel, RNNModel, CNNModel and classes that keep their forward pass, got "
            f"{kind.__name__}: use one of them, or rsl_rl's own PPO."
        )
    if stochastic and type(model.distribution).__name__ != "GaussianDistribution":
        raise ConfigError(
            f"{DROP_IN} supports rsl_rl's GaussianDistribution, got {type(model.distribution).__name__}: use "
            "GaussianDistribution, or rsl_rl's own PPO."
        )


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

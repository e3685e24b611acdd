"""The action expert of pi0 (arXiv 2410.24164) and pi0.5 (2504.16054): a small Gemma beside the vision-language model.

Its tokens are the actions of a chunk. In every layer they attend to one another and to the keys and values of the
backbone's tokens in the same layer, which are computed once per observation (`Prefix.key_values`).

    pi0    time and action -> MLP -> token; one more token is the state, which the actions see and which sees no action
    pi0.5  action -> token; the time scales, shifts and gates every layer (adaRMS)

Weights of the authors know another time, tau = 1 - t, and the velocity from actions to noise, -v.

Shape letters: B observations, H actions of a chunk, A dimensions of an action, D width, N layers, P backbone's tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from ..configclass import Range, configclass
from ..utils.errors import ConfigError
from ..utils.precision import full_precision, weights_cast_once
from .denoiser import Context, Denoiser, DenoiserCfg, time_embedding
from .vlm.backbone import Taps
from .vlm.gemma import Gemma, GemmaCfg
from .vlm.prefix import Prefix

Variant = Literal["pi0", "pi05"]


class ActionExpert(Denoiser):
    """See the module."""

    def __init__(self, cfg: ActionExpertCfg, *, chunk_size: int, action_dim: int, width: int, state_dim: int) -> None:
        super().__init__()
        self.cfg, self.chunk = cfg, (chunk_size, action_dim)
        dim, adaptive = cfg.gemma.width, cfg.variant == "pi05"
        self.action_in_proj, self.action_out_proj = nn.Linear(action_dim, dim), nn.Linear(dim, action_dim)
        if adaptive:
            self.time_mlp_in, self.time_mlp_out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        else:
            if state_dim > cfg.state_dim:
                raise ConfigError(
                    f"The data has a state of {state_dim} numbers and the expert reads {cfg.state_dim}: set "
                    f"head.network.state_dim={state_dim}, without published weights."
                )
            self.state_proj = nn.Linear(cfg.state_dim, dim)
            self.action_time_mlp_in, self.action_time_mlp_out = nn.Linear(2 * dim, dim), nn.Linear(dim, dim)
        self.gemma = Gemma(cfg.gemma, adaptive=adaptive)

    @override
    def encode(self, prefix: Prefix) -> Context:
        key_values, mask = self._read(prefix)
        if self.cfg.variant == "pi0":
            mask = F.pad(mask, (0, 1), value=True)
            positions = (mask.sum(1, keepdim=True) - 1).clamp(min=0)
            _, own = self.gemma(self._state_token(prefix), positions, mask, key_values)
            key_values = torch.cat([key_values.to(own.dtype), own], -2)
        return {"key_values": key_values, "mask": mask}

    @override
    def forward(self, x: Tensor, time: Tensor, context: Context) -> Tensor:
        return self._velocity(*self._after(x, time, context))

    @override
    def many_passes(self) -> AbstractContextManager[None]:
        return weights_cast_once(self.gemma.layers)

    @override
    def predict(self, x: Tensor, time: Tensor, prefix: Prefix) -> Tensor:
        return self._velocity(*self._beside(x, time, prefix))

    def features(self, prefix: Prefix) -> Tensor:
        """Last features of the actions `(B, H, D)`, of one pass whose chunk is zero and whose time is 0.

        They are a function of the observation alone, as what a value reads has to be: features of the pass that sampled
        a chunk would also know its noise, and a value that predicts the return of noise takes it from the advantage.
        At time 0 chunks are noise, whose mean is zero: the network has learned from inputs around this one.
        """
        x = torch.zeros(len(prefix.state), *self.chunk, device=prefix.state.device)
        hidden, condition = self._beside(x, x.new_zeros(len(x)), prefix)
        return self.gemma.normalized(hidden, condition)

    def _after(self, x: Tensor, time: Tensor, context: Context) -> tuple[Tensor, Tensor | None]:
        """Output of the last layer `(B, H, D)` behind an encoded observation, and the condition of its layers."""
        mask = F.pad(context["mask"], (0, x.shape[1]), value=True)
        positions = mask[:, -x.shape[1] :].cumsum(1) + context["mask"].sum(1, keepdim=True) - 1
        tokens, condition = self._embedded(x, time)
        hidden, _ = self.gemma(tokens, positions, mask, context["key_values"], condition)
        return hidden[-1], condition

    def _beside(self, x: Tensor, time: Tensor, prefix: Prefix) -> tuple[Tensor, Tensor | None]:
        """`_after` for an observation that is read this once."""
        if self.cfg.variant == "pi05":
            return self._after(x, time, self.encode(prefix))
        # The state is one token more of the same pass, which sees no action: a pass of its own is as many kernels.
        key_values, there = self._read(prefix)
        tokens, condition = self._embedded(x, time)
        tokens = torch.cat([self._state_token(prefix).to(tokens.dtype), tokens], 1)
        count = tokens.shape[1]
        among = torch.ones(count, count, dtype=torch.bool, device=x.device)
        among[0, 1:] = False
        seen = [there.unsqueeze(1).expand(-1, count, -1), among.expand(len(x), -1, -1)]
        positions = there.sum(1, keepdim=True) + torch.arange(count, device=x.device)
        hidden, _ = self.gemma(tokens, positions, torch.cat(seen, -1), key_values, condition)
        return hidden[-1][:, 1:], condition

    def _state_token(self, prefix: Prefix) -> Tensor:
        """The state of pi0 `(B, 1, D)`."""
        state = F.pad(prefix.state, (0, self.cfg.state_dim - prefix.state.shape[1]))
        return self.state_proj(state.to(self.state_proj.weight.dtype)).unsqueeze(1)

    def _velocity(self, hidden: Tensor, condition: Tensor | None) -> Tensor:
        """Output of the last layer to float32 `(B, H, A)`."""
        y = self.gemma.normalized(hidden, condition)
        with full_precision(y.device):
            return -self.action_out_proj(y.to(self.action_out_proj.weight.dtype)).float()

    def _read(self, prefix: Prefix) -> tuple[Tensor, Tensor]:
        if prefix.key_values is None or prefix.key_mask is None:
            raise ConfigError(
                "The action expert attends to the keys and values of a PaliGemma, and this backbone gives none: take "
                "backbone=PaliGemmaCfg(), or another network."
            )
        gemma, found = self.cfg.gemma, prefix.key_values
        expected = (gemma.num_layers, 2, gemma.num_kv_heads, gemma.head_dim)
        got = (*found.shape[1:4], found.shape[5])
        if got != expected:
            raise ConfigError(
                f"The backbone's keys are (layers, 2, heads, width) {list(got)} and the action expert's "
                f"{list(expected)}: give both Gemmas the same num_layers, num_kv_heads and head_dim."
            )
        return found.detach() if self.cfg.insulated else found, prefix.key_mask

    def _embedded(self, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens `(B, H, D)`, and in pi0.5 the condition `(B, 1 or H, D)`."""
        dtype, dim = self.action_in_proj.weight.dtype, self.cfg.gemma.width
        with full_precision(x.device):  # a small part of the work, and the one that log-probabilities feel most
            tokens = self.action_in_proj(x.to(dtype))
            when = time_embedding(1.0 - time.double(), dim).to(dtype).reshape(len(x), -1, dim)
            if self.cfg.variant == "pi05":
                return tokens, F.silu(self.time_mlp_out(F.silu(self.time_mlp_in(when))))
            merged = torch.cat([tokens, when.expand(-1, x.shape[1], -1)], -1)
            return self.action_time_mlp_out(F.silu(self.action_time_mlp_in(merged))), None


@configclass
class ActionExpertCfg(DenoiserCfg):
    """Configuration of an `ActionExpert`; the default is that of pi0.5."""

    class_type: type = ActionExpert
    time_per_action: ClassVar[bool] = True

    variant: Variant = "pi05"
    """Which model's."""
    gemma: GemmaCfg = GemmaCfg(width=1024, mlp_width=4096)
    """Layers; number, heads and head width are those of the backbone's language model."""
    action_dim: Annotated[int, Range(ge=1, le=1024)] | None = 32
    """Dimensions of the actions in the weights; those of the robot are the first of them, and the noise of the others
    goes through the network as it did when the weights were trained. None: those of the robot."""
    state_dim: Annotated[int, Range(ge=1, le=1024)] = 32
    """Numbers of the state in the weights of pi0; those of the robot are the first, the others are zero."""
    insulated: bool = False
    """Knowledge insulation (arXiv 2505.23705): keep the gradient of the actions from the vision-language model."""

    @override
    def taps(self) -> Taps:
        return Taps(key_values=True, reads_tokens=False, reads_mean=False)

    @override
    def without_adapters(self) -> ActionExpertCfg:
        return self.replace(gemma=self.gemma.without_adapters())

    @override
    def chunk_dim(self, action_dim: int) -> int:
        return action_dim if self.action_dim is None else max(self.action_dim, action_dim)

    def check(self) -> Iterable[str]:
        """Sentences on a width that sines and cosines do not fill."""
        if self.gemma.width % 2:
            yield f"gemma.width: {self.gemma.width} is odd; sines and cosines of the time come in pairs"

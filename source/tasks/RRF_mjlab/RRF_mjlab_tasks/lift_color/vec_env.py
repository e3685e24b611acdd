"""The environment of LiftColor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..mjlab_env import MJLabVecEnv
from . import terms
from .env_cfg import LiftColorEnvCfg


class LiftColorVecEnv(MJLabVecEnv):
    """mjlab's environment with `extras["instruction"]`, the text that each row is given for its episode."""

    cfg: LiftColorEnvCfg

    def __init__(self, cfg: LiftColorEnvCfg) -> None:
        super().__init__(cfg)
        if cfg.language:
            self.spec = replace(self.spec, extras=(*self.spec.extras, "instruction"))
        if self._fast is None and not (cfg.noise or cfg.vary_friction):
            self.spec = replace(self.spec, capabilities=("reset_rows", "step_rows"))

    def _state_extras(self) -> dict[str, Any]:
        extras = super()._state_extras()
        return {**extras, "instruction": self._instructions()} if self.cfg.language else extras

    def _instructions(self) -> list[str]:
        term, cfg = self.env.command_manager.get_term(terms.COMMAND), self.cfg
        rows = zip(term.target.tolist(), term.template.tolist(), strict=True)
        return [cfg.templates[template].format(cfg.colors[target]) for target, template in rows]

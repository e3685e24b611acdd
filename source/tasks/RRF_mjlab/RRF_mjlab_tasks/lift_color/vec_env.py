"""The environment of LiftColor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from RoboRenForce.envs import InstructionTable, add_instructions

from ..mjlab_env import MJLabVecEnv
from . import terms
from .env_cfg import LiftColorEnvCfg


class LiftColorVecEnv(MJLabVecEnv):
    """mjlab's environment with `extras["instruction"]`, the text that each row is given for its episode."""

    cfg: LiftColorEnvCfg

    def __init__(self, cfg: LiftColorEnvCfg) -> None:
        super().__init__(cfg)
        self._table: InstructionTable = {}
        if cfg.language:
            add_instructions(self._table, [text.format(color) for text in cfg.templates for color in cfg.colors])
            self.spec = replace(self.spec, extras=(*self.spec.extras, "instruction"))
        if self._rows_are_separate():
            self.spec = replace(self.spec, capabilities=("reset_rows", "step_rows"))

    def _rows_are_separate(self) -> bool:
        return not (self.cfg.noise or self.cfg.vary_friction)

    @property
    def instruction_table(self) -> InstructionTable:
        """All texts that rows may be given."""
        return self._table

    def _state_extras(self) -> dict[str, Any]:
        extras = super()._state_extras()
        return {**extras, "instruction": self._instructions()} if self.cfg.language else extras

    def _instructions(self) -> list[str]:
        term, cfg = self.env.command_manager.get_term(terms.COMMAND), self.cfg
        rows = zip(term.target.tolist(), term.template.tolist(), strict=True)
        return [cfg.templates[template].format(cfg.colors[target]) for target, template in rows]

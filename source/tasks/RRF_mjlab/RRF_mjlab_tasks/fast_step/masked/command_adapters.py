"""Which adapter runs a command term."""

from __future__ import annotations

from mjlab.envs import ManagerBasedRlEnv
from mjlab.managers.command_manager import CommandTerm
from mjlab.tasks.manipulation.mdp.commands import LiftingCommand, MultiCubeLiftingCommand
from mjlab.tasks.tracking.mdp.commands import MotionCommand
from mjlab.tasks.velocity.mdp.velocity_command import UniformVelocityCommand

from .commands import CommandRows, LiftingRows, VelocityRows
from .motion_command import MotionRows
from .rows import RowCaller


def adapt_commands(env: ManagerBasedRlEnv, rows: RowCaller) -> dict[str, CommandRows | None]:
    """Return name -> adapter of every command term, None if none reproduces the term."""
    terms = {name: (term, _adapter_of(term)) for name, term in env.command_manager._terms.items()}
    return {name: None if adapter is None else adapter(term, rows) for name, (term, adapter) in terms.items()}


def _adapter_of(term: CommandTerm) -> type[CommandRows] | None:
    if type(term) is UniformVelocityCommand:
        return VelocityRows
    if type(term) in (LiftingCommand, MultiCubeLiftingCommand):
        return LiftingRows
    if type(term) is MotionCommand:
        return MotionRows
    inherits = type(term).compute is CommandTerm.compute and type(term).reset is CommandTerm.reset
    return CommandRows if inherits else None

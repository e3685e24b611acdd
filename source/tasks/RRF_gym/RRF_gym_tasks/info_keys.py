"""Contents of an environment's `info`: the success of a finished episode, and the parts of the reward.

Gymnasium has no rule about it. Some environments write their success at every step, some only with the last one, some
only after a success. So a whole episode is inspected before training, and keys that it didn't show are not guessed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from RoboRenForce.utils.errors import EnvContractError, UserError

from .host_env import SUCCESS_KEYS
from .make_gym import make_env, reset, return_check, step_limit

if TYPE_CHECKING:
    from .gym_env import GymEnvCfg

_log = logging.getLogger(__name__)

_ENOUGH_STEPS, _MOST_STEPS = 200, 1000


class InfoReader:
    """Reader of success and reward terms in the `info` of one kind of environment.

    Attributes:
        success_key: Key of the success; None if there is none.
    """

    def __init__(self, cfg: GymEnvCfg) -> None:
        self._cfg = cfg
        self._noticed = cfg.success_key != "auto"
        self.success_key: str | None = None
        if cfg.success_key is None and not cfg.reward_terms:
            return
        keys = _find_keys(cfg)
        if missing := [name for name in cfg.reward_terms if name not in keys.always]:
            raise UserError(
                f"GymEnvCfg.reward_terms names {missing}, but the info of {cfg.env_id} has {sorted(keys.always)} at "
                f"every step: name some of these."
            )
        self.success_key = cfg.success_key
        if cfg.success_key == "auto":
            self.success_key = next((key for key in SUCCESS_KEYS if key in keys.ever), None)
        elif cfg.success_key not in (None, *keys.ever) and keys.whole and not cfg.success_key_optional:
            raise UserError(
                f"GymEnvCfg.success_key is '{cfg.success_key}', but the info of {cfg.env_id} has {sorted(keys.ever)} "
                f"in a whole episode: name one of these, or set success_key_optional=true if it is there only where "
                f"the task succeeded."
            )
        self._between_ends = self.success_key in keys.between

    def succeeded(self, info: dict[str, Any], terminated: bool) -> bool:
        """Return True if the episode that ended with `info` succeeded.

        If the key is absent this is only certain of an episode that was cut before the environment could write it.
        """
        key = self.success_key
        if key is None:
            self._notice(info)
            return False
        if key in info:
            return bool(info[key])
        if self._cfg.success_key_optional or not (terminated or self._between_ends):
            return False
        raise EnvContractError(
            f"{self._cfg.env_id}: an episode {'terminated' if terminated else 'was cut'} without '{key}' in its info, "
            f"which has {sorted(info)}, expected it wherever an episode ends; write it there, or set "
            f"env.success_key_optional=true if it is there only where the task succeeded."
        )

    def reward_terms(self, info: dict[str, Any]) -> list[float]:
        """Return the parts of a step's reward."""
        try:
            return [info[name] for name in self._cfg.reward_terms]
        except KeyError as error:
            raise EnvContractError(
                f"{self._cfg.env_id}: a step's info lacks {error}, which GymEnvCfg.reward_terms names; it has "
                f"{sorted(info)}. Write it at every step, or leave it out of reward_terms."
            ) from error

    def _notice(self, info: dict[str, Any]) -> None:
        """Log once that a success rate is available."""
        key = next((key for key in SUCCESS_KEYS if key in info), None)
        if key is not None and not self._noticed:
            self._noticed = True
            _log.warning(
                "%s tells '%s' at the end of an episode, which the first one didn't show: set env.success_key=%s to "
                "have a success rate.",
                *(self._cfg.env_id, key, key),
            )


@dataclass
class _Keys:
    """Keys of `info` over one episode, or the start of a long one."""

    always: set[str] = field(default_factory=set)
    """Keys in the info of every step."""
    ever: set[str] = field(default_factory=set)
    between: set[str] = field(default_factory=set)
    """Keys in the info of a step that didn't end the episode."""
    whole: bool = False
    """True if the episode was played to its end."""


def _find_keys(cfg: GymEnvCfg) -> _Keys:
    """Play an episode of a spare copy; longer if the user's success key hasn't been seen."""
    found, env, limit = _Keys(), make_env(cfg, pictures=False), step_limit(cfg)
    check = return_check(env, cfg)
    env.action_space.seed(cfg.seed)
    check.reset(reset(env, cfg, cfg.seed))
    for step in range(1, _MOST_STEPS + 1):
        _, _, terminated, truncated, info = check.step(env.step(env.action_space.sample()))
        found.always = info.keys() & found.always if found.ever else set(info)
        found.ever |= info.keys()
        found.whole = bool(terminated or truncated or step == limit)
        if found.whole or (step >= _ENOUGH_STEPS and cfg.success_key in (None, "auto", *found.ever)):
            break
        found.between |= info.keys()
    env.close()
    return found

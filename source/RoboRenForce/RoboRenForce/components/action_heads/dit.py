"""The flow head on a diffusion transformer (as in GR00T N1, arXiv 2503.14734): a network, and this preset."""

from __future__ import annotations

from ...configclass import configclass
from ...networks import DenoiserCfg, DiTCfg
from .flow import FlowHeadCfg


@configclass
class DiTHeadCfg(FlowHeadCfg):
    """Configuration of a `FlowHead` whose network attends to all tokens of the prefix."""

    network: DenoiserCfg = DiTCfg()

"""Recorded data on its way to a learner."""

from .loader import Loader, LoaderCfg
from .order import SampleOrder
from .samples import Samples, SamplesCfg

__all__ = ["Loader", "LoaderCfg", "SampleOrder", "Samples", "SamplesCfg"]

"""Fine-tune a VLA policy on demonstrations."""

from __future__ import annotations

from ..configclass import configclass
from ..data.loader import DataLoaderCfg
from .vla_pretrain_runner import VLAPretrainRunner, VLAPretrainRunnerCfg


class VLASFTRunner(VLAPretrainRunner):
    """The same loop, shorter and from the weights of `algorithm.init_from`."""


@configclass
class VLASFTRunnerCfg(VLAPretrainRunnerCfg):
    """Configuration of `VLASFTRunner`."""

    class_type: type = VLASFTRunner

    loader: DataLoaderCfg = DataLoaderCfg(batch_size=16, num_workers=4)
    epochs = 5.0

"""What others read beside the weights of pi0 and pi0.5: `config.json` and statistics, written from a policy of ours."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from ..networks import ActionExpertCfg
from ..networks.vlm import PaliGemmaCfg
from ..utils.errors import CheckpointError
from ..utils.key_map import KeyMap
from ..utils.run_dir import replacing
from ..utils.safetensors_file import write_tensors
from .action_heads import FlowHeadCfg
from .openpi_weights import LEROBOT, OPENPI, TRANSFORMERS
from .vla_policy import VLAPolicy

logger = logging.getLogger(__name__)

LEFT_OUT = {
    OPENPI.name: (
        "openpi takes all else from a training configuration: give one with this action_horizon, and move "
        "assets/norm_stats.json into assets/<its asset_id>/."
    ),
    LEROBOT.name: (
        "LeRobot's policy_preprocessor.json and policy_postprocessor.json are not written, for they depend on its "
        "version: make_pre_post_processors(config, dataset_stats=...) makes them from the statistics in "
        "policy_preprocessor_step_2_normalizer_processor.safetensors."
    ),
    TRANSFORMERS.name: (
        "transformers normalizes nothing: the statistics are in assets/norm_stats.json. The names are those of "
        "PI0ForConditionalGeneration.state_dict(); config.json holds what differs from PI0Config()."
    ),
}
"""What `write_published` leaves to the reader of a layout."""
_STATISTICS_FILES = (
    "policy_preprocessor_step_2_normalizer_processor.safetensors",
    "policy_postprocessor_step_0_unnormalizer_processor.safetensors",
)


def described_policy(policy: VLAPolicy, layout: KeyMap) -> dict[str, Any]:
    """Return the content of `config.json`; a warning names what a reader of the layout can't be told.

    Raises:
        CheckpointError: it is no policy of the pi family.
    """
    (backbone, head, network), preprocessing = _parts(policy), policy.cfg.preprocessing
    if preprocessing.relative_actions:
        logger.warning(
            "The actions %s of this policy are relative to the state, which no file says: tell the reader (openpi: "
            "DeltaActions and AbsoluteActions; LeRobot: use_relative_actions).",
            [action for action, _ in preprocessing.relative_actions],
        )
    dims = policy.head.chunk_dim
    if layout is OPENPI:
        found: dict[str, Any] = {"action_dim": dims, "action_horizon": head.chunk_size}
        return found | ({"discrete_state_input": backbone.state_in_prompt} if network.variant == "pi05" else {})
    found = {"chunk_size": head.chunk_size, "num_inference_steps": head.num_steps, "max_action_dim": dims}
    if layout is TRANSFORMERS:
        return {"model_type": "pi0", **found, "max_state_dim": network.state_dim}
    in_prompt = policy.spec.state.dim if backbone.prompt_state_dim is None else backbone.prompt_state_dim
    if network.variant == "pi05" and not backbone.state_in_prompt:
        logger.warning("LeRobot always writes the state into the prompt of pi0.5, and this policy learned without it.")
    method = "QUANTILES" if network.variant == "pi05" else "MEAN_STD"
    images = {
        f"observation.images.{camera}": {"type": "VISUAL", "shape": [3, *policy.backbone.image_size]}
        for camera in policy.spec.cameras
    }
    return {
        "type": network.variant,
        **found,
        "n_action_steps": head.chunk_size,
        "max_state_dim": in_prompt if network.variant == "pi05" else network.state_dim,
        "tokenizer_max_length": backbone.padded_text,
        "input_features": images | {"observation.state": {"type": "STATE", "shape": [policy.spec.state.dim]}},
        "output_features": {"action": {"type": "ACTION", "shape": [policy.spec.action.dim]}},
        "normalization_mapping": {"VISUAL": "IDENTITY", "STATE": method, "ACTION": method},
    }


def published_statistics(policy: VLAPolicy, what: str) -> dict[str, list[float]]:
    """Statistics of `state` or `action` by which others normalize as the policy does.

    They have no floor and no dimensions that stay as they are, so what the variant's method reads is computed back from
    our normalizer; other statistics are those of the data.
    """
    spec, normalizer = getattr(policy.spec, what), getattr(policy.preprocessing, what)
    cfg, (_, _, network) = getattr(policy.cfg.preprocessing, what), _parts(policy)
    method = "quantile" if network.variant == "pi05" else "mean_std"
    found = {name: list(values) for name, values in spec.statistics.items()}
    if cfg.as_published and cfg.method == method:
        return found
    center, scale = normalizer.center.double().cpu(), normalizer.scale.double().cpu()
    pairs = {
        "quantile": {"q01": center - scale, "q99": center + scale},
        "mean_std": {"mean": center, "std": scale},
    }
    return found | {name: value.tolist() for name, value in pairs[method].items()}


def write_lerobot_statistics(policy: VLAPolicy, target: Path) -> None:
    """Write the statistics as the two steps of LeRobot that normalize keep them."""
    keys = {"observation.state": "state", "action": "action"}
    tensors = {
        f"{theirs}.{name}": torch.tensor(values, dtype=torch.float32)
        for theirs, mine in keys.items()
        for name, values in published_statistics(policy, mine).items()
    }
    shapes = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    for name in _STATISTICS_FILES:
        with replacing(target / name) as file:
            write_tensors(file, shapes, tensors.__getitem__)


def _parts(policy: VLAPolicy) -> tuple[PaliGemmaCfg, FlowHeadCfg, ActionExpertCfg]:
    backbone, head = policy.cfg.backbone, policy.cfg.head
    network = head.network if isinstance(head, FlowHeadCfg) else None
    if not (
        isinstance(backbone, PaliGemmaCfg) and isinstance(head, FlowHeadCfg) and isinstance(network, ActionExpertCfg)
    ):
        raise CheckpointError(
            f"The policy has {type(backbone).__name__} and {type(head).__name__}, expected PaliGemma and a flow head "
            "with an action expert: export it as it is (`rrf play --export`)."
        )
    return backbone, head, network

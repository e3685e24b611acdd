"""The table of memory: computed sizes against a count by hand, and the page against the result files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.contract


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return lambda name: __import__(name)


def test_the_least_memory_follows_from_types_and_what_is_trained(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    from RoboRenForce.networks.vlm import Qwen3VLCfg, qwen

    monkeypatch.setattr(qwen, "build_architecture", qwen.build_architecture)  # undone afterwards
    numbers = bench("vla_memory").computed("small")
    policy = bench("vla_sft_vs_hf").policy_cfg("full", "small")
    backbone = Qwen3VLCfg(**vars(policy.backbone)).build(num_cameras=1, state_dim=8)
    parameters = sum(parameter.numel() for parameter in backbone.parameters())
    assert numbers["full_gib"] == pytest.approx(parameters * 16 / 2**30, abs=0.02)
    assert numbers["acting_gib"] == pytest.approx(parameters * 2 / 2**30, abs=0.01)
    assert numbers["acting_gib"] < numbers["LoRA_gib"] < numbers["full_gib"]


def test_the_page_shows_what_the_files_say_and_whether_it_was_measured(bench: Any, tmp_path: Path) -> None:
    make_tables, page = bench("make_tables"), (ROOT / "docs/vla/models.md").read_text(encoding="utf-8")
    shown = make_tables.MEMORY.search(page)
    assert shown and shown[0] == make_tables.memory(ROOT / "benchmarks/results"), "run python benchmarks/make_tables.py"

    rows = {"Qwen/Big-Instruct": {"acting_gib": 4.0, "LoRA_gib": 5.0, "full_gib": 32.0}}
    (tmp_path / "vla_memory_computed.json").write_text(json.dumps({"results": rows}))
    text = make_tables.memory(tmp_path)
    assert "not measured" in text and "| Big | 4.0 | 5.0 | 32.0 |" in text
    peaks = {"Qwen/Big-Instruct": {"acting_gib": 4.3, "LoRA_gib": 6.2, "full_gib": None}}
    facts = {"hardware": {"gpus": ["NVIDIA H200"]}, "arguments": {"batch_size": 8}}
    (tmp_path / "vla_memory.json").write_text(json.dumps({"results": peaks, **facts}))
    text = make_tables.memory(tmp_path)
    assert "measured on one NVIDIA H200" in text and "| Big | 4.3 (4.0) | 6.2 (5.0) | does not fit (32.0) |" in text

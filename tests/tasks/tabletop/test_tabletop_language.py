"""What is asked for: sentences, ids, pairs of colours that are held out, and the exchanged instruction."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from RoboRenForce.envs import instruction_id
from RRF_tabletop_tasks import TabletopCfg
from RRF_tabletop_tasks.language import COLOURS, TEMPLATES, default_held_out
from RRF_tabletop_tasks.registration import vla_cfg
from RRF_tabletop_tasks.tabletop_env import TabletopEnv

NAMES = list(COLOURS)


def asked(env: TabletopEnv) -> list[tuple[str, str]]:
    """Colours of block and plate that each row has to bring together, by what is on its table."""
    scene = env.scene
    rows = torch.arange(len(scene.goal))
    blocks = scene.block_colour[rows, scene.goal[:, 0]].tolist()
    plates = scene.plate_colour[rows, scene.goal[:, 1]].tolist()
    return [(NAMES[block], NAMES[plate]) for block, plate in zip(blocks, plates, strict=True)]


def table(**options: Any) -> TabletopEnv:
    return TabletopCfg(num_envs=600, cameras=[], **options).build()  # type: ignore[return-value]


def test_the_sentence_says_what_counts_as_success() -> None:
    env = table(num_templates=4)
    _, extras = env.reset(seed=0)
    used = set()
    for text, (block, plate) in zip(extras["instruction"], asked(env), strict=True):
        possible = [template.format(block=block, plate=plate) for template in TEMPLATES["Place"]]
        assert text in possible
        used.add(possible.index(text))
    assert used == {0, 1, 2, 3}


def test_held_out_pairs_are_never_asked_for_in_training_and_always_in_their_test() -> None:
    held_out = {tuple(pair) for pair in default_held_out(NAMES)}
    train, test = table(), table(pairs="held_out")
    seen: set[tuple[str, str]] = set()
    for _ in range(5):
        seen |= set(asked(train))
        assert set(asked(test)) == held_out
        train.reset()
        test.reset()
    assert not seen & held_out
    assert len(seen) == len(NAMES) ** 2 - len(held_out)  # every other pair is learned
    # Each word of a held-out pair is known from others: what is new is the combination.
    assert {block for block, _ in seen} == {plate for _, plate in seen} == set(NAMES)
    for env in (train, test):
        for colours in (env.scene.block_colour, env.scene.plate_colour):
            assert all(len(set(row)) == len(row) for row in colours.tolist())


def test_own_pairs_can_be_held_out() -> None:
    pairs = [["red", "blue"], ["blue", "red"]]
    assert set(asked(table(pairs="held_out", held_out=pairs))) == {("red", "blue"), ("blue", "red")}
    assert not set(asked(table(held_out=pairs))) & {("red", "blue"), ("blue", "red")}


@pytest.mark.parametrize("what", ["block", "plate"])
def test_an_exchanged_instruction_asks_for_another_object_of_the_same_scene(what: Any) -> None:
    usual, other = table(), table(exchange=what)
    for name in ("blocks", "plates", "block_colour", "plate_colour", "hand"):
        assert torch.equal(getattr(usual.scene, name), getattr(other.scene, name))
    held_out = {tuple(pair) for pair in default_held_out(NAMES)}
    for first, second in zip(asked(usual), asked(other), strict=True):
        changed = [a != b for a, b in zip(first, second, strict=True)]
        assert changed == [what == "block", what == "plate"]
        assert second not in held_out  # it could have been asked in training


def test_texts_of_all_instructions_are_known_before_they_come() -> None:
    env = vla_cfg("Reach", num_envs=2, image_size=32, num_templates=3).build()
    expected = {template.format(block=name) for template in TEMPLATES["Reach"] for name in NAMES}
    assert set(env.instruction_table.values()) == expected
    for _ in range(5):
        obs, extras = env.reset()
        assert obs["instruction_id"].flatten().tolist() == [instruction_id(text) for text in extras["instruction"]]
        assert set(extras["instruction"]) <= expected


def test_instructions_change_with_the_episode_and_final_ones_stay() -> None:
    env = vla_cfg("Place", num_envs=8, image_size=32, max_episode_length=4).build()
    obs = env.reset(seed=0)[0].clone()
    texts = env.instructions
    after, _, dones, extras = env.step(torch.zeros(8, 4, 3))
    assert dones.all()
    assert torch.equal(extras["final_observations"]["instruction_id"], obs["instruction_id"])
    assert extras["instruction"] != texts
    assert after["instruction_id"].flatten().tolist() == [instruction_id(text) for text in extras["instruction"]]


def test_without_language_there_are_no_texts() -> None:
    env = table(language=False)
    assert "instruction" not in env.spec.extras and not env.instruction_table
    assert "instruction" not in env.step(torch.zeros(600, 3))[3]

"""Counts in battles: real numbers, and names of units of several kinds."""

import numpy as np
import pytest

from lemae import StateEntry, TaskSpec
from lemae.baselines.count import CountBonus, groups_by_unit
from lemae.errors import ConfigError
from lemae.integrations.smacv2 import feature_names


def task(*names, high=1.0, integer=False):
    entries = tuple(StateEntry(name, 0, high, integer=integer) for name in names)
    return TaskSpec("battle", "Win.", "", entries, 2, ("go", "stay"), 10)


def test_units_are_counted_each_by_itself():
    names = ("ally 0 health", "ally 0 x", "ally 1 x", "enemy 0 x", "time", "enemy 0 team")
    assert groups_by_unit(task(*names)) == ((0, 1, 4), (2, 4), (3, 4, 5))


def test_units_of_smac_are_known_by_its_names():
    names = feature_names(3, 2, 7, ally_shield=True, type_bits=2, timestep=True)
    groups = groups_by_unit(task(*names))
    assert len(groups) == 5
    assert [names[i] for i in groups[1]] == [
        *(f"ally_{number}_1" for number in ("health", "cooldown", "relative_x", "relative_y")),
        *("ally_shield_1", "ally_unit_type_1_bit_0", "ally_unit_type_1_bit_1"),
        *(f"ally_last_action_1_action_{action}" for action in range(7)),
        "timestep",
    ]
    assert [names[i] for i in groups[4]] == [
        *(f"enemy_{number}_1" for number in ("health", "relative_x", "relative_y")),
        *("enemy_unit_type_1_bit_0", "enemy_unit_type_1_bit_1", "timestep"),
    ]


def test_a_battle_has_states_that_come_again():
    """Random battles are never twice the same as a whole; places and health of a unit are."""
    names = [f"{side} {i} {n}" for side in ("ally", "enemy") for i in range(5) for n in "xy"]
    states = np.random.default_rng(0).random((5000, len(names)))
    for groups, share in ((groups_by_unit(task(*names)), 1), ([range(len(names))], 0)):
        made = CountBonus.for_task(task(*names), groups=groups)
        made.learn(states[:4000])
        assert (made.counts(states[4000:]) > 0).mean() == share


def test_what_cannot_be_counted_is_refused():
    names = [f"number {i}" for i in range(12)]
    with pytest.raises(ConfigError, match=r"'battle' has about 10\^12 cells.* give groups"):
        CountBonus.for_task(task(*names))
    with pytest.raises(ConfigError, match=r"about 10\^18 cells"):
        CountBonus.for_task(task(*names, high=29, integer=True))
    assert CountBonus.for_task(task(*names), bins=2).groups == (tuple(range(12)),)
    assert CountBonus.for_task(task(*names), width=0.5).groups == (tuple(range(12)),)
    assert CountBonus.for_task(task(*names), groups=[(0, 1)]).groups == ((0, 1),)
    assert CountBonus.for_task(task(*names[:6], high=29, integer=True)).groups

"""What a run takes from its task: shipped key states, and the scale of its distances."""

import re
from dataclasses import replace

import numpy as np
import pytest

from lemae import KeyStateSet, StateEntry, TaskSpec, envs
from lemae.errors import ConfigError
from lemae.guidance import Guidance, load_key_states
from lemae.settings import Settings

ENTRIES = (
    StateEntry("ally 0 health", 0, 1, integer=False),
    StateEntry("ally 0 x", -2, 30, integer=False),
    StateEntry("ally 0 is a zealot", 0, 1),
    StateEntry("ally 0 is a marine", 0, 0),
)
BATTLE = TaskSpec("battle", "Win.", "", ENTRIES, 1, ("go", "stay"), 10)
NEAR = "def is_near(state):\n    return state[1] > 9 and state[0] + state[2] + state[3] > 0\n"


def test_shipped_key_states_are_those_for_what_is_told():
    for options, name in (({}, "pass"), ({"size": 50}, "large-pass")):
        settings = Settings("pass", options=options)
        found = load_key_states(settings, envs.make("pass", **options))
        assert found == KeyStateSet.shipped(name)
    options = {"size": 40}
    words = (
        "no key states are shipped for 'pass' with size=40: there are the sets large-pass, ",
        "`lemae generate --task pass --option size=40 --model NAME --out FOLDER`",
    )
    with pytest.raises(ConfigError, match=".*".join(map(re.escape, words))):
        load_key_states(Settings("pass", options=options), envs.make("pass", **options))


def rewarded(key_states, task, states, **options):
    """Intrinsic rewards of an episode that meets key state 0 at its end."""
    made = Guidance(key_states, Settings("smax-3m", **options), task)
    count = len(states) - 1
    relabeled = made._relabeler.relabel(
        np.array(states)[:, None], np.zeros((count, 1)), [count], [False], [((count, 0),)]
    )
    return relabeled.intrinsic[:, 0].tolist()


def test_real_numbers_count_as_shares_of_their_ranges():
    key_states = KeyStateSet.from_source(NEAR, BATTLE)
    states = [[1.0, -2, 0, 0], [0.5, 6, 0, 0], [0.5, 30, 1, 5]]
    assert rewarded(key_states, BATTLE, states) == [0.5 + 0.25, 0.75 + 1]
    given = {"scale": [1, 1, 0, 0]}
    assert rewarded(key_states, BATTLE, states, relabeling=given) == [0.5 + 8, 24]
    raw = [0.5 + 8, 24 + 1 + 5]
    assert rewarded(key_states, BATTLE, states, relabeling={"scale": None}) == raw
    assert rewarded(key_states, None, states) == raw


def test_whole_numbers_count_as_they_are():
    entries = tuple(replace(entry, integer=True) for entry in ENTRIES)
    task = replace(BATTLE, state=entries)
    key_states = KeyStateSet.from_source(NEAR, task)
    assert rewarded(key_states, task, [[1, 4, 0, 0], [0, 30, 1, 0]]) == [1 + 26 + 1]

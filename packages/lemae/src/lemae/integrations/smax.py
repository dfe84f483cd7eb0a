"""SMAX, the battles of JaxMARL: many copies at once, compiled, without StarCraft.

Needs the extra ``smax``: ``pip install "lemae[smax]"``. SMAX is a game of its own, with SMAC's
scenarios: results on it are results on SMAX, not on SMAC.

Importing JaxMARL takes some 15 s, and the first reset and the first step of every shape (scenario
and number of copies) another 10 to 40 s, in which they are compiled; JAX keeps what it compiled in
the folder that the environment variable ``JAX_COMPILATION_CACHE_DIR`` names.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lemae._suggest import suggest
from lemae.errors import ConfigError, MissingExtraError, TaskError
from lemae.integrations._team import Array, Outcome, TeamVectorEnv
from lemae.task import StateEntry, TaskSpec


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep JaxMARL, which prints while it is imported and replaces ``sys.stdout``, to itself."""
    saved = sys.stdout, sys.stderr, sys.__stdout__
    with Path(os.devnull).open("w") as sink:
        sys.stdout = sys.__stdout__ = sink  # type: ignore[misc]  # Final, but not for JaxMARL
        try:
            yield
        finally:
            sys.stdout, sys.stderr, sys.__stdout__ = saved  # type: ignore[misc]


try:
    with _silence():
        import jax
        import jax.numpy as jnp
        from jaxmarl.environments.smax import HeuristicEnemySMAX
        from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO
except ImportError as error:
    raise MissingExtraError(
        'lemae.integrations.smax needs jaxmarl: pip install "lemae[smax]"'
    ) from error

_MOVES = (
    "move north (y grows)",
    "move east (x grows)",
    "move south (y falls)",
    "move west (x falls)",
    "stay",
)
_NOISE = 2  # of starts, in each coordinate
_DEAD = "0 if dead"


class _View(NamedTuple):
    """What is seen of a copy.

    Attributes:
        state: ``[d]``.
        observations: ``[n, o]``.
        available: ``[n, A]``.
    """

    state: Any
    observations: Any
    available: Any


class _Step(NamedTuple):
    """What a step gives, besides the random key and the game that follow it."""

    view: _View
    dense: Any
    won: Any
    over: Any


class _Game(NamedTuple):
    """A scenario and its compiled functions, over all copies.

    Attributes:
        rules: JaxMARL's environment.
        begin: of keys, games and a mask of copies that begin: keys, games and views.
        step: of keys, games, actions and a mask of copies that go on: keys, games and steps.
    """

    rules: Any
    begin: Callable[..., tuple[Any, Any, _View]]
    step: Callable[..., tuple[Any, Any, _Step]]


@functools.cache
def _compiled(name: str) -> _Game:
    """The game of a scenario, one for all environments in the process: it is compiled once."""
    rules = HeuristicEnemySMAX(scenario=MAP_NAME_TO_SCENARIO[name])
    n = rules.num_allies
    # Positions of the cooldowns: below 0 they count how long a unit has been ready, to no effect.
    cooldowns = np.arange(3, 10 * len(rules.all_agents), 10)

    def look(game: Any) -> _View:
        observations, available = rules.get_obs(game), rules.get_avail_actions(game)
        return _View(
            rules.get_world_state(game).at[cooldowns].max(0.0),
            jnp.stack([observations[agent] for agent in rules.agents]),
            jnp.stack([available[agent] for agent in rules.agents]).astype(bool),
        )

    def choose(mask: Any, new: Any, old: Any) -> Any:
        # The types of ``old``, also where a constant of the rules has none of its own: what a step
        # returns must look like what it took, or it would be compiled once more.
        return jax.tree.map(
            lambda one, other: jnp.where(mask, one, other).astype(other.dtype), new, old
        )

    def begin(key: Any, game: Any, chosen: Any) -> tuple[Any, Any, _View]:
        following, now = jax.random.split(key)
        game = choose(chosen, rules.reset(now)[1], game)
        return jnp.where(chosen, following, key), game, look(game)

    def step(key: Any, game: Any, actions: Any, active: Any) -> tuple[Any, Any, _Step]:
        following, now = jax.random.split(key)
        by_agent = {agent: actions[i] for i, agent in enumerate(rules.agents)}
        _, after, rewards, _, _ = rules.step_env(now, game, by_agent)
        game = choose(active, after, game)
        alive = game.state.unit_alive
        ally, enemy = alive[:n].any(), alive[n:].any()
        result = _Step(look(game), rewards[rules.agents[0]], ally & ~enemy, ~(ally & enemy))
        return jnp.where(active, following, key), game, result

    return _Game(rules, jax.jit(jax.vmap(begin)), jax.jit(jax.vmap(step)))


class SmaxVectorEnv(TeamVectorEnv):
    """N copies of a SMAX scenario; made by :func:`make`.

    The state is SMAX's world state, float32 ``[10 u + u + u]`` for u units, allies first: per unit
    the share of its health that is left, x, y, the seconds until it can attack, and six bits for
    its type, all 0 once it is dead; then the team of each unit (0, 1), then its type (0 to 5). Only
    the seconds differ from SMAX, which goes on counting below 0. The names and ranges are in
    ``task_spec``.

    An agent observes the units within its sight, float32 ``[13 (u - 1) + 10]``. Of its actions, an
    attack on an enemy out of range is not available, and does nothing if taken all the same.

    Args:
        name: of the scenario.
        num_envs: N.
        sparse: reward 1 on the step that kills the last enemy while an ally lives, else 0; or
            SMAX's own reward, the share of enemy health removed, and 1 on that step.
        seed: of starts and battles; None is random.
        episode_limit: steps; 100 in SMAX.

    Attributes:
        name: of the scenario.
        sparse: as given.
        task_spec: what anyone is told about the task.

    ``info`` of a step also has ``"dense_reward"``, float64 ``[N]``: SMAX's own.
    """

    def __init__(
        self,
        name: str,
        num_envs: int = 1,
        sparse: bool = True,
        seed: int | None = 0,
        *,
        episode_limit: int = 100,
    ) -> None:
        if name not in names():
            raise TaskError(f"SMAX has no scenario {name!r}: {suggest(name, names())}")
        self._game = _compiled(name)
        rules = self._game.rules
        super().__init__(
            num_envs,
            rules.num_allies,
            rules.num_ally_actions,
            rules.state_size,
            rules.obs_size,
            episode_limit,
            describe(name, episode_limit=episode_limit),
        )
        self.name = name
        self.sparse = sparse
        self._keys = _keys(seed, num_envs)
        # Of the right shapes only, until the first reset.
        self._games = jax.tree.map(
            lambda one: jnp.zeros((num_envs, *one.shape), one.dtype),
            jax.eval_shape(rules.reset, self._keys[0])[1],
        )

    def _begin(self, copies: Array, seed: int | None) -> None:
        if seed is not None:
            self._keys = _keys(seed, self.num_envs)
        chosen = np.zeros(self.num_envs, bool)
        chosen[copies] = True
        self._keys, self._games, view = self._game.begin(self._keys, self._games, chosen)
        self._see(view)

    def _advance(self, actions: Array, active: Array) -> Outcome:
        chosen = actions.astype(np.int32)
        self._keys, self._games, step = self._game.step(self._keys, self._games, chosen, active)
        self._see(step.view)
        won, over = np.asarray(step.won), np.asarray(step.over)
        dense = np.where(active, np.asarray(step.dense, np.float64), 0.0)
        return Outcome(won if self.sparse else dense, over, won, info={"dense_reward": dense})

    def _see(self, view: _View) -> None:
        self._states[:] = view.state
        self._observations[:] = view.observations
        self._available[:] = view.available


def make(
    name: str,
    num_envs: int = 1,
    sparse: bool = True,
    seed: int | None = 0,
    *,
    episode_limit: int = 100,
) -> SmaxVectorEnv:
    """Make copies of a SMAX scenario, with the interface of :func:`lemae.envs.make`.

    Args:
        name: one of :func:`names`, such as ``"5m_vs_6m"`` or ``"smacv2_5_units"``.
        num_envs: N, the number of copies.
        sparse: reward 1 for a won battle and nothing else; or SMAX's own reward.
        seed: of starts and battles; None is random.
        episode_limit: steps.

    Returns:
        A :class:`SmaxVectorEnv`.

    Raises:
        TaskError: for an unknown name, with near matches, or less than one step.
        ConfigError: for less than one copy, or a negative seed.

    Example:
        >>> env = make("3m", num_envs=2)
        >>> state, info = env.reset()
        >>> state.shape, env.observations(state).shape, env.available().shape
        ((2, 72), (2, 3, 75), (2, 3, 8))
    """
    return SmaxVectorEnv(name, num_envs, sparse, seed, episode_limit=episode_limit)


def names() -> tuple[str, ...]:
    """The names of all scenarios. In those that start with ``smacv2`` the units are random."""
    return tuple(MAP_NAME_TO_SCENARIO)


def describe(name: str, *, episode_limit: int = 100) -> TaskSpec:
    """What anyone is told about a scenario, read from the game itself.

    Args:
        name: one of :func:`names`.
        episode_limit: steps.
    """
    rules = _compiled(name).rules
    units = [f"ally {i}" for i in range(rules.num_allies)]
    units += [f"enemy {i}" for i in range(rules.num_enemies)]
    fixed = None if rules.smacv2_unit_type_generation else np.asarray(rules.scenario).tolist()
    entries: list[StateEntry] = []
    for index, unit in enumerate(units):
        kinds = range(rules.unit_type_bits) if fixed is None else (fixed[index],)
        entries += _unit_entries(rules, unit, tuple(kinds))
    for index, unit in enumerate(units):
        team = int(index >= rules.num_allies)
        entries.append(StateEntry(f"{unit} team", team, team, text="also once dead"))
    last = rules.unit_type_bits - 1
    for index, unit in enumerate(units):
        low, high = (0, last) if fixed is None else (fixed[index], fixed[index])
        entries.append(
            StateEntry(f"{unit} type", low, high, text="number of its bit; also once dead")
        )
    attacks = (f"attack enemy {i}" for i in range(rules.num_enemies))
    return TaskSpec(
        name=f"smax-{name}",
        description=_DESCRIPTION.format(
            n=rules.num_allies,
            m=rules.num_enemies,
            x=rules.map_width,
            y=rules.map_height,
            limit=episode_limit,
        ),
        configuration=_configuration(rules, fixed),
        state=tuple(entries),
        n_agents=rules.num_allies,
        actions=(*_MOVES, *attacks),
        episode_limit=episode_limit,
    )


_DESCRIPTION = (
    "A battle of two teams on an empty field, x from 0 in the west to {x} in the east, y from 0 in "
    "the south to {y} in the north. Each of the {n} agents commands one ally; the {m} enemies "
    "follow a script: an enemy with allies in range attacks the nearest one and keeps to it, "
    "otherwise it walks towards an ally that it sees, otherwise across the field. A unit that "
    "attacks does not move. Lost health does not come back; a unit without health is dead and out "
    "of the game, and so is a unit that touches the edge of the field. The goal is reached when "
    "all enemies are dead and at least one ally lives. The battle also ends when all allies are "
    "dead, and after {limit} steps."
)


def _unit_entries(rules: Any, unit: str, kinds: tuple[int, ...]) -> list[StateEntry]:
    """The ten numbers of a unit that is of one of some types."""
    slowest = max(float(rules.unit_type_weapon_cooldowns[kind]) for kind in kinds)
    high = round(slowest + 2 * rules.time_per_step, 6)  # the game draws a little on top
    beyond = _NOISE if rules.smacv2_position_generation else 0  # groups may start in the corners
    entries = [
        StateEntry(f"{unit} health", 0, 1, integer=False, text=f"share that is left; {_DEAD}"),
        StateEntry(f"{unit} x", -beyond, rules.map_width + beyond, integer=False, text=_DEAD),
        StateEntry(f"{unit} y", -beyond, rules.map_height + beyond, integer=False, text=_DEAD),
        StateEntry(
            f"{unit} cooldown",
            0,
            high,
            integer=False,
            unit="s",
            text=f"until it can attack again, 0 if it can; {_DEAD}",
        ),
    ]
    entries += [
        StateEntry(f"{unit} is a {kind}", 0, int(number in kinds), text=_DEAD)
        for number, kind in enumerate(rules.unit_type_names)
    ]
    return entries


def _configuration(rules: Any, fixed: list[int] | None) -> str:
    """Where units start and what each type can do."""
    middle = f"({rules.map_width / 2:g}, {rules.map_height / 2:g})"
    if rules.smacv2_position_generation:
        start = (
            "Starts are random: in half of the battles the teams mirror each other, the allies "
            f"anywhere in the west; in the other half one team stands around {middle} and the "
            "other in groups between there and the corners; who starts beyond the edge dies."
        )
    else:
        west, east, y = rules.map_width / 4, rules.map_width * 3 / 4, rules.map_height / 2
        start = (
            f"Allies start within {_NOISE} of ({west:g}, {y:g}) in each coordinate, enemies of "
            f"({east:g}, {y:g})."
        )
    if fixed is None:
        teams = (
            "The type of each ally is random in every battle, all types equally likely; enemy i is "
            "of the type of ally i."
        )
    else:
        teams = "; ".join(
            f"{team}: " + ", ".join(rules.unit_type_names[kind] for kind in kinds)
            for team, kinds in (
                ("Allies in order", fixed[: rules.num_allies]),
                ("enemies in order", fixed[rules.num_allies :]),
            )
        )
        teams += "."
    kinds = range(rules.unit_type_bits) if fixed is None else sorted(set(fixed))
    table = "; ".join(
        f"{rules.unit_type_names[kind]} (type {kind}): "
        f"health {rules.unit_type_health[kind]:g}, damage {rules.unit_type_attacks[kind]:g}, "
        f"range {rules.unit_type_attack_ranges[kind]:g}, "
        f"one attack per {rules.unit_type_weapon_cooldowns[kind]:.2f} s, "
        f"sight {rules.unit_type_sight_ranges[kind]:g}, "
        f"speed {rules.unit_type_velocities[kind]:.2f} per s"
        for kind in kinds
    )
    seconds = rules.world_steps_per_env_step * rules.time_per_step
    return f"{teams} {start} A step takes {seconds:g} s. {table}."


def _keys(seed: int | None, num_envs: int) -> Any:
    """A random key per copy, from seeds of any size."""
    if seed is not None and seed < 0:
        raise ConfigError(f"seed is {seed}: give a whole number, not negative, or None")
    return jnp.array(np.random.SeedSequence(seed).generate_state(2 * num_envs)).reshape(-1, 2)

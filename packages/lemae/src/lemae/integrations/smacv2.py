"""SMAC and SMACv2, the real game: environments that you give, or that are made when you ask.

SMACv2 is no extra of this package: it is not on PyPI, needs StarCraft II (published results are of
version 4.10) and wants ``protobuf<3.21``, so it gets an environment of its own::

    pip install git+https://github.com/oxwhirl/smacv2.git

and the folder of the game in ``SC2PATH``. (The package ``smac`` on PyPI is another one.)

What the game's interface does differently from what it seems, and what is done about it:

- With ``reward_sparse=True`` it pays 1, 0 or -1, and divides by a constant on top. The reward here
  is whether the battle was won, whatever the game pays, which is ``info["dense_reward"]``.
- It says ``terminated`` after the last step that it allows. That is truncation here, told from a
  battle that is decided in that step by the game's own count of ``timeouts``.
- ``reset`` returns nothing after an attempt that failed. What was reset is asked for instead.
- When the connection to the game is lost, ``step`` returns ``(0, True, {})``. That is an aborted
  episode here, counted, with no success, to be dropped.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from lemae.errors import ConfigError, MissingExtraError, TaskError
from lemae.integrations._team import Array, Outcome, TeamVectorEnv
from lemae.task import StateEntry, TaskSpec


class Battle(Protocol):
    """What is used of an environment of SMAC or SMACv2.

    ``get_state_feature_names() -> list[str]``, of SMACv2, is used where it is; for SMAC the names
    follow from its attributes. Without the attribute ``timeouts``, a battle that is lost in the
    last step with an ally left alive (only medivacs) is taken for a truncated one.
    """

    def reset(self) -> Any:
        """Begin a battle; what it returns is not used."""

    def step(self, actions: Sequence[int]) -> tuple[float, bool, Mapping[str, Any]]:
        """Reward, whether the episode is over, and info with ``battle_won``."""

    def get_obs(self) -> Sequence[Any]:
        """An observation per agent."""

    def get_state(self) -> Any:
        """The global state."""

    def get_avail_actions(self) -> Sequence[Sequence[int]]:
        """1 for each action that an agent can take."""

    def get_env_info(self) -> Mapping[str, Any]:
        """Sizes."""

    def close(self) -> None:
        """End the game."""


class SmacVectorEnv(TeamVectorEnv):
    """Battles of StarCraft II, one process of the game per copy, stepped one after the other.

    Reward 1 on the step that wins the battle, else 0. The states and observations are the game's.
    Several machines or cores: :mod:`lemae.integrations.ray`.

    Args:
        battles: environments of one map, of ``smacv2`` or ``smac``; one per copy.
        task_spec: what anyone is told about the task; None reads it from the first battle by
            :func:`describe`.

    Attributes:
        battles: as given.
        aborted: episodes that broke off so far.

    The seeds of the game are those it was made with: ``reset(seed=...)`` accepts one, and changes
    nothing. ``info`` of a step also has ``"dense_reward"``, float64 ``[N]``, the game's own.

    Raises:
        ConfigError: if there is no battle, or they are of different sizes.
        TaskError: if the task cannot be described, or ``task_spec`` does not fit.
    """

    def __init__(self, battles: Sequence[Battle], task_spec: TaskSpec | None = None) -> None:
        if not battles:
            raise ConfigError("battles is empty: give at least one environment")
        sizes = [_sizes(battle) for battle in battles]
        if any(other != sizes[0] for other in sizes):
            raise ConfigError(f"the battles have sizes {sizes}: give battles of one map")
        info = sizes[0]
        super().__init__(
            len(battles),
            info["n_agents"],
            info["n_actions"],
            info["state_shape"],
            info["obs_shape"],
            info["episode_limit"],
            describe(battles[0]) if task_spec is None else task_spec,
        )
        self.battles = list(battles)
        self.aborted = 0

    def close_extras(self, **kwargs: Any) -> None:
        """End all games; called by ``close()``."""
        for battle in self.battles:
            battle.close()

    def _begin(self, copies: Array, seed: int | None) -> None:
        for copy in copies:
            self.battles[copy].reset()
            self._see(copy)

    def _advance(self, actions: Array, active: Array) -> Outcome:
        self._check_available(actions, active)
        dense = np.zeros(self.num_envs)
        over, won, aborted = np.zeros((3, self.num_envs), bool)
        for copy in np.flatnonzero(active):
            battle = self.battles[copy]
            timeouts = _of(battle, "timeouts")
            reward, ended, info = battle.step(actions[copy].tolist())
            if "battle_won" not in info:
                aborted[copy] = True
                continue
            dense[copy] = reward
            won[copy] = info["battle_won"]
            if timeouts is None:
                decided = won[copy] or info.get("dead_allies") == self.n_agents
                cut = not decided and self._elapsed[copy] + 1 >= self.episode_limit
            else:
                cut = _of(battle, "timeouts") > timeouts
            over[copy] = ended and not cut
            self._see(copy)
        self.aborted += int(aborted.sum())
        return Outcome(won, over, won, aborted=aborted, info={"dense_reward": dense})

    def _see(self, copy: Any) -> None:
        battle = self.battles[copy]
        self._states[copy] = battle.get_state()
        self._observations[copy] = battle.get_obs()
        self._available[copy] = np.asarray(battle.get_avail_actions()) > 0


def wrap(battles: Battle | Sequence[Battle], task_spec: TaskSpec | None = None) -> SmacVectorEnv:
    """Give environments of SMAC or SMACv2 the interface of :func:`lemae.envs.make`.

    Args:
        battles: one, or one per copy.
        task_spec: see :class:`SmacVectorEnv`.

    Example:
        >>> env = wrap([StarCraftCapabilityEnvWrapper(seed=seed, **config) for seed in range(8)])
    """
    return SmacVectorEnv(battles if isinstance(battles, Sequence) else [battles], task_spec)


#: Unit types of each race with their probabilities, and the type that may not be a whole team.
_RACES = {
    "terran": ({"marine": 0.45, "marauder": 0.45, "medivac": 0.1}, ["medivac"]),
    "protoss": ({"stalker": 0.45, "zealot": 0.45, "colossus": 0.1}, []),
    "zerg": ({"zergling": 0.45, "baneling": 0.1, "hydralisk": 0.45}, ["baneling"]),
}


def make(
    name: str,
    num_envs: int = 1,
    seed: int = 0,
    *,
    task_spec: TaskSpec | None = None,
    **options: Any,
) -> SmacVectorEnv:
    """Make battles with the settings of the SMACv2 paper; starts the games on the first reset.

    Args:
        name: ``<race>_<n>_vs_<m>`` with ``terran``, ``protoss`` or ``zerg``, such as
            ``"terran_5_vs_5"``.
        num_envs: N, the number of games.
        seed: of the first game; the others count on from it.
        task_spec: see :class:`SmacVectorEnv`.
        **options: of SMACv2's ``StarCraftCapabilityEnvWrapper``, instead of or besides the paper's.

    Raises:
        TaskError: if the name has another form.
        ConfigError: if there is no copy.
        MissingExtraError: if ``smacv2`` is not installed.
    """
    settings = {**_settings(name), **options}
    try:
        from smacv2.env import StarCraftCapabilityEnvWrapper
    except ImportError as error:
        raise MissingExtraError(
            "smacv2 is not installed, or something that it needs: pip install "
            "git+https://github.com/oxwhirl/smacv2.git, in an environment of its own (it wants "
            "protobuf<3.21), with StarCraft II in SC2PATH; or give battles to wrap()"
        ) from error
    battles = [StarCraftCapabilityEnvWrapper(seed=seed + i, **settings) for i in range(num_envs)]
    if task_spec is None and battles:
        task_spec = describe(battles[0], name=f"smacv2-{name}")
    return wrap(battles, task_spec)


def _settings(name: str) -> dict[str, Any]:
    """Arguments of the SMACv2 paper for a scenario."""
    parts = re.fullmatch(rf"({'|'.join(_RACES)})_([1-9]\d*)_vs_([1-9]\d*)", name)
    if parts is None:
        raise TaskError(
            f"{name!r} is no scenario: give <race>_<n>_vs_<m>, such as terran_5_vs_5, with race "
            f"one of {', '.join(_RACES)}"
        )
    race, n, m = parts.group(1), int(parts.group(2)), int(parts.group(3))
    weights, exceptions = _RACES[race]
    team = {
        "dist_type": "weighted_teams",
        "unit_types": list(weights),
        "weights": list(weights.values()),
        "exception_unit_types": exceptions,
        "observe": True,
    }
    start = {"dist_type": "surrounded_and_reflect", "p": 0.5, "map_x": 32, "map_y": 32}
    return {
        "map_name": f"10gen_{race}",
        "capability_config": {
            "n_units": n,
            "n_enemies": m,
            "team_gen": team,
            "start_positions": start,
        },
        "conic_fov": False,
        "use_unit_ranges": True,
        "min_attack_range": 2,
        "obs_own_pos": True,
    }


# --- the state in words ---------------------------------------------------------------------------


def describe(battle: Battle, name: str | None = None, description: str | None = None) -> TaskSpec:
    """What anyone is told about a map: its state by the game's own names.

    Args:
        battle: of SMACv2, which names the numbers of its state, or of SMAC, for which
            :func:`feature_names` does.
        name: of the task; None takes the map's.
        description: goal and rules in plain words; None says what holds of all maps.

    Raises:
        TaskError: if names and state differ in length, or a name is not known.
    """
    info = _sizes(battle)
    kind = _of(battle, "map_type")
    names = _names(battle, info)
    if len(names) != info["state_shape"]:
        raise TaskError(
            f"the state has {info['state_shape']} numbers and there are names for {len(names)}: "
            "pass task_spec=, with one entry per number"
        )
    n_enemies = sum(name.startswith("enemy_health_") for name in names)
    team = _of(battle, "capability_config") or {}
    makeup = (
        "The types of the units are random in every battle; their bits tell which is which."
        if "team_gen" in team
        else "The types of the units are the same in every battle."
    )
    n_views = _of(battle, "n_fov_actions") or 0
    n_targets = info["n_actions"] - len(_MOVES) - n_views
    actions = [*_MOVES, *(f"look in direction {i} of {n_views}" for i in range(n_views))]
    actions += [f"act on unit {i} (if in range)" for i in range(n_targets)]
    return TaskSpec(
        name=name or _of(battle, "map_name") or "smac",
        description=description or _DESCRIPTION,
        configuration=(
            f"{info['n_agents']} allies against {n_enemies} enemies, at most "
            f"{info['episode_limit']} steps. {makeup}"
        ),
        state=tuple(_entry(name, kind) for name in names),
        n_agents=info["n_agents"],
        actions=tuple(actions),
        episode_limit=info["episode_limit"],
    )


def feature_names(
    n_agents: int,
    n_enemies: int,
    n_actions: int,
    *,
    ally_shield: bool = False,
    enemy_shield: bool = False,
    type_bits: int = 0,
    last_action: bool = True,
    timestep: bool = False,
) -> list[str]:
    """Names of the state of SMAC, which has no function for them, in the manner of SMACv2.

    Args:
        n_agents: allies.
        n_enemies: enemies.
        n_actions: of each agent.
        ally_shield: whether allies have shields (Protoss).
        enemy_shield: whether enemies have.
        type_bits: bits for the type of a unit.
        last_action: whether the last actions are in the state.
        timestep: whether the time is.

    Example:
        >>> len(feature_names(5, 6, 12))  # 5m_vs_6m
        98
    """

    def team(side: str, count: int, numbers: Sequence[str], shield: bool) -> list[str]:
        numbers = [*numbers, "shield"] if shield else numbers
        return [
            name
            for unit in range(count)
            for name in (
                *(f"{side}_{number}_{unit}" for number in numbers),
                *(f"{side}_unit_type_{unit}_bit_{bit}" for bit in range(type_bits)),
            )
        ]

    place = ("relative_x", "relative_y")
    names = team("ally", n_agents, ("health", "cooldown", *place), ally_shield)
    names += team("enemy", n_enemies, ("health", *place), enemy_shield)
    if last_action:
        pairs = itertools.product(range(n_agents), range(n_actions))
        names += [f"ally_last_action_{unit}_action_{action}" for unit, action in pairs]
    return [*names, "timestep"] if timestep else names


_DESCRIPTION = (
    "A battle of StarCraft II between two teams. Each agent commands one ally; the enemies are "
    "commanded by the game. Units of the Protoss have shields, which are lost before health and "
    "come back after a while without damage. A medivac does not attack but heals: for it, the "
    "cooldown is its energy, and the units that it acts on are allies. A dead unit is out of the "
    "battle, and all its numbers are 0. The goal is reached when all enemies are dead and an ally "
    "lives; the battle is lost when all allies are dead."
)
_MOVES = (
    "nothing (only, and always, once dead)",
    "stop",
    "move north (y grows)",
    "move south (y falls)",
    "move east (x grows)",
    "move west (x falls)",
)

#: Pattern of a name: lowest and highest value, whether whole, and what it means.
_FEATURES: tuple[tuple[str, float, float, bool, str], ...] = (
    (r"(ally|enemy)_health_\d+", 0, 1, False, "share that is left; 0 if dead"),
    (
        r"ally_cooldown_\d+",
        0,
        1,
        False,
        "time until it can attack, as a share; of a medivac energy",
    ),
    (r"(ally|enemy)_relative_[xy]_\d+", -1, 1, False, "from the middle of the map, in map sizes"),
    (r"(ally|enemy)_shield_\d+", 0, 1, False, "share that is left"),
    (r"ally_attack_prob_\d+", 0, 1, False, "probability that an attack takes place"),
    (r"ally_health_level_\d+", 0, 1, False, "share of health at which it dies"),
    (r"ally_fov_[xy]_\d+", -1, 1, False, "direction of its view"),
    (r"(ally|enemy)_unit_type_\d+_bit_\d+", 0, 1, True, ""),
    (r"ally_last_action_\d+_action_\d+", 0, 1, True, "1 for the action of the step before"),
    (r"timestep", 0, 1, False, "share of the steps that are over"),
)

#: By kind of map, the types that the bits stand for; SMAC numbers some of allies and enemies apart.
_TYPES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    kind: (ally, enemy or ally)
    for kind, ally, enemy in (
        ("terran_gen", ("marine", "marauder", "medivac"), None),
        ("protoss_gen", ("stalker", "zealot", "colossus"), None),
        ("zerg_gen", ("zergling", "hydralisk", "baneling"), None),
        ("MMM", ("marauder", "marine", "medivac"), None),
        ("stalkers_and_zealots", ("stalker", "zealot"), ("zealot", "stalker")),
        ("colossi_stalkers_zealots", ("colossus", "stalker", "zealot"), None),
        ("bane", ("baneling", "zergling"), None),
    )
}


def _entry(name: str, kind: str | None) -> StateEntry:
    """The entry of a number by its name."""
    for pattern, low, high, integer, text in _FEATURES:
        if re.fullmatch(pattern, name):
            bit = re.fullmatch(r"(ally|enemy)_unit_type_(\d+)_bit_(\d+)", name)
            if bit is not None and kind in _TYPES:
                types = _TYPES[kind][bit.group(1) == "enemy"]
                text = f"1 if {bit.group(1)} {bit.group(2)} is a {types[int(bit.group(3))]}"
            return StateEntry(name, low, high, integer=integer, text=text)
    raise TaskError(
        f"the state has a number named {name!r}, which this adapter does not know: pass task_spec="
    )


def _names(battle: Battle, info: Mapping[str, int]) -> list[str]:
    """The names of the state, from the battle or by rule."""
    named = getattr(battle, "get_state_feature_names", None)
    if named is not None:
        return list(named())
    missing = [name for name in ("n_enemies", *_ATTRIBUTES) if _of(battle, name) is None]
    if missing:
        raise TaskError(
            f"the battle has no get_state_feature_names and no {', '.join(missing)}: pass "
            "task_spec=, which says what the numbers of the state are"
        )
    shield, enemy_shield, bits, last_action, timestep = (
        int(_of(battle, name)) for name in _ATTRIBUTES
    )
    return feature_names(
        info["n_agents"],
        _of(battle, "n_enemies"),
        info["n_actions"],
        ally_shield=bool(shield),
        enemy_shield=bool(enemy_shield),
        type_bits=bits,
        last_action=bool(last_action),
        timestep=bool(timestep),
    )


_ATTRIBUTES = (
    "shield_bits_ally",
    "shield_bits_enemy",
    "unit_type_bits",
    "state_last_action",
    "state_timestep_number",
)


def _of(battle: Battle, attribute: str) -> Any:
    """An attribute of the battle; None if it has no such."""
    return getattr(battle, attribute, None)


def _sizes(battle: Battle) -> dict[str, int]:
    info = battle.get_env_info()
    names = ("n_agents", "n_actions", "state_shape", "obs_shape", "episode_limit")
    return {name: int(info[name]) for name in names}

"""The real game's interface, on fakes that have exactly its methods, and on itself where it is."""

import importlib.util
import os
import sys
import types
from dataclasses import replace

import numpy as np
import pytest

from lemae.algos.rollout import Collector
from lemae.errors import ConfigError, MissingExtraError, ShapeError, TaskError
from lemae.integrations.smacv2 import describe, feature_names, make, wrap

NO_OP, STOP, EAST, WEST, ATTACK = 0, 1, 4, 5, 6
LIMIT = 12


class FakeStarCraft2:
    """Interface and quirks of ``StarCraft2Env``; two lines of units that walk towards each other.

    A unit has 4 health and deals 1 to a unit not farther than 2; enemies shoot the first ally.
    """

    n_agents, n_enemies, n_actions, episode_limit = 3, 2, 8, LIMIT
    map_name, map_type = "10gen_terran", "terran_gen"
    shield_bits_ally = shield_bits_enemy = 0
    unit_type_bits = 3
    state_last_action, state_timestep_number = True, False
    enemy_damage = 1
    n_fighters = 3  # the others are medivacs, whose team has lost

    def __init__(self, seed=None, lost_connection=(), capability_config=None, **options):
        self.options = {"seed": seed, "capability_config": capability_config, **options}
        self.capability_config = capability_config or {"team_gen": {}}
        self.rng = np.random.default_rng(seed)
        self.lost_connection = set(lost_connection)  # total steps after which it is lost
        self.total_steps = self.battles_won = self.battles_game = self.restarts = 0
        self.timeouts = 0
        self.closed = False

    def reset(self):
        self.steps = 0
        self.health = np.full(self.n_agents, 4.0)
        self.enemy_health = np.full(self.n_enemies, 4.0)
        self.x = np.zeros(self.n_agents)
        self.enemy_x = np.full(self.n_enemies, 4.0)
        self.types = self.rng.integers(3, size=self.n_agents + self.n_enemies)
        self.last_action = np.zeros((self.n_agents, self.n_actions))
        return self.get_obs(), self.get_state()

    def step(self, actions):
        assert len(actions) == self.n_agents
        for agent, action in enumerate(actions):
            assert isinstance(action, int)
            assert self.get_avail_actions()[agent][action] == 1, f"Agent {agent} cannot {action}"
        self.last_action = np.eye(self.n_actions)[actions]
        self.total_steps += 1
        if self.total_steps in self.lost_connection:
            self.restarts += 1
            return 0, True, {}
        self.steps += 1
        before = self.enemy_health.sum()
        for agent, action in enumerate(actions):
            self.x[agent] += (action == EAST) - (action == WEST)
            if action >= ATTACK:
                self.enemy_health[action - ATTACK] = max(self.enemy_health[action - ATTACK] - 1, 0)
        for enemy in np.flatnonzero(self.enemy_health):
            near = np.flatnonzero((self.health > 0) & (abs(self.x - self.enemy_x[enemy]) <= 2))
            if len(near):
                self.health[near[0]] = max(self.health[near[0]] - self.enemy_damage, 0)
        dead = {
            "dead_allies": int((self.health == 0).sum()),
            "dead_enemies": int((self.enemy_health == 0).sum()),
        }
        info = {"battle_won": False, **dead}
        terminated, reward = False, before - self.enemy_health.sum()
        lost, won = not self.health[: self.n_fighters].any(), not self.enemy_health.any()
        if lost or won:
            terminated = True
            self.battles_game += 1
            info["battle_won"] = won and not lost
            self.battles_won += won and not lost
            reward = 1 if info["battle_won"] else -1  # reward_sparse
        elif self.steps >= self.episode_limit:
            terminated = True
            self.battles_game += 1
            self.timeouts += 1
        return reward / (220 / 20), terminated, info

    def get_avail_actions(self):
        rows = []
        for health, x in zip(self.health, self.x, strict=True):
            near = (abs(self.enemy_x - x) <= 2) & (self.enemy_health > 0)
            alive = [0, 1, 0, 0, 1, 1, *near.astype(int).tolist()]
            rows.append(alive if health > 0 else [1] + [0] * (self.n_actions - 1))
        return rows

    def get_state(self):
        blocks = []
        bits = np.eye(3)[self.types][:, : self.unit_type_bits]
        for i in range(self.n_agents):
            block = [self.health[i] / 4, 0, self.x[i] / 10, 0, *[1] * self.shield_bits_ally]
            blocks.append(np.array([*block, *bits[i]]) * (self.health[i] > 0))
        for i in range(self.n_enemies):
            block = [self.enemy_health[i] / 4, self.enemy_x[i] / 10, 0]
            block += [1] * self.shield_bits_enemy
            blocks.append(np.array([*block, *bits[self.n_agents + i]]) * (self.enemy_health[i] > 0))
        return np.concatenate([*blocks, self.last_action.ravel()]).astype(np.float32)

    def get_obs(self):
        return [np.full(5, x, np.float32) for x in self.x]

    def get_env_info(self):
        d = self.n_agents * (4 + self.shield_bits_ally + self.unit_type_bits)
        d += self.n_enemies * (3 + self.shield_bits_enemy + self.unit_type_bits)
        return {
            "state_shape": d + self.n_agents * self.n_actions,
            "obs_shape": 5,
            "cap_shape": 3,
            "n_actions": self.n_actions,
            "n_agents": self.n_agents,
            "episode_limit": self.episode_limit,
        }

    def get_stats(self):
        rate = self.battles_won / self.battles_game
        return {"win_rate": rate, "timeouts": self.timeouts, "restarts": self.restarts}

    def close(self):
        self.closed = True


class FakeSmac(FakeStarCraft2):
    """SMAC: no names, Protoss against Protoss."""

    map_name, map_type = "2s3z", "stalkers_and_zealots"
    shield_bits_ally = shield_bits_enemy = 1
    unit_type_bits = 2


class FakeSmacV2(FakeStarCraft2):
    """SMACv2 in its capability wrapper, whose reset returns nothing when it had to try again."""

    def reset(self):
        super().reset()

    def get_state_feature_names(self):
        names = []
        for i in range(self.n_agents):
            names += [f"ally_{n}_{i}" for n in ("health", "cooldown", "relative_x", "relative_y")]
            names += [f"ally_unit_type_{i}_bit_{bit}" for bit in range(3)]
        for i in range(self.n_enemies):
            names += [f"enemy_{n}_{i}" for n in ("health", "relative_x", "relative_y")]
            names += [f"enemy_unit_type_{i}_bit_{bit}" for bit in range(3)]
        for i in range(self.n_agents):
            names += [f"ally_last_action_{i}_action_{a}" for a in range(self.n_actions)]
        return names


def real():
    """A game of SMACv2, where it is installed."""
    if importlib.util.find_spec("smacv2") is None or not os.environ.get("SC2PATH"):
        pytest.skip("smacv2 or StarCraft II is not installed")
    return make("terran_5_vs_5", 1).battles[0]


@pytest.fixture(params=[FakeSmacV2, FakeSmac, real])
def battle(request):
    made = request.param()
    yield made
    made.close()


def fight(env):
    """Attack the first unit in range, else walk east, else stop, else nothing."""
    may = env.available()
    order = [*range(ATTACK, env.n_actions), EAST, STOP, NO_OP]
    return np.array(order)[may[..., order].argmax(-1)]


def stop(env):
    return np.where(env.available()[..., STOP], STOP, NO_OP)


def play(env, act=fight):
    env.reset()
    steps = []
    for _ in range(env.episode_limit):
        steps.append(env.step(act(env)))
        if (steps[-1][2] | steps[-1][3]).all():
            return steps
    raise AssertionError("an episode goes on after its limit")


def test_contract(battle):
    """What holds of every battle, whoever made it."""
    env = wrap(battle)
    info = battle.get_env_info()
    assert env.task_spec.d == env.d == info["state_shape"]
    state, _ = env.reset(seed=1)
    assert state.shape == (1, env.d)
    assert state.dtype == np.float32

    def act(env):
        assert env.observations(env.state()).shape == (1, env.n_agents, info["obs_shape"])
        dead = env.state()[0, names == "health"][: env.n_agents] == 0
        np.testing.assert_array_equal(env.available()[0, :, NO_OP], dead)
        assert env.available().any(-1).all()
        return fight(env)

    low, high = env.task_spec.lows, env.task_spec.highs
    names = np.array([entry.name.split("_")[1] for entry in env.task_spec.state])
    for state, reward, terminated, truncated, last in play(env, act):
        assert ((state >= low - 1e-6) & (state <= high + 1e-6)).all()
        assert not (terminated & truncated).any()
        assert reward[0] == float(last["success"][0] and last["active"][0])
    assert env.aborted == 0


@pytest.mark.parametrize("fake", [FakeSmacV2, FakeSmac])
def test_reward_is_victory_alone(fake):
    env = wrap([fake(seed) for seed in range(2)])
    steps = play(env)
    rewards = np.array([step[1] for step in steps])
    np.testing.assert_array_equal(rewards.sum(0), [1, 1])
    np.testing.assert_array_equal(rewards[-1], [1, 1])
    _, _, terminated, truncated, info = steps[-1]
    assert terminated.all()
    assert not truncated.any()
    assert info["success"].all()
    # What the game pays: damage, and a divided 1.
    np.testing.assert_allclose(info["dense_reward"], 1 / 11)


def test_defeat_is_worth_nothing():
    battle = FakeSmacV2()
    battle.enemy_damage = 4
    steps = play(wrap(battle))
    assert sum(step[1] for step in steps) == 0
    _, _, terminated, truncated, info = steps[-1]
    assert terminated[0]
    assert not truncated[0]
    assert not info["success"][0]
    assert info["dense_reward"][0] == pytest.approx(-1 / 11)


def test_the_limit_is_no_end_of_the_task():
    steps = play(wrap(FakeSmacV2()), stop)
    assert len(steps) == LIMIT
    _, reward, terminated, truncated, info = steps[-1]
    assert truncated[0]
    flags = (terminated, reward, info["success"], info["aborted"])
    assert [bool(flag[0]) for flag in flags] == [False] * 4


@pytest.mark.parametrize(("damage", "n_fighters"), [(1, 3), (2, 3), (4, 2)])
def test_a_battle_decided_on_the_last_step(damage, n_fighters):
    """Won with the last step, or lost with it: the task ended the episode, not the limit.

    A battle is also lost when only medivacs are left.
    """

    def battle(limit=LIMIT):
        made = FakeSmacV2()
        made.enemy_damage, made.n_fighters, made.episode_limit = damage, n_fighters, limit
        return made

    battle = battle(len(play(wrap(battle()))))
    _, reward, terminated, truncated, info = play(wrap(battle))[-1]
    assert terminated[0]
    assert not truncated[0]
    assert reward[0] == info["success"][0] == (damage == 1)
    assert battle.health.any() == (damage != 2)


class Uncounted:
    """A battle that hides how many were cut."""

    def __init__(self, battle):
        self.battle = battle

    def __getattr__(self, name):
        if name == "timeouts":
            raise AttributeError(name)
        return getattr(self.battle, name)


@pytest.mark.parametrize("ending", ["won", "lost", "cut"])
def test_without_a_count_of_timeouts_dead_allies_tell(ending):
    battle = FakeSmacV2()
    battle.enemy_damage = 2 if ending == "lost" else 1
    act = stop if ending == "cut" else fight
    battle.episode_limit = LIMIT if ending == "cut" else len(play(wrap(battle)))
    _, _, terminated, truncated, info = play(wrap(Uncounted(battle)), act)[-1]
    assert truncated[0] == (ending == "cut")
    assert terminated[0] == (ending != "cut")
    assert info["success"][0] == (ending == "won")


def test_a_lost_connection_aborts_one_copy():
    env = wrap([FakeSmacV2(0, lost_connection=[3]), FakeSmacV2(1)])
    env.reset()
    before = [env.step(fight(env))[0] for _ in range(2)][-1]
    state, reward, terminated, truncated, info = env.step(fight(env))
    np.testing.assert_array_equal(info["aborted"], [True, False])
    np.testing.assert_array_equal(truncated, [True, False])
    np.testing.assert_array_equal(state[0], before[0])
    assert [flag.any() for flag in (terminated, reward, info["success"])] == [False] * 3
    assert env.aborted == 1
    info = env.step(fight(env))[-1]
    np.testing.assert_array_equal(info["aborted"], [False, False])
    np.testing.assert_array_equal(info["active"], [False, True])
    assert env.aborted == 1
    steps = play(env)  # the game has been started anew
    assert steps[-1][-1]["success"].all()


def test_aborted_episodes_are_dropped_by_the_collector():
    class Fighter:
        def __init__(self, env):
            self.env = env

        def reseed(self, seed):
            pass

        def act(self, states, observations, available, greedy=False):
            assert observations.shape == (3, 3, 5)
            actions = fight(self.env)
            return actions, np.zeros(actions.shape, np.float32)

    env = wrap([FakeSmacV2(0), FakeSmacV2(1, lost_connection=[3]), FakeSmacV2(2)])
    collector = Collector(env)
    episodes = collector.collect(Fighter(env), seed=0)
    assert len(episodes) == 2
    assert collector.aborted == 1
    assert episodes.success.all()


def test_some_copies_begin_anew():
    env = wrap([FakeSmacV2(seed) for seed in range(3)])
    end = play(env)[-1][0]
    state, _ = env.reset(envs=[1])
    np.testing.assert_array_equal(state[[0, 2]], end[[0, 2]])
    assert not np.array_equal(state[1], end[1])
    active = env.step(fight(env))[-1]["active"]
    np.testing.assert_array_equal(active, [False, True, False])


def test_closing_ends_the_games():
    battles = [FakeSmacV2(), FakeSmacV2()]
    wrap(battles).close()
    assert all(battle.closed for battle in battles)


# --- layout ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "m", "actions", "ally_shield", "enemy_shield", "bits", "size"),
    [
        (2, 1, 7, False, True, 0, 26),  # 2m_vs_1z
        (9, 9, 15, True, True, 3, 270),  # 1c3s5z
        (3, 5, 11, True, True, 0, 68),  # 3s_vs_5z
        (5, 6, 12, False, False, 0, 98),  # 5m_vs_6m
        (8, 9, 15, True, True, 2, 230),  # 3s5z_vs_3s6z
        (10, 12, 18, False, False, 3, 322),  # MMM2
    ],
)
def test_sizes_of_the_papers_maps(n, m, actions, ally_shield, enemy_shield, bits, size):
    shields = {"ally_shield": ally_shield, "enemy_shield": enemy_shield}
    names = feature_names(n, m, actions, type_bits=bits, **shields)
    assert len(names) == len(set(names)) == size
    if n == 2:  # the paper's example of an answer names these two
        assert names[8] == "enemy_health_0"
        assert names[11] == "enemy_shield_0"


def test_the_rule_gives_the_names_that_smacv2_gives():
    battle = FakeSmacV2()
    rule = feature_names(3, 2, 8, type_bits=3)
    assert rule == battle.get_state_feature_names()
    assert feature_names(1, 1, 2, last_action=False, timestep=True)[-1] == "timestep"


@pytest.mark.parametrize(
    "name", ["2m_vs_1z", "1c3s5z", "3s_vs_5z", "5m_vs_6m", "3s5z_vs_3s6z", "MMM2"]
)
def test_the_rule_gives_the_names_of_the_real_package(name):
    """Building the environment reads the map's table only; the game is not started."""
    battle = pytest.importorskip("smacv2.env").StarCraft2Env(map_name=name)
    named = describe(battle)
    battle.get_state_feature_names = None
    assert describe(battle) == named


def test_types_by_name():
    text = {entry.name: entry.text for entry in describe(FakeSmacV2()).state}
    assert text["ally_unit_type_2_bit_2"] == "1 if ally 2 is a medivac"
    text = {entry.name: entry.text for entry in describe(FakeSmac()).state}
    assert text["ally_unit_type_0_bit_0"] == "1 if ally 0 is a stalker"
    assert text["enemy_unit_type_0_bit_0"] == "1 if enemy 0 is a zealot"


def test_description():
    spec = describe(FakeSmacV2(), name="mine")
    assert spec.name == "mine"
    assert spec.n_actions == 8
    assert spec.actions[6] == "act on unit 0 (if in range)"
    assert "3 allies against 2 enemies, at most 12 steps. The types of the units are random" in (
        spec.configuration
    )
    conic = FakeSmacV2()
    conic.n_fov_actions = 1
    assert describe(conic).actions[6:] == (
        "look in direction 0 of 1",
        "act on unit 0 (if in range)",
    )


# --- making and errors ----------------------------------------------------------------------------


def test_scenarios_of_the_paper(monkeypatch):
    package, env = types.ModuleType("smacv2"), types.ModuleType("smacv2.env")
    env.StarCraftCapabilityEnvWrapper = FakeSmacV2
    monkeypatch.setitem(sys.modules, "smacv2", package)
    monkeypatch.setitem(sys.modules, "smacv2.env", env)
    made = make("zerg_10_vs_11", 2, seed=5, difficulty="A", min_attack_range=3)
    options = [battle.options for battle in made.battles]
    assert made.task_spec.name == "smacv2-zerg_10_vs_11"
    assert [option["seed"] for option in options] == [5, 6]
    assert options[0]["map_name"] == "10gen_zerg"
    assert options[0]["difficulty"] == "A"
    assert options[0]["min_attack_range"] == 3
    config = options[0]["capability_config"]
    assert (config["n_units"], config["n_enemies"]) == (10, 11)
    assert config["team_gen"]["exception_unit_types"] == ["baneling"]
    weights = dict(
        zip(config["team_gen"]["unit_types"], config["team_gen"]["weights"], strict=True)
    )
    assert weights == {"zergling": 0.45, "hydralisk": 0.45, "baneling": 0.1}


def test_make_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "smacv2.env", None)
    with pytest.raises(MissingExtraError, match=r"github.com/oxwhirl/smacv2"):
        make("terran_5_vs_5")
    with pytest.raises(TaskError, match="terran_5_vs_5"):
        make("human_5_vs_5")


def test_errors():
    with pytest.raises(ConfigError, match="battles is empty"):
        wrap([])
    other = FakeSmacV2()
    other.episode_limit = 3
    with pytest.raises(ConfigError, match="battles of one map"):
        wrap([FakeSmacV2(), other])
    with pytest.raises(TaskError, match="describe what it has"):
        wrap(FakeSmac(), task_spec=replace(describe(FakeSmac()), n_agents=2))
    env = wrap(FakeSmacV2())
    with pytest.raises(ConfigError, match=r"reset\(\) first"):
        env.step([[STOP] * 3])
    env.reset()
    with pytest.raises(ShapeError):
        env.step([STOP] * 3)
    with pytest.raises(ConfigError, match="agent 1 of copy 0 cannot take action 0 now"):
        env.step([[STOP, NO_OP, STOP]])


def test_a_state_that_cannot_be_named():
    odd = FakeSmacV2()
    odd.get_state_feature_names = lambda: ["morale_0"] * odd.get_env_info()["state_shape"]
    with pytest.raises(TaskError, match=r"'morale_0'.*task_spec="):
        describe(odd)
    short = FakeSmacV2()
    short.get_state_feature_names = lambda: ["timestep"]
    with pytest.raises(TaskError, match="names for 1"):
        describe(short)
    bare = FakeSmac()
    bare.unit_type_bits = None
    bare.get_env_info = FakeSmac().get_env_info
    with pytest.raises(TaskError, match="no unit_type_bits"):
        describe(bare)
    assert describe(FakeSmac()).d == FakeSmac().get_env_info()["state_shape"]

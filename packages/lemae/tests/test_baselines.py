"""Baselines: what each of them pays, and that it goes on after a restart."""

import copy
import json
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lemae import envs
from lemae._codegen import DialogueError, ScriptedLLM
from lemae.algos.rollout import Collector, Episodes
from lemae.baselines import (
    BASELINES,
    CountBonus,
    DenseRewards,
    DiscriminatorBonus,
    HerBonus,
    RandomDistillation,
    RewardBonus,
    RewardFunction,
    create,
    generate_reward,
    names,
)
from lemae.baselines.her import later_times
from lemae.baselines.reward_generation import problems, prompt
from lemae.errors import ConfigError, IntegrityError, LemaeWarning, ShapeError, StateError
from lemae.probes import probes
from lemae.task import StateEntry, TaskSpec
from lemae.training import Settings, train

HIGHS = (5, 4, 5, 4, 1)


def task(*, agents=True, real=False):
    who = "agent" if agents else "unit"
    entries = [
        StateEntry(f"{who} {i} {axis}", 0, high)
        for i in range(2)
        for axis, high in (("x", 5), ("y", 4))
    ]
    door = StateEntry("door", 0, 1, integer=not real)
    return TaskSpec(
        "toy", "Walk.", "6 x 5 cells.", (*entries, door), 2, ("left", "right", "stay"), 9
    )


def some_episodes(seed=0, count=5, limit=7, *, success=False, chains=None):
    """Random episodes of different lengths; what stands behind their ends is no state."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, limit + 1, count)
    steps = int(lengths.max())
    shape = (steps, count, 2)
    states = rng.integers(np.array(HIGHS) + 1, size=(steps + 1, count, 5)).astype(np.float32)
    states[np.arange(steps + 1)[:, None] > lengths] = np.nan
    return Episodes(
        states=states,
        actions=rng.integers(3, size=shape),
        rewards=rng.normal(size=(steps, count)),
        log_probs=np.zeros(shape, np.float32),
        random=np.zeros(shape, bool),
        epsilon=np.zeros((steps, count), np.float32),
        lengths=lengths,
        success=np.full(count, success),
        terminated=np.full(count, success),
        chains=[()] * count if chains is None else chains,
    )


def same(one, other):
    """Whether two nested states are equal bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else np.array_equal(one, other)


# --- by name ------------------------------------------------------------------------------------

SOURCE = """
def reward(state, next_state):
    goal = np.where(next_state[:, 4] > 0.5, 5.0, 0.0)
    return 0.1 * (abs(state[:, 0] - goal) - abs(next_state[:, 0] - goal))
"""


@pytest.fixture
def reward_file(tmp_path):
    path = tmp_path / "reward.py"
    path.write_text(SOURCE)
    return path


def built(name, reward_file, seed=0):
    env = task()
    options = {"path": reward_file} if name == "llm-reward" else {}
    if name == "dense":
        env = DenseRewards(envs.make("pass"))
    return create(name, env, ["a key state"], seed=seed, **options)


def test_a_byte_order_mark_is_no_part_of_a_reward(tmp_path):
    path = tmp_path / "reward.py"
    path.write_text(SOURCE, encoding="utf-8-sig")
    assert RewardFunction.from_path(path).source == SOURCE


@pytest.mark.parametrize("name", names())
def test_every_baseline_pays_for_steps_and_for_nothing_behind_the_end(name, reward_file):
    made = built(name, reward_file)
    episodes = some_episodes(chains=[((1, 0),)] * 5)
    before = copy.deepcopy(vars(episodes))
    made.observe(episodes)
    bonus = made.bonus(episodes)
    assert bonus.dtype == np.float64
    assert bonus.shape == episodes.rewards.shape
    assert np.isfinite(bonus).all()
    assert (bonus[~episodes.valid] == 0).all()
    assert (bonus != 0).any() == (name != "dense")
    for field, value in before.items():
        assert np.array_equal(getattr(episodes, field), value, equal_nan=field == "states")


@pytest.mark.parametrize("name", names())
def test_every_baseline_goes_on_bit_for_bit_after_a_restart(name, reward_file):
    def go_on(made, seeds):
        paid = []
        for seed in seeds:
            made.observe(some_episodes(seed))
            paid.append(made.bonus(some_episodes(seed + 1)))
        return paid

    whole, first, second = (built(name, reward_file, seed=3) for _ in range(3))
    expected = go_on(whole, range(6))[3:]
    go_on(first, range(3))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert same(go_on(second, range(3, 6)), expected)
    assert same(whole.state_dict(), second.state_dict())


@pytest.mark.parametrize("name", names())
def test_states_of_baselines_are_tensors_arrays_and_plain_values(name, reward_file):
    def kinds(value):
        if isinstance(value, dict):
            return set().union(*map(kinds, value.values()))
        if isinstance(value, list | tuple):
            return set().union(*map(kinds, value))
        return {type(value)}

    made = built(name, reward_file)
    made.observe(some_episodes())
    plain = {torch.Tensor, np.ndarray, int, float, bool, str, type(None)}
    assert kinds(made.state_dict()) <= plain


def test_names_and_options_are_suggested():
    with pytest.raises(ConfigError, match=re.escape("no baseline 'cuont': did you mean count?")):
        create("cuont", task())
    with pytest.raises(ConfigError, match="choose from count, dense, discriminator"):
        create("xyz", task())
    with pytest.raises(
        ConfigError, match=re.escape("'rnd' has no option 'hiden': did you mean hidden?")
    ):
        create("rnd", task(), hiden=3)
    with pytest.raises(ConfigError, match="'dense' has no option 'scale': it takes none"):
        create("dense", task(), scale=3)
    assert set(BASELINES["count"].options()) == {
        "bins",
        "groups",
        "width",
        "scale",
        "until_success",
    }


@pytest.mark.parametrize("name", ["count", "her", "rnd"])
def test_every_option_that_is_named_can_be_given(name):
    defaults = {
        "bins": 5, "groups": None, "width": 2.0, "scale": 0.2, "until_success": True, "alpha": 1.0,
        "beta": 0.2, "hidden": 8, "outputs": 4, "learning_rate": 0.1, "batch": 9,
    }  # fmt: skip
    create(name, task(), **{option: defaults[option] for option in BASELINES[name].options()})


def test_what_a_baseline_needs_is_named():
    with pytest.raises(ConfigError, match="give an environment with a task_spec, or a TaskSpec"):
        create("count", object())
    with pytest.raises(ConfigError, match="give key_states="):
        create("discriminator", task())
    with pytest.raises(ConfigError, match=re.escape("give path=, a .py file")):
        create("llm-reward", task())
    with pytest.raises(ConfigError, match="pays for success alone"):
        create("dense", envs.make("pass"))


def test_an_environment_will_do_in_place_of_its_task():
    env = envs.make("pass", num_envs=2)
    assert create("count", env).groups == ((0, 1, 4), (2, 3, 4))


# --- count --------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), rounds=st.integers(1, 4))
def test_counts_are_those_of_a_dictionary(seed, rounds):
    groups = ((0, 1, 4), (2, 3), (4,))
    made = CountBonus(5, groups=groups, scale=0.3)
    counts = {}
    for number in range(rounds):
        episodes = some_episodes(seed + number)
        made.observe(episodes)
        for state in episodes.states[1:][episodes.valid].tolist():
            for group in groups:
                cell = (group, *(state[i] for i in group))
                counts[cell] = counts.get(cell, 0) + 1
    new = some_episodes(seed + 100)
    bonus = made.bonus(new)
    for t, b in np.argwhere(new.valid):
        state = new.states[t + 1, b].tolist()
        often = [counts.get((group, *(state[i] for i in group)), 0) for group in groups]
        assert made.counts(np.array([state])).tolist() == [often]
        wanted = 0.3 * np.mean([1 / np.sqrt(max(n, 1)) for n in often])
        assert bonus[t, b] == pytest.approx(wanted)


def test_each_agent_is_counted_with_what_is_nobodys():
    assert CountBonus.for_task(task()).groups == ((0, 1, 4), (2, 3, 4))
    assert CountBonus.for_task(task(agents=False)).groups == ((0, 1, 2, 3, 4),)
    assert CountBonus.for_task(task(), groups=[(4,)]).groups == ((4,),)


def test_real_numbers_are_counted_in_bins():
    made = CountBonus.for_task(task(real=True), bins=4, groups=[(4,)])
    states = np.zeros((5, 5))
    states[:, 4] = [0.0, 0.2, 0.24, 0.26, 0.9]
    made.learn(states)
    assert made.counts(states)[:, 0].tolist() == [3, 3, 3, 1, 1]


def test_negative_and_large_numbers_have_cells_of_their_own():
    made = CountBonus(2)
    states = np.array([[-1, 0], [0, -1], [1e6, 0], [0.5, 0], [-0.5, 0]])
    made.learn(states)
    assert made.counts(states)[:, 0].tolist() == [2, 1, 1, 1, 2]


def test_a_large_state_space_has_no_collisions():
    grid = np.stack(np.meshgrid(*[np.arange(12.0)] * 5), axis=-1).reshape(-1, 5)
    made = CountBonus(5)
    made.learn(grid)
    assert (made.counts(grid) == 1).all()


@pytest.mark.parametrize("name", ["count", "rnd"])
def test_novelty_ends_with_the_first_success_if_asked_to(name):
    for until_success in (False, True):
        made = create(name, task(), until_success=until_success)
        made.observe(some_episodes(0))
        assert made.bonus(some_episodes(1)).any()
        made.observe(some_episodes(2, success=True))
        assert made.bonus(some_episodes(1)).any() != until_success
        restored = create(name, task(), until_success=until_success)
        restored.load_state_dict(made.state_dict())
        assert restored.bonus(some_episodes(1)).any() != until_success


SCALED = {
    "count": lambda scale: CountBonus(5, scale=scale),
    "rnd": lambda scale: RandomDistillation.for_task(task(), scale=scale),
    "discriminator": DiscriminatorBonus,
    "llm-reward": lambda scale: RewardBonus(None, scale),
}


@pytest.mark.parametrize("name", SCALED)
def test_scales_are_finite(name):
    for scale in (np.inf, np.nan, "much"):
        with pytest.raises(ConfigError, match=f"scale is '?{scale}'?: give a finite number"):
            SCALED[name](scale)
    if name != "llm-reward":  # whose reward may count the other way round
        with pytest.raises(ConfigError, match="scale is -1: give a finite number of at least 0"):
            SCALED[name](-1)


def test_counts_refuse_what_does_not_fit():
    with pytest.raises(ConfigError, match="indices from 0 to 4"):
        CountBonus(5, groups=[(0, 5)])
    for width in (0, np.inf, np.nan):
        with pytest.raises(ConfigError, match=f"width is {width}"):
            CountBonus(5, width=width)
    with pytest.raises(ConfigError, match="bins is 0"):
        CountBonus.for_task(task(), bins=0)
    with pytest.raises(ShapeError, match=re.escape("give [M, 5]")):
        CountBonus(5).counts(np.zeros((3, 4)))
    with pytest.raises(StateError, match="same arguments"):
        CountBonus(5, seed=1).load_state_dict(CountBonus(5).state_dict())


# --- random network distillation ----------------------------------------------------------------


def test_the_error_falls_where_it_has_been():
    made = RandomDistillation.for_task(task(), seed=1)
    rng = np.random.default_rng(0)
    near = rng.integers((2, 5, 6, 5, 1), size=(400, 5)).astype(np.float64)
    far = near + np.array([4, 0, 0, 0, 1])
    before_near, before_far = made.error(near).mean(), made.error(far).mean()
    for _ in range(60):
        made.learn(near)
    assert made.error(near).mean() < 0.05 * before_near
    assert made.error(far).mean() > 5 * made.error(near).mean()
    assert made.novelty(far).mean() > 5 * made.novelty(near).mean()
    assert before_far > 0


def test_the_bonus_is_in_units_of_the_usual_error():
    for scale in (1.0, 0.5):
        made = RandomDistillation.for_task(task(), scale=scale, learning_rate=1e-9)
        episodes = some_episodes(0, count=200)
        made.observe(episodes)
        bonus = made.bonus(episodes)[episodes.valid]
        assert np.sqrt(np.square(bonus).mean()) == pytest.approx(scale, rel=1e-3)


def test_only_the_trained_network_changes():
    made = RandomDistillation.for_task(task())
    before = copy.deepcopy(made.state_dict())
    made.observe(some_episodes())
    after = made.state_dict()
    assert same(before["target"], after["target"])
    assert not same(before["predictor"], after["predictor"])


def test_whole_numbers_are_read_as_one_hot_and_others_scaled():
    lows, highs = np.array([0.0, -2, 1, 0]), np.array([3.0, 2, 4, 1000])
    read = RandomDistillation(lows, highs, np.array([True, False, True, True]))._read
    assert read.size == 2 + 4 + 4
    features = read(np.array([[2.0, 1.0, 4.0, 500.0]]))
    assert features.tolist() == [[0.5, 0.0, 0, 0, 1, 0, 0, 0, 0, 1]]


def test_networks_come_from_the_seed_and_leave_the_global_generator_alone():
    before = torch.random.get_rng_state()
    states = some_episodes().states[0]
    errors = [RandomDistillation.for_task(task(), seed=seed).error(states) for seed in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(errors[0], errors[1])
    assert not np.array_equal(errors[0], errors[2])


def test_distillation_refuses_what_does_not_fit():
    with pytest.raises(ConfigError, match="hidden is 0: give a whole number"):
        RandomDistillation.for_task(task(), hidden=0)
    with pytest.raises(ConfigError, match="learning_rate is inf"):
        RandomDistillation.for_task(task(), learning_rate=np.inf)
    with pytest.raises(ConfigError, match="one finite range per index"):
        RandomDistillation(np.zeros(1), np.full(1, np.inf), np.zeros(1, bool))
    with pytest.raises(ConfigError, match="one finite range per index"):
        RandomDistillation(np.zeros(3), -np.ones(3), np.zeros(3, bool))
    with pytest.raises(ShapeError, match=re.escape("give [M, 5]")):
        RandomDistillation.for_task(task()).error(np.zeros((2, 3)))


# --- hindsight experience replay ----------------------------------------------------------------


def test_goals_come_from_the_future_of_the_same_episode():
    """In an episode of one step there is one goal; of two, the first step has both."""
    episodes = some_episodes(0, count=400)
    bonus = HerBonus(beta=0.5, seed=3).bonus(episodes)
    states = episodes.states.astype(np.float64)

    def nearer(t, b, goal):
        now, following = (np.abs(states[i, b] - states[goal, b]).sum() for i in (t, t + 1))
        return 0.5 * (now - following)

    for t, b in np.ndindex(*bonus.shape):
        length = episodes.lengths[b]
        wanted = [nearer(t, b, goal) for goal in range(t + 1, length + 1)] or [0.0]
        assert np.isclose(bonus[t, b], wanted).any()
    assert bonus.any()


def test_all_later_times_are_goals_equally_often():
    for t in range(4):
        times = later_times(np.full(20_000, t), np.full(20_000, 4), np.random.default_rng(t))
        shares = np.bincount(times, minlength=5)
        assert not shares[: t + 1].any()
        wanted = np.full(4 - t, 1 / (4 - t))
        assert shares[t + 1 :] / 20_000 == pytest.approx(wanted, abs=0.02)


def test_goals_are_drawn_anew_for_every_batch():
    episodes = some_episodes(0, count=50)
    made = HerBonus()
    assert not np.array_equal(made.bonus(episodes), made.bonus(episodes))


def test_the_weight_of_hindsight():
    episodes = some_episodes(0, count=50)
    made = create("her", None, beta=0.3, seed=4)
    assert np.allclose(made.bonus(episodes), 3 * HerBonus(beta=0.1, seed=4).bonus(episodes))
    for beta in (-1, np.inf, np.nan):
        with pytest.raises(ConfigError, match=f"beta is {beta}: give a finite number"):
            HerBonus(beta=beta)
    with pytest.raises(ConfigError, match="'her' has no option 'alpha'"):
        create("her", None, alpha=10)


@pytest.mark.parametrize(("options", "beta"), [({}, 0.05), ({"beta": 0.2}, 0.2)])
def test_hindsight_has_the_weight_of_its_run(options, beta, monkeypatch):
    """Push-Box has a published one of its own."""
    made = []
    monkeypatch.setattr(HerBonus, "observe", lambda self, episodes: made.append(self))
    train(Settings("push-box", "her", steps=1, num_envs=1, evaluation_episodes=1, **options))
    assert made[0].beta == beta


# --- discriminators -----------------------------------------------------------------------------


def test_each_key_state_pays_once_at_the_step_that_met_it():
    chains = [((1, 0), (3, 2), (3, 1)), (), ((2, 1),)]
    episodes = some_episodes(0, count=3, chains=chains)
    episodes = episodes.select(np.arange(3))
    episodes.lengths[:] = len(episodes.rewards)
    bonus = DiscriminatorBonus(scale=0.5).bonus(episodes)
    wanted = np.zeros_like(bonus)
    wanted[0, 0], wanted[2, 0], wanted[1, 2] = 0.5, 1.0, 0.5
    assert np.array_equal(bonus, wanted)


# --- rewards by a language model ----------------------------------------------------------------


def answer(source):
    return json.dumps({"reasoning": "nearer is better", "reward": source})


@pytest.fixture(scope="module")
def tried():
    return probes(task(), 64)


def test_a_written_reward_is_computed_step_by_step():
    made = RewardFunction(SOURCE)
    episodes = some_episodes(0, count=20)
    bonus = RewardBonus(made, scale=2.0).bonus(episodes)
    for t, b in np.argwhere(episodes.valid):
        now, later = episodes.states[t, b], episodes.states[t + 1, b]
        goal = 5 if later[4] == 1 else 0
        assert bonus[t, b] == pytest.approx(0.2 * (abs(now[0] - goal) - abs(later[0] - goal)))


def test_any_number_of_steps_may_be_rewarded_at_once():
    made = RewardFunction(SOURCE)
    states = np.random.default_rng(0).integers(5, size=(10_001, 5)).astype(float)
    paid = made(states[:-1], states[1:])
    assert np.array_equal(paid[7000:7010], made(states[7000:7010], states[7001:7011]))
    assert made(states[:0], states[:0]).shape == (0,)


def test_rewards_that_are_not_finite_count_as_nothing_with_one_warning():
    made = RewardFunction("def reward(state, next_state):\n    return 1 / next_state[:, 0]")
    states = np.array([[0.0], [2.0], [0.0]])
    with pytest.warns(LemaeWarning, match="not finite; they count as 0"):
        assert made(states, states).tolist() == [0, 0.5, 0]
    made(states, states)
    assert made.n_repaired == 4


def test_what_is_not_allowed_never_runs():
    source = "import os\ndef reward(state, next_state):\n    return os.getpid()"
    with pytest.raises(ConfigError, match=re.escape("not allowed")):
        RewardFunction(source)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    return state[:, :1]", "return one array of shape"),
        ("    return state[:, 9]", "IndexError"),
        ("    return state[:, 0] - state[:, 0].mean()", "depends on the other steps"),
        ("    return 0 * state[:, 0] + 1", "the same for every step"),
        ("    return 1 / state[:, 0]", "not finite"),
        ("    while True:\n        pass", "`while` loop"),
    ],
)
def test_bad_rewards_are_rejected_with_the_reason(body, message, tried):
    found = problems(f"def reward(state, next_state):\n{body}\n", tried)
    assert message in "\n".join(found)


def test_a_good_reward_has_no_problems(tried):
    assert problems(SOURCE, tried) == []


def test_generation_repairs_what_failed_and_keeps_a_transcript(tried, tmp_path):
    llm = ScriptedLLM(
        [
            "no JSON",
            answer("def reward(state, next_state):\n    return open('x')"),
            answer("def reward(state, next_state):\n    return state"),
            answer(SOURCE),
        ]
    )
    made = generate_reward(task(), llm, tried, out=tmp_path / "made")
    assert made.source == SOURCE
    assert made.meta["model"] == "scripted"
    assert made.meta["task"]["name"] == "toy"
    assert "The function was rejected" in llm.requests[3]["messages"][-1]["content"]
    turns = (tmp_path / "made" / "transcript.jsonl").read_text().splitlines()
    assert sum('"messages"' in turn for turn in turns) == 4
    again = RewardFunction.from_path(tmp_path / "made")
    assert (again.source, again.meta["origin"]) == (SOURCE, "language model")
    bonus = create("llm-reward", task(), path=tmp_path / "made", scale=3.0)
    assert bonus.bonus(some_episodes()).any()


def test_generation_stops_at_its_bound(tried):
    llm = ScriptedLLM(["nothing"] * 10)
    with pytest.raises(DialogueError, match=re.escape("3 attempt(s)")):
        generate_reward(task(), llm, tried, max_repair=2)
    assert len(llm.requests) == 3


def test_states_to_try_are_collected_from_an_environment():
    env = envs.make("pass", num_envs=4)
    made = generate_reward(env.task_spec, ScriptedLLM([answer(SOURCE)]), env)
    assert made.sha256


def test_the_prompt_tells_what_key_states_are_told():
    told = envs.make("secret-room").task_spec
    text = prompt(told)
    for part in (
        told.description,
        told.configuration,
        told.layout(),
        "def reward(state, next_state)",
    ):
        assert part in text
    assert "$" not in text


def test_saved_rewards_are_refused_when_they_were_changed(tmp_path):
    folder = RewardFunction(SOURCE, meta={"origin": "by hand"}).save(tmp_path / "made")
    assert RewardFunction.from_path(folder).meta["origin"] == "by hand"
    assert RewardFunction.from_path(folder / "reward.py").meta == {}
    (folder / "reward.py").write_text(SOURCE.replace("0.1", "0.2"))
    with pytest.raises(IntegrityError, match="changed after it was checked"):
        RewardFunction.from_path(folder)
    (folder / "meta.json").write_text("{")
    with pytest.raises(IntegrityError, match="is damaged"):
        RewardFunction.from_path(folder)
    (folder / "meta.json").unlink()
    with pytest.raises(ConfigError, match=re.escape("meta.json is missing")):
        RewardFunction.from_path(folder)
    with pytest.raises(ConfigError, match=re.escape("is missing: give a .py file")):
        RewardFunction.from_path(tmp_path / "nowhere.py")


# --- dense rewards ------------------------------------------------------------------------------


class Climb:
    """One agent climbs to 3; its height is the dense reward."""

    num_envs, n_agents, n_actions, d, episode_limit = 4, 1, 2, 1, 6

    def __init__(self, *, dense=True):
        self.dense = dense

    def reset(self, *, seed=None):
        self.height, self.time = np.zeros(self.num_envs), 0
        return self.height[:, None].astype(np.float32), {}

    def available(self):
        return np.ones((self.num_envs, 1, 2), bool)

    def step(self, actions):
        self.height, self.time = self.height + actions[:, 0], self.time + 1
        won = self.height == 3
        info = {"dense_reward": 10 * self.height} if self.dense else {}
        over = np.full(self.num_envs, self.time == 6)
        return self.height[:, None].astype(np.float32), won.astype(float), won, over & ~won, info


class AlwaysUp:
    def reseed(self, seed):
        pass

    def act(self, states, observations, available, greedy=False):
        shape = (len(states), 1)
        return np.ones(shape, np.int64), np.zeros(shape, np.float32)


def test_dense_rewards_are_paid_and_success_stays_what_it_was():
    env = DenseRewards(Climb())
    played = Collector(env).collect(AlwaysUp(), seed=0)
    assert played.rewards[:3, 0].tolist() == [10, 20, 30]
    assert played.success.all()
    assert (played.lengths == 3).all()
    assert played.available is not None
    assert env.episode_limit == 6
    made = create("dense", env)
    assert not made.bonus(played).any()


def test_an_environment_without_dense_reward_is_told_so():
    env = DenseRewards(Climb(dense=False))
    env.reset()
    with pytest.raises(ConfigError, match="has no dense reward"):
        env.step(np.zeros((4, 1), np.int64))
    with pytest.raises(AttributeError):
        _ = env.nothing_of_the_kind
    assert copy.copy(env).num_envs == 4

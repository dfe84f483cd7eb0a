"""Pictures of maps, agents and visits."""

import gymnasium
import numpy as np
import pytest

from lemae.envs import GridEnv, count_visits, make, names, render
from lemae.errors import ConfigError, ShapeError

SIDE = 12


def cell(picture, x, y, side=SIDE):
    return picture[y * side : (y + 1) * side, x * side : (x + 1) * side].reshape(-1, 3)


def color(picture, x, y):
    """The one color of a cell."""
    (found,) = np.unique(cell(picture, x, y), axis=0)
    return tuple(found.tolist())


@pytest.mark.parametrize("name", names())
def test_every_task_can_be_drawn(name):
    env = make(name, 2, seed=0, render_mode="rgb_array")
    state, _ = env.reset()
    frames = env.render()
    side = env.grid_map.size * SIDE
    assert [frame.shape for frame in frames] == [(side, side, 3)] * 2
    assert frames[0].dtype == np.uint8
    np.testing.assert_array_equal(frames[1], render(env, state[1]))
    np.testing.assert_array_equal(render(env), render(env.grid_map))
    assert (frames[0] != render(env)).any()


def test_no_pictures_without_a_mode():
    env = make("pass")
    env.reset()
    assert env.render() is None
    one = GridEnv("pass")
    one.reset()
    assert one.render() is None


def test_wrapped_environments_have_a_map():
    one = gymnasium.make("lemae/Pass-v0", render_mode="rgb_array")
    one.reset(seed=0)
    np.testing.assert_array_equal(one.render(), render(one, [4, 4, 3, 3, 0]))


def test_what_has_which_color():
    env = make("pass")
    shut, opened = (render(env, [0, 0, 1, 1, door]) for door in (0, 1))
    wall, door, open_door = color(shut, 15, 0), color(shut, 15, 12), color(opened, 15, 12)
    floor, goal, switch = color(shut, 10, 10), color(shut, 20, 20), color(shut, 3, 24)
    assert len({wall, door, open_door, floor, goal, switch}) == 6
    assert sum(open_door) > sum(door)
    assert color(shut, 15, 18) == door
    assert color(shut, 15, 19) == wall
    assert color(shut, 7, 26) == switch  # 16 + 4 is within 20.25
    assert color(shut, 7, 27) == floor  # 16 + 9 is not
    assert (shut != opened).any(axis=-1).sum() == 7 * SIDE**2


def test_each_door_of_secret_room_by_its_bit():
    env = make("secret-room")
    for code, open_row in ((4, 4), (2, 12), (1, 20)):
        picture = render(env, [0, 0, 1, 1, code])
        colors = {row: color(picture, 12, row) for row in (4, 12, 20)}
        closed = [colors[row] for row in (4, 12, 20) if row != open_row]
        assert closed[0] == closed[1] != colors[open_row]


def test_the_box_is_where_the_state_says():
    env = make("push-box")
    there, here = render(env, [0, 0, 1, 1, 10, 4]), render(env)
    ochre = color(there, 10, 4)
    assert color(there, 11, 5) == color(there, 9, 3) == color(here, 7, 7) == ochre
    assert color(there, 7, 7) != ochre


def test_rivers_and_the_mountain():
    picture = render(make("river"))
    water, mountain = color(picture, 15, 3), color(picture, 3, 20)
    assert color(picture, 3, 15) == water
    assert len({water, mountain, color(picture, 3, 3), color(picture, 20, 20)}) == 4


def test_both_agents_are_seen_in_one_cell():
    env = make("pass")
    empty, first, second = (
        render(env, state) for state in ([0, 0, 0, 0, 0], [5, 5, 9, 9, 0], [9, 9, 5, 5, 0])
    )
    both = {tuple(c) for c in cell(empty, 0, 0).tolist()}
    blue = {tuple(c) for c in cell(first, 5, 5).tolist()}
    red = {tuple(c) for c in cell(second, 5, 5).tolist()}
    assert both == blue | red
    assert len(both) == 3
    assert len(blue) == len(red) == 2


def test_a_whole_episode_in_one_picture():
    env = make("pass")
    states = [[4, 4, 3, 3, 0], [5, 4, 3, 4, 0], [6, 4, 3, 5, 1]]
    trace = render(env, states)
    for x, y in ((4, 4), (5, 4), (6, 4), (3, 3), (3, 4), (3, 5)):
        assert len(np.unique(cell(trace, x, y), axis=0)) == 2
    assert color(trace, 15, 15) == color(render(env, states[-1]), 15, 15)


def test_visits():
    env = make("pass")
    states = np.array([[[4, 4, 3, 3, 0], [5, 4, 3, 3, 0]], [[4, 4, 3, 2, 0], [4, 4, 4, 4, 0]]])
    counts = count_visits(env, states)
    assert counts.shape == (30, 30)
    assert counts.sum() == 8
    assert counts[4, 4] == 4
    assert counts[3, 3] == 2
    assert counts[4, 5] == counts[2, 3] == 1
    assert count_visits(env, states, agent=1)[4, 4] == 1
    assert count_visits(env.grid_map, states[0, 0]).sum() == 2
    picture = render(env, visits=counts)
    plain = render(env)
    shades = [color(picture, 5, 4), color(picture, 3, 3), color(picture, 4, 4)]
    assert sum(shades[0]) > sum(shades[1]) > sum(shades[2])
    changed = (picture != plain).any(axis=-1).reshape(30, SIDE, 30, SIDE).any(axis=(1, 3))
    np.testing.assert_array_equal(changed, counts > 0)


def test_no_visits_at_all():
    env = make("river")
    np.testing.assert_array_equal(render(env, visits=np.zeros((30, 30))), render(env))


def test_the_size_of_a_cell():
    assert render(make("push-box"), cell_px=1).shape == (15, 15, 3)
    with pytest.raises(ConfigError, match="cell_px is 0"):
        render(make("push-box"), cell_px=0)


def test_bad_input():
    env = make("pass")
    with pytest.raises(ConfigError, match="str has no grid map"):
        render("pass")
    for states in ([4, 4, 3, 3], [[4, 4]], 3, np.zeros((0, 5)), np.zeros((2, 2, 5))):
        with pytest.raises(ShapeError, match=r"give \[5\], or \[k, 5\]"):
            render(env, states)
    with pytest.raises(ShapeError, match="leave the grid of 30 by 30"):
        render(env, [30, 4, 3, 3, 0])
    with pytest.raises(ShapeError, match=r"visits have shape \(2, 2\): give \(30, 30\)"):
        render(env, visits=np.ones((2, 2)))
    for bad in (-1.0, np.nan):
        with pytest.raises(ConfigError, match="below 0 or nan"):
            render(env, visits=np.full((30, 30), bad))
    with pytest.raises(ConfigError, match="agent is 2: give a number from 0 to 1"):
        count_visits(env, [4, 4, 3, 3, 0], agent=2)

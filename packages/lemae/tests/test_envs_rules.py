"""The rules of every grid task, in cases traced by hand."""

import numpy as np
import pytest

from lemae.envs import GridMap, Switch, make

UP, DOWN, LEFT, RIGHT = range(4)
N_ACTIONS = 4


def play(name, state, *actions, **options):
    """States after each joint action, as lists of whole numbers; None starts as reset does."""
    env = make(name, seed=0, **options)
    env.reset() if state is None else env.reset_to(state)
    return [env.step([joint])[0][0].astype(int).tolist() for joint in actions]


def last(name, state, *actions, **options):
    return play(name, state, *actions, **options)[-1]


def wins(name, state, action, **options):
    env = make(name, **options)
    env.reset_to(state)
    _, reward, terminated, truncated, info = env.step([action])
    assert reward[0] == terminated[0] == info["success"][0]
    assert not truncated[0]
    return bool(terminated[0])


# --- starts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("pass", [4, 4, 3, 3, 0]),
        ("large-pass", [6, 6, 5, 5, 0]),
        ("secret-room", [3, 3, 2, 2, 0]),
        ("push-box", [11, 11, 9, 9, 7, 7]),
        ("pass-single", [4, 4, 0]),
        ("large-pass-single", [6, 6, 0]),
        ("secret-room-single", [3, 3, 0]),
        ("push-box-single", [11, 11, 7, 7]),
    ],
)
def test_starts_are_fixed(name, state):
    assert make(name, 3).reset()[0].tolist() == [state] * 3


# --- moving ---------------------------------------------------------------------------------------


def test_directions():
    """0 is up, and up is a smaller y."""
    start = [4, 4, 3, 3, 0]
    assert last("pass", start, (UP, DOWN)) == [4, 3, 3, 4, 0]
    assert last("pass", start, (LEFT, RIGHT)) == [3, 4, 4, 3, 0]


@pytest.mark.parametrize(
    ("corner", "out"),
    [((0, 0), (UP, LEFT)), ((29, 0), (UP, RIGHT)), ((0, 29), (DOWN, LEFT)),
     ((29, 29), (DOWN, RIGHT))],
)  # fmt: skip
def test_the_grid_ends_at_its_border(corner, out):
    state = [*corner, 3, 3, 0]
    inside = [action for action in range(N_ACTIONS) if action not in out]
    for action in out:
        assert last("pass", state, (action, UP))[:2] == list(corner)
    for action in inside:
        assert last("pass", state, (action, UP))[:2] != list(corner)


def test_agents_do_not_collide():
    assert last("pass", [4, 3, 3, 3, 0], (LEFT, RIGHT)) == [3, 3, 4, 3, 0]
    assert last("pass", [4, 3, 3, 3, 0], (LEFT, UP), (UP, UP)) == [3, 2, 3, 1, 0]
    assert last("pass", [4, 3, 3, 3, 0], (LEFT, DOWN), (DOWN, UP)) == [3, 4, 3, 3, 0]
    assert last("pass", [4, 3, 2, 3, 0], (LEFT, RIGHT)) == [3, 3, 3, 3, 0]


# --- Pass: wall, door, switches -------------------------------------------------------------------


@pytest.mark.parametrize("y", [0, 11, 12, 15, 18, 19, 29])
def test_a_closed_door_is_wall_like_the_rest_of_its_column(y):
    assert last("pass", [14, y, 0, 0, 0], (RIGHT, UP))[:2] == [14, y]
    assert last("pass", [16, y, 0, 0, 0], (LEFT, UP))[:2] == [16, y]


@pytest.mark.parametrize(("y", "passes"), [(11, 0), (12, 1), (15, 1), (18, 1), (19, 0)])
def test_an_open_door_is_seven_cells_high(y, passes):
    """Agent 1 stays near the left switch at (3, 24)."""
    assert last("pass", [14, y, 3, 24, 1], (RIGHT, UP))[:2] == [14 + passes, y]


@pytest.mark.parametrize(("y", "passes"), [(19, 0), (20, 1), (30, 1), (31, 0)])
def test_the_door_of_large_pass(y, passes):
    assert last("large-pass", [24, y, 5, 40, 1], (RIGHT, UP))[:2] == [24 + passes, y]


@pytest.mark.parametrize(
    ("name", "switch", "near", "far"),
    [
        # 4.5: 20 = 16 + 4 is within 20.25, 25 = 16 + 9 is not
        ("pass", (3, 24), (4, 2), (4, 3)),
        ("pass", (24, 3), (2, 4), (3, 4)),
        # 7.5: 53 = 49 + 4 is within 56.25, 58 = 49 + 9 is not
        ("large-pass", (5, 40), (7, 2), (7, 3)),
        ("large-pass", (40, 5), (2, 7), (3, 7)),
    ],
)
def test_how_near_a_switch_is_near(name, switch, near, far):
    """Checked with the agent walking in place against nothing: one step away and back."""
    for apart, opens in ((near, 1), (far, 0)):
        target = (switch[0] + apart[0], switch[1] + apart[1])
        start = [target[0] + 1, target[1], 3, 3, 0]
        assert last(name, start, (LEFT, UP))[-1] == opens, (switch, apart)


@pytest.mark.parametrize(("apart", "opens"), [((3, 0), 1), ((0, -3), 1), ((3, 1), 0), ((2, 2), 1)])
def test_exactly_at_the_distance_is_near(apart, opens):
    """On the map of 20 cells the distance is 3, a whole number."""
    x, y = 2 + apart[0], 16 + apart[1]
    assert last("pass", [x + 1, y, 5, 5, 0], (LEFT, UP), size=20)[-1] == opens


def test_the_door_opens_for_the_next_step():
    """Agent 0 reaches the switch while agent 1 runs against the door: too early by one step."""
    states = play("pass", [8, 24, 14, 15, 0], (LEFT, RIGHT), (UP, RIGHT))
    assert states == [[7, 24, 14, 15, 1], [7, 23, 15, 15, 1]]


def test_the_order_of_the_agents_does_not_matter():
    states = play("pass", [14, 15, 8, 24, 0], (RIGHT, LEFT), (RIGHT, UP))
    assert states == [[14, 15, 7, 24, 1], [15, 15, 7, 23, 1]]


def test_no_latch():
    states = play("pass", [7, 24, 3, 3, 1], (RIGHT, UP), (LEFT, UP), (RIGHT, UP))
    assert [state[-1] for state in states] == [0, 1, 0]


def test_the_last_step_of_leaving_is_still_usable():
    """The door closes after the moves of the step in which the switch is left."""
    assert last("pass", [7, 24, 14, 15, 1], (RIGHT, RIGHT)) == [8, 24, 15, 15, 0]


def test_an_agent_in_a_doorway_that_closes_can_step_out_sideways_only():
    caught = [8, 24, 15, 15, 0]
    assert last("pass", caught, (RIGHT, LEFT))[2:] == [14, 15, 0]
    assert last("pass", caught, (RIGHT, RIGHT))[2:] == [16, 15, 0]
    assert last("pass", caught, (RIGHT, UP))[2:] == [15, 15, 0]
    assert last("pass", caught, (RIGHT, DOWN))[2:] == [15, 15, 0]


def test_the_door_is_not_looked_at_before_the_first_move():
    """It is closed at the start, whoever stands where."""
    assert last("pass", [3, 24, 14, 15, 0], (UP, RIGHT)) == [3, 23, 14, 15, 1]


def test_success_needs_both_behind_the_wall():
    assert wins("pass", [15, 15, 20, 5, 1], (RIGHT, UP))
    assert not wins("pass", [15, 15, 15, 14, 1], (RIGHT, UP))
    assert not wins("pass", [14, 15, 24, 3, 1], (RIGHT, UP))
    assert wins("large-pass", [25, 25, 40, 5, 1], (RIGHT, UP))


def test_success_on_a_map_of_odd_size():
    """x >= G / 2 + 1 is x >= 13.5 with 25 cells; the wall is at 12."""
    assert not wins("pass", [12, 12, 20, 2, 1], (RIGHT, UP), size=25)
    assert wins("pass", [13, 12, 20, 2, 1], (RIGHT, UP), size=25)


@pytest.mark.parametrize("size", [10, 15, 25, 30, 50, 77, 100])
def test_the_law_of_pass(size):
    """Every number from the size, as in the two published sizes."""
    grid, unit, far = make("pass", size=size).grid_map, size // 10, int(size * 0.8)
    assert grid.starts == ((1 + unit, 1 + unit), (unit, unit))
    assert [(s.x, s.y, s.radius) for s in grid.switches] == [
        (unit, far, 1.5 * unit),
        (far, unit, 1.5 * unit),
    ]
    rows, columns = np.nonzero(grid.doors)
    assert set(columns) == {size // 2}
    assert rows.tolist() == list(range(size // 2 - unit, size // 2 + unit + 1))


def test_large_pass_is_pass_at_size_50():
    large, scaled = make("large-pass"), make("pass", size=50)
    for name in ("walls", "doors", "goal"):
        np.testing.assert_array_equal(getattr(large.grid_map, name), getattr(scaled.grid_map, name))
    assert large.grid_map.switches == scaled.grid_map.switches
    assert (large.name, large.episode_limit) == ("large-pass", scaled.episode_limit)


# --- Secret-Room ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("switch", "code"), [((5, 20), 7), ((20, 4), 4), ((20, 12), 2), ((20, 20), 1), (None, 0)]
)
def test_door_codes(switch, code):
    """c = 4 d1 + 2 d2 + d3."""
    x, y = switch or (10, 10)
    assert last("secret-room", [x, y + 1, 2, 2, 0], (UP, UP))[-1] == code


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        ((5, 20), (20, 4), 7),
        ((20, 12), (20, 4), 4),
        ((20, 20), (20, 12), 2),
        ((20, 20), (5, 20), 7),
    ],
)
def test_only_the_first_occupied_switch_counts(first, second, code):
    for one, other in ((first, second), (second, first)):
        state = [*one, *other, 0]
        assert last("secret-room", state, (UP, UP))[-1] == code


def test_where_switches_overlap_the_first_counts():
    grid = GridMap(5, switches=(Switch(1, 2, 1, opens=1), Switch(2, 2, 1.5, opens=2)))
    assert grid.occupied().tolist() == [
        [2, 2, 2, 2, 2],
        [2, 0, 1, 1, 2],
        [0, 0, 0, 1, 2],
        [2, 0, 1, 1, 2],
        [2, 2, 2, 2, 2],
    ]


@pytest.mark.parametrize(("apart", "on"), [((1, 1), 1), ((-1, 0), 1), ((2, 0), 0), ((1, 2), 0)])
def test_switches_of_secret_room_reach_one_and_a_half_cells(apart, on):
    x, y = 20 + apart[0], 12 + apart[1]
    assert last("secret-room", [x + 1, y, 2, 2, 0], (LEFT, UP))[-1] == 2 * on


@pytest.mark.parametrize("code", [0, 1, 2, 4, 7])
def test_each_code_opens_its_doors(code):
    for bit, rows in ((4, (3, 4, 5)), (2, (11, 12, 13)), (1, (19, 20, 21))):
        for y in (rows[0] - 1, *rows, rows[-1] + 1):
            passes = bool(code & bit) and y in rows
            assert last("secret-room", [11, y, 2, 2, code], (RIGHT, UP))[0] == 11 + passes


@pytest.mark.parametrize("wall", [8, 16])
def test_the_right_rooms_are_apart(wall):
    for x in (13, 24):
        assert last("secret-room", [x, wall - 1, 2, 2, 0], (DOWN, UP))[1] == wall - 1
        assert last("secret-room", [x, wall + 1, 2, 2, 0], (UP, UP))[1] == wall + 1
    assert last("secret-room", [11, wall - 1, 2, 2, 0], (DOWN, UP))[1] == wall


def test_no_way_from_a_doorway_along_the_wall():
    assert last("secret-room", [12, 5, 2, 2, 7], (DOWN, UP))[:2] == [12, 5]
    assert last("secret-room", [12, 5, 2, 2, 7], (UP, UP))[:2] == [12, 4]


@pytest.mark.parametrize(
    ("room", "rows", "outside"), [(1, (0, 7), 9), (2, (9, 15), 17), (3, (17, 24), 15)]
)
def test_exact_rooms(room, rows, outside):
    options = {"target_room": room, "compat": "exact"}
    for y in (rows[0], rows[1]):
        assert wins("secret-room", [14, y, 12, 4 + 8 * (room - 1), 7], (LEFT, RIGHT), **options)
    assert not wins(
        "secret-room", [14, outside, 12, 4 + 8 * (room - 1), 7], (LEFT, RIGHT), **options
    )
    inside = (rows[0] + rows[1]) // 2
    assert not wins("secret-room", [14, inside, 12, inside, 7], (LEFT, LEFT), **options)


def test_the_row_and_column_that_cmae_has_otherwise():
    """y = 9 is in room 2 and counts; x = 13 is in room 1 and does not."""
    last_move = ([15, 10, 15, 9, 0], (UP, LEFT))
    assert wins("secret-room", *last_move)
    assert not wins("secret-room", *last_move, compat="exact")
    assert not wins("secret-room", [15, 11, 15, 9, 0], (UP, LEFT))
    last_move = ([12, 4, 15, 4, 7], (RIGHT, RIGHT))
    assert not wins("secret-room", *last_move)
    assert wins("secret-room", *last_move, compat="exact")


def test_which_target_is_in_force():
    assert make("secret-room").options == {
        "target_room": 1,
        "compat": "cmae",
        "episode_limit": 300,
    }
    assert make("secret-room", target_room=2).options["compat"] == "exact"
    assert make("secret-room", compat="exact").options["compat"] == "exact"


# --- Push-Box -------------------------------------------------------------------------------------

SIDES = {  # from where an action leads into the box at (7, 7): its three cells
    UP: [(6, 9), (7, 9), (8, 9)],
    DOWN: [(6, 5), (7, 5), (8, 5)],
    LEFT: [(9, 6), (9, 7), (9, 8)],
    RIGHT: [(5, 6), (5, 7), (5, 8)],
}
MOVE = {UP: (0, -1), DOWN: (0, 1), LEFT: (-1, 0), RIGHT: (1, 0)}


@pytest.mark.parametrize("action", SIDES)
def test_two_agents_push_and_follow(action):
    dx, dy = MOVE[action]
    for one in SIDES[action]:
        for other in SIDES[action]:
            moved = [one[0] + dx, one[1] + dy, other[0] + dx, other[1] + dy, 7 + dx, 7 + dy]
            assert last("push-box", [*one, *other, 7, 7], (action, action)) == moved


@pytest.mark.parametrize("action", SIDES)
def test_one_agent_cannot_push(action):
    one, other = SIDES[action][:2]
    for second in range(N_ACTIONS):
        if second != action:
            state = last("push-box", [*one, *other, 7, 7], (action, second))
            assert state[:2] == list(one)
            assert state[4:] == [7, 7]
    away = last("push-box", [*one, 0, 0, 7, 7], (action, action))
    assert away[:2] == list(one)
    assert away[4:] == [7, 7]


def test_two_agents_against_each_other():
    assert last("push-box", [5, 7, 9, 7, 7, 7], (RIGHT, LEFT)) == [5, 7, 9, 7, 7, 7]


def test_pushes_from_two_sides_do_not_add_up():
    assert last("push-box", [5, 7, 7, 9, 7, 7], (RIGHT, UP)) == [5, 7, 7, 9, 7, 7]


@pytest.mark.parametrize("corner", [(5, 5), (9, 5), (5, 9), (9, 9)])
def test_corners_do_not_push(corner):
    """An agent diagonal to the box walks past it, and the other one's push is not enough."""
    for action in range(N_ACTIONS):
        dx, dy = MOVE[action]
        state = last("push-box", [*corner, *SIDES[action][1], 7, 7], (action, action))
        assert state[:2] == [corner[0] + dx, corner[1] + dy]
        assert state[4:] == [7, 7]


def test_a_box_that_leaves_is_no_wall():
    """The cell that the box frees is entered in the same step, by the pushers alone."""
    states = play("push-box", [5, 6, 5, 7, 7, 7], (RIGHT, RIGHT), (DOWN, DOWN))
    assert states == [[6, 6, 6, 7, 8, 7], [6, 7, 6, 8, 8, 7]]


@pytest.mark.parametrize(
    ("box", "action", "wins_it"),
    [((11, 7), RIGHT, False), ((12, 7), RIGHT, True), ((7, 2), UP, True), ((3, 7), LEFT, False),
     ((2, 7), LEFT, True), ((7, 12), DOWN, True)],
)  # fmt: skip
def test_success_when_the_box_touches_the_border(box, action, wins_it):
    dx, dy = MOVE[action]
    behind = (box[0] - 2 * dx, box[1] - 2 * dy)
    assert wins("push-box", [*behind, *behind, *box], (action, action)) is wins_it


# --- River ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alice", "bob", "action", "enters"),
    [
        ((14, 5), (3, 3), RIGHT, False),  # nobody in the water
        ((14, 5), (15, 9), RIGHT, True),  # the same river
        ((14, 5), (20, 15), RIGHT, False),  # the other river
        ((14, 5), (15, 15), RIGHT, True),  # the crossing is in both
        ((5, 14), (15, 15), DOWN, True),
        ((5, 14), (15, 9), DOWN, False),
        ((5, 14), (20, 15), DOWN, True),
        ((15, 14), (15, 9), DOWN, True),  # onto the crossing, from either river
        ((15, 14), (20, 15), DOWN, True),
        ((15, 14), (3, 3), DOWN, False),
        ((15, 5), (3, 3), DOWN, False),  # along the river is into the water, too
        ((15, 5), (15, 9), DOWN, True),
        ((15, 5), (3, 3), LEFT, True),  # out of it always
        ((15, 5), (3, 3), RIGHT, True),
    ],
)
def test_the_first_agent_needs_help(alice, bob, action, enters):
    dx, dy = MOVE[action]
    reached = [alice[0] + dx * enters, alice[1] + dy * enters]
    assert last("river", [*alice, *bob], (action, UP))[:2] == reached


def test_help_counts_from_where_the_helper_stood():
    """Alice moves first: Bob who enters in the same step is late, Bob who leaves has helped."""
    assert last("river", [14, 5, 14, 9], (RIGHT, RIGHT)) == [14, 5, 15, 9]
    assert last("river", [14, 5, 15, 9], (RIGHT, LEFT)) == [15, 5, 14, 9]


def test_the_second_agent_swims_alone():
    assert last("river", [3, 3, 14, 9], (UP, RIGHT), (UP, RIGHT))[2:] == [16, 9]


def test_the_mountain():
    assert last("river", [3, 15, 14, 15], (DOWN, DOWN)) == [3, 15, 14, 15]
    assert last("river", [3, 3, 15, 20], (UP, LEFT))[2:] == [15, 20]
    assert last("river", [3, 3, 15, 15], (UP, DOWN))[2:] == [15, 16]


def test_success_in_the_lower_right():
    assert wins("river", [15, 16, 20, 20], (RIGHT, UP))
    assert not wins("river", [15, 16, 20, 16], (RIGHT, UP))
    assert wins("river", [16, 15, 29, 29], (DOWN, UP))


def test_starts_of_river_are_uniform():
    starts = make("river", 4000).reset(seed=1)[0]
    counts = np.stack([np.bincount(column.astype(int), minlength=10) for column in starts.T])
    assert counts.shape == (4, 10)
    assert np.abs(counts - 400).max() < 100  # over five standard deviations
    assert np.abs(np.corrcoef(starts.T) - np.eye(4)).max() < 0.08


# --- one agent ------------------------------------------------------------------------------------


def test_one_agent_latches_the_door():
    states = play("pass-single", [8, 24, 0], (LEFT,), (RIGHT,), (RIGHT,))
    assert [state[-1] for state in states] == [1, 1, 1]
    assert wins("pass-single", [15, 15, 1], (RIGHT,))


def test_the_latch_does_not_outlive_the_episode():
    env = make("pass-single")
    env.reset_to([8, 24, 0])
    env.step([[LEFT]])
    env.reset()
    assert env.step([[UP]])[0][0].tolist() == [4, 3, 0]


def test_one_agent_latches_the_first_of_the_switches_it_touched():
    """Room 2's switch, then that of the left room; the other way round the left one stays first."""
    from_room_2 = play("secret-room-single", [20, 14, 0], (UP,), (DOWN,))
    assert [state[-1] for state in from_room_2] == [2, 2]
    from_left = play("secret-room-single", [20, 14, 7], (UP,), (DOWN,))
    assert [state[-1] for state in from_left] == [7, 7]
    env = make("secret-room-single")
    env.reset_to([20, 11, 1])  # room 3's switch is held, then room 2's is touched
    assert env.step([[UP]])[0][0].tolist() == [20, 10, 1]
    env.reset_to([20, 10, 1])
    assert env.step([[DOWN]])[0][0].tolist() == [20, 11, 2]


@pytest.mark.parametrize("action", SIDES)
def test_one_agent_pushes_alone(action):
    dx, dy = MOVE[action]
    for x, y in SIDES[action]:
        moved = [x + dx, y + dy, 7 + dx, 7 + dy]
        assert last("push-box-single", [x, y, 7, 7], (action,)) == moved


# --- ends of episodes -----------------------------------------------------------------------------


def test_truncation_is_not_termination():
    env = make("pass", 2, episode_limit=3)
    env.reset()
    for step in range(3):
        _, reward, terminated, truncated, info = env.step([[UP, UP]] * 2)
        assert truncated.tolist() == [step == 2] * 2
        for nothing in (reward, terminated, info["success"]):
            assert not nothing.any()


def test_success_on_the_last_step_is_no_truncation():
    env = make("pass", episode_limit=1)
    env.reset_to([15, 15, 20, 5, 1])
    _, reward, terminated, truncated, _ = env.step([[RIGHT, UP]])
    assert (reward[0], terminated[0], truncated[0]) == (1.0, True, False)


@pytest.mark.parametrize(
    ("size", "limit"), [(30, 300), (50, 300), (51, 306), (70, 420), (100, 600)]
)
def test_larger_maps_have_longer_episodes(size, limit):
    assert make("pass", size=size).episode_limit == limit
    assert make("pass", size=size, episode_limit=7).episode_limit == 7


def test_finished_copies_stay_as_they_are():
    """One copy wins, one runs out of steps, one goes on."""
    env = make("pass", 3, episode_limit=4)
    win, near_switch = [15, 15, 20, 5, 1], [7, 24, 3, 3, 1]
    env.reset_to([win, near_switch, near_switch])
    env.step([[RIGHT, UP], [UP, UP], [UP, UP]])
    env.reset(envs=[2])
    total = np.zeros(3)
    seen = []
    for _ in range(5):
        state, reward, terminated, truncated, info = env.step([[RIGHT, RIGHT]] * 3)
        total += reward
        seen.append(info["active"].tolist())
    assert total.tolist() == [0, 0, 0]
    assert seen == [[False, True, True]] * 3 + [[False, False, True], [False, False, False]]
    assert state[0].tolist() == [16, 15, 20, 4, 1]
    assert state[1].tolist() == [10, 23, 6, 2, 0]
    assert state[2].tolist() == [8, 4, 7, 3, 0]
    assert terminated.tolist() == [True, False, False]
    assert truncated.tolist() == [False, True, True]

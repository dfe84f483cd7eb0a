def is_agent_at_a_side_of_box(state):
    """the agent stands directly at one of the four sides of the box"""
    dx = abs(state[0] - state[2])
    dy = abs(state[1] - state[3])
    left_or_right = dx == 2 and dy <= 1
    above_or_below = dy == 2 and dx <= 1
    return bool(left_or_right or above_or_below)


def is_box_pushed_one_cell_agent_behind(state):
    """the box is at least 1 cell away from its start in some direction and the agent stands behind it, ready to push on in that direction"""
    moved_x = state[2] - 7
    moved_y = state[3] - 7
    dx = state[0] - state[2]
    dy = state[1] - state[3]
    to_right = moved_x >= 1 and dx == -2 and abs(dy) <= 1
    to_left = moved_x <= -1 and dx == 2 and abs(dy) <= 1
    to_bottom = moved_y >= 1 and dy == -2 and abs(dx) <= 1
    to_top = moved_y <= -1 and dy == 2 and abs(dx) <= 1
    return bool(to_right or to_left or to_bottom or to_top)


def is_box_pushed_two_cells_agent_behind(state):
    """the box is at least 2 cells away from its start in some direction and the agent stands behind it, ready to push on in that direction"""
    moved_x = state[2] - 7
    moved_y = state[3] - 7
    dx = state[0] - state[2]
    dy = state[1] - state[3]
    to_right = moved_x >= 2 and dx == -2 and abs(dy) <= 1
    to_left = moved_x <= -2 and dx == 2 and abs(dy) <= 1
    to_bottom = moved_y >= 2 and dy == -2 and abs(dx) <= 1
    to_top = moved_y <= -2 and dy == 2 and abs(dx) <= 1
    return bool(to_right or to_left or to_bottom or to_top)


def is_box_pushed_four_cells_agent_behind(state):
    """the box is at least 4 cells away from its start in some direction and the agent stands behind it, ready to push on in that direction"""
    moved_x = state[2] - 7
    moved_y = state[3] - 7
    dx = state[0] - state[2]
    dy = state[1] - state[3]
    to_right = moved_x >= 4 and dx == -2 and abs(dy) <= 1
    to_left = moved_x <= -4 and dx == 2 and abs(dy) <= 1
    to_bottom = moved_y >= 4 and dy == -2 and abs(dx) <= 1
    to_top = moved_y <= -4 and dy == 2 and abs(dx) <= 1
    return bool(to_right or to_left or to_bottom or to_top)


SUBSPACES = {
    "agent_at_a_side_of_box": [0, 1, 2, 3],
    "box_pushed_one_cell_agent_behind": [0, 1, 2, 3],
    "box_pushed_two_cells_agent_behind": [0, 1, 2, 3],
    "box_pushed_four_cells_agent_behind": [0, 1, 2, 3],
}

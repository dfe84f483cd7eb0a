def is_both_agents_at_same_side_of_box(state):
    """both agents stand directly at one and the same side of the box, the first one having stayed there for the other"""
    x0 = state[0] - state[4]
    y0 = state[1] - state[5]
    x1 = state[2] - state[4]
    y1 = state[3] - state[5]
    rows_fit = abs(y0) <= 1 and abs(y1) <= 1
    columns_fit = abs(x0) <= 1 and abs(x1) <= 1
    left_or_right = rows_fit and abs(x0) == 2 and x0 == x1
    above_or_below = columns_fit and abs(y0) == 2 and y0 == y1
    return bool(left_or_right or above_or_below)


def is_box_pushed_one_cell_both_behind(state):
    """the box is at least 1 cell away from its start in some direction and both agents stand behind it, ready to push on in that direction"""
    moved_x = state[4] - 7
    moved_y = state[5] - 7
    x0 = state[0] - state[4]
    y0 = state[1] - state[5]
    x1 = state[2] - state[4]
    y1 = state[3] - state[5]
    rows_fit = abs(y0) <= 1 and abs(y1) <= 1
    columns_fit = abs(x0) <= 1 and abs(x1) <= 1
    to_right = moved_x >= 1 and x0 == -2 and x1 == -2 and rows_fit
    to_left = moved_x <= -1 and x0 == 2 and x1 == 2 and rows_fit
    to_bottom = moved_y >= 1 and y0 == -2 and y1 == -2 and columns_fit
    to_top = moved_y <= -1 and y0 == 2 and y1 == 2 and columns_fit
    return bool(to_right or to_left or to_bottom or to_top)


def is_box_pushed_two_cells_both_behind(state):
    """the box is at least 2 cells away from its start in some direction and both agents stand behind it, ready to push on in that direction"""
    moved_x = state[4] - 7
    moved_y = state[5] - 7
    x0 = state[0] - state[4]
    y0 = state[1] - state[5]
    x1 = state[2] - state[4]
    y1 = state[3] - state[5]
    rows_fit = abs(y0) <= 1 and abs(y1) <= 1
    columns_fit = abs(x0) <= 1 and abs(x1) <= 1
    to_right = moved_x >= 2 and x0 == -2 and x1 == -2 and rows_fit
    to_left = moved_x <= -2 and x0 == 2 and x1 == 2 and rows_fit
    to_bottom = moved_y >= 2 and y0 == -2 and y1 == -2 and columns_fit
    to_top = moved_y <= -2 and y0 == 2 and y1 == 2 and columns_fit
    return bool(to_right or to_left or to_bottom or to_top)


def is_box_pushed_four_cells_both_behind(state):
    """the box is at least 4 cells away from its start in some direction and both agents stand behind it, ready to push on in that direction"""
    moved_x = state[4] - 7
    moved_y = state[5] - 7
    x0 = state[0] - state[4]
    y0 = state[1] - state[5]
    x1 = state[2] - state[4]
    y1 = state[3] - state[5]
    rows_fit = abs(y0) <= 1 and abs(y1) <= 1
    columns_fit = abs(x0) <= 1 and abs(x1) <= 1
    to_right = moved_x >= 4 and x0 == -2 and x1 == -2 and rows_fit
    to_left = moved_x <= -4 and x0 == 2 and x1 == 2 and rows_fit
    to_bottom = moved_y >= 4 and y0 == -2 and y1 == -2 and columns_fit
    to_top = moved_y <= -4 and y0 == 2 and y1 == 2 and columns_fit
    return bool(to_right or to_left or to_bottom or to_top)


SUBSPACES = {
    "both_agents_at_same_side_of_box": [0, 1, 2, 3, 4, 5],
    "box_pushed_one_cell_both_behind": [0, 1, 2, 3, 4, 5],
    "box_pushed_two_cells_both_behind": [0, 1, 2, 3, 4, 5],
    "box_pushed_four_cells_both_behind": [0, 1, 2, 3, 4, 5],
}

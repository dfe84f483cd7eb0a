"""Three key states of Pass on 30 x 30 cells, written by hand."""


def is_door_open_both_left(state):
    """The door is open while both agents are in the left room, agent 0 anywhere in it."""
    return state[4] == 1 and state[0] < 15 and state[1] >= 0 and state[2] < 15


def is_first_left_second_right(state):
    """The door is open, agent 0 is in the left room and agent 1 anywhere in the right one."""
    return state[4] == 1 and state[0] < 15 and state[2] > 15 and state[3] >= 0


def is_first_in_doorway_second_right(state):
    """The door is open, agent 0 is in the doorway and agent 1 in the right room."""
    return state[4] == 1 and state[0] == 15 and state[2] > 15

def is_left_switch_held(state):
    """agent 1 is somewhere in the left room, where it has found the left switch, and the door is open"""
    keeper_in_left_room = 0 <= state[2] <= 49 and 0 <= state[3] <= 99
    door_open = state[4] == 1
    return bool(keeper_in_left_room and door_open)


def is_first_agent_through(state):
    """agent 1 stays in the left room and keeps the door open, while agent 0 has gone on into the right room"""
    goer_in_right_room = 51 <= state[0] <= 99 and 0 <= state[1] <= 99
    keeper_in_left_room = 0 <= state[2] <= 49 and 0 <= state[3] <= 99
    door_open = state[4] == 1
    return bool(goer_in_right_room and keeper_in_left_room and door_open)


def is_second_agent_at_door(state):
    """agent 0 is in the right room, and agent 1 has come to the left side of the door or into the doorway, whether the door is open or not"""
    first_in_right_room = 51 <= state[0] <= 99 and 0 <= state[1] <= 99
    second_at_door = 45 <= state[2] <= 50 and 40 <= state[3] <= 60
    return bool(first_in_right_room and second_at_door)


def is_right_switch_held(state):
    """agent 0 stays somewhere in the right room, where it has found the right switch, and the door is open while agent 1 is in front of the door or in the doorway, ready to go through"""
    keeper_in_right_room = 51 <= state[0] <= 99 and 0 <= state[1] <= 99
    second_at_door = 45 <= state[2] <= 50 and 40 <= state[3] <= 60
    door_open = state[4] == 1
    return bool(keeper_in_right_room and second_at_door and door_open)


SUBSPACES = {
    "left_switch_held": [2, 3, 4],
    "first_agent_through": [0, 1, 2, 3, 4],
    "second_agent_at_door": [0, 1, 2, 3],
    "right_switch_held": [0, 1, 2, 3, 4],
}

def is_left_switch_held(state):
    """the door is open while both agents are in the left room, so that one of them is near the left switch"""
    agent0_left = 0 <= state[0] <= 34 and 0 <= state[1] <= 69
    agent1_left = 0 <= state[2] <= 34 and 0 <= state[3] <= 69
    door_open = state[4] == 1
    return bool(agent0_left and agent1_left and door_open)


def is_agent_one_at_open_door(state):
    """agent 0 stays in the left room and keeps the door open, while agent 1 is right in front of the door or in the doorway"""
    agent0_left = 0 <= state[0] <= 34 and 0 <= state[1] <= 69
    agent1_at_door = 33 <= state[2] <= 35 and 28 <= state[3] <= 42
    door_open = state[4] == 1
    return bool(agent0_left and agent1_at_door and door_open)


def is_agent_one_in_right_room(state):
    """agent 1 has gone through into the right room, while agent 0 is still in the left room"""
    agent0_left = 0 <= state[0] <= 34 and 0 <= state[1] <= 69
    agent1_right = 36 <= state[2] <= 69 and 0 <= state[3] <= 69
    return bool(agent0_left and agent1_right)


def is_right_switch_held_agent_zero_at_door(state):
    """agent 1 stays in the right room and keeps the door open, while agent 0 is right in front of the door or in the doorway"""
    agent0_at_door = 33 <= state[0] <= 35 and 28 <= state[1] <= 42
    agent1_right = 36 <= state[2] <= 69 and 0 <= state[3] <= 69
    door_open = state[4] == 1
    return bool(agent0_at_door and agent1_right and door_open)


SUBSPACES = {
    "left_switch_held": [0, 1, 2, 3, 4],
    "agent_one_at_open_door": [0, 1, 2, 3, 4],
    "agent_one_in_right_room": [0, 1, 2, 3],
    "right_switch_held_agent_zero_at_door": [0, 1, 2, 3, 4],
}

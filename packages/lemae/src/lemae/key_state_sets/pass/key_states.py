def is_agent_0_opens_door_from_left(state):
    """the door is open while agent 0 is somewhere in the left room, where it has found the switch and stays"""
    in_left = 0 <= state[0] <= 14 and 0 <= state[1] <= 29
    return bool(in_left and state[4] == 1)


def is_agent_1_crosses_while_agent_0_holds(state):
    """agent 0 stays in the left room and keeps the door open, and agent 1 has gone on into the right room"""
    holder_left = 0 <= state[0] <= 14 and 0 <= state[1] <= 29
    other_right = 16 <= state[2] <= 29 and 0 <= state[3] <= 29
    return bool(holder_left and other_right and state[4] == 1)


def is_agent_0_waits_at_door(state):
    """agent 1 is in the right room and looks for its switch, and agent 0 has come to the left side of the door, at x 12 to 14 and y 12 to 18"""
    at_door = 12 <= state[0] <= 14 and 12 <= state[1] <= 18
    other_right = 16 <= state[2] <= 29 and 0 <= state[3] <= 29
    return bool(at_door and other_right)


def is_agent_1_opens_door_for_agent_0(state):
    """the door is open with agent 1 staying somewhere in the right room to hold it, and agent 0 is right before the door or in the doorway, ready to pass"""
    at_door = 12 <= state[0] <= 15 and 12 <= state[1] <= 18
    holder_right = 16 <= state[2] <= 29 and 0 <= state[3] <= 29
    return bool(at_door and holder_right and state[4] == 1)


SUBSPACES = {
    "agent_0_opens_door_from_left": [0, 1, 4],
    "agent_1_crosses_while_agent_0_holds": [0, 1, 2, 3, 4],
    "agent_0_waits_at_door": [0, 1, 2, 3],
    "agent_1_opens_door_for_agent_0": [0, 1, 2, 3, 4],
}

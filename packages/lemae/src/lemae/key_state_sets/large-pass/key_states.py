def is_agent_0_opens_door_on_left(state):
    """the door is open and agent 0, which stays to hold it open, is in the left room"""
    agent_0_left = 0 <= state[0] <= 24 and 0 <= state[1] <= 49
    return bool(agent_0_left and state[4] == 1)


def is_agent_1_passes_while_agent_0_holds(state):
    """the door is open, agent 0 still stays in the left room to hold it, and agent 1 has gone on into the right room"""
    agent_0_left = 0 <= state[0] <= 24 and 0 <= state[1] <= 49
    agent_1_right = 26 <= state[2] <= 49 and 0 <= state[3] <= 49
    return bool(agent_0_left and agent_1_right and state[4] == 1)


def is_agent_0_goes_to_door_agent_1_on_right(state):
    """agent 1 is in the right room, where it looks for the switch, and agent 0 has come close to the left side of the door"""
    agent_0_near_door = 21 <= state[0] <= 24 and 20 <= state[1] <= 30
    agent_1_right = 26 <= state[2] <= 49 and 0 <= state[3] <= 49
    return bool(agent_0_near_door and agent_1_right)


def is_agent_1_holds_door_for_agent_0(state):
    """the door is open, agent 1 stays in the right room to hold it, and agent 0 is close to the door on the left or in the doorway"""
    agent_0_at_door = 21 <= state[0] <= 25 and 20 <= state[1] <= 30
    agent_1_right = 26 <= state[2] <= 49 and 0 <= state[3] <= 49
    return bool(agent_0_at_door and agent_1_right and state[4] == 1)


SUBSPACES = {
    "agent_0_opens_door_on_left": [0, 1, 4],
    "agent_1_passes_while_agent_0_holds": [0, 1, 2, 3, 4],
    "agent_0_goes_to_door_agent_1_on_right": [0, 1, 2, 3],
    "agent_1_holds_door_for_agent_0": [0, 1, 2, 3, 4],
}

def is_door_opened_from_left_room(state):
    """the door is open while the agent is in the left room, where it has found the switch"""
    in_left = 0 <= state[0] <= 14 and 0 <= state[1] <= 29
    return bool(in_left and state[2] == 1)


def is_open_door_approached(state):
    """the door is open and the agent has come into the region of the left room in front of it"""
    in_front = 9 <= state[0] <= 14 and 8 <= state[1] <= 22
    return bool(in_front and state[2] == 1)


def is_agent_at_open_doorway(state):
    """the door is open and the agent is right before it or in the doorway"""
    at_door = 13 <= state[0] <= 15 and 12 <= state[1] <= 18
    return bool(at_door and state[2] == 1)


SUBSPACES = {
    "door_opened_from_left_room": [0, 1, 2],
    "open_door_approached": [0, 1, 2],
    "agent_at_open_doorway": [0, 1, 2],
}

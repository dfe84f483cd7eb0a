def is_door_opened_from_left_room(state):
    """the door is open while the agent is in the left room, where it has found the switch"""
    in_left = 0 <= state[0] <= 24 and 0 <= state[1] <= 49
    return bool(in_left and state[2] == 1)


def is_region_before_open_door_reached(state):
    """the door is open and the agent has come into the region of the left room before the door"""
    in_region = 15 <= state[0] <= 24 and 14 <= state[1] <= 36
    return bool(in_region and state[2] == 1)


def is_at_open_door(state):
    """the door is open and the agent is right before it or in the doorway"""
    at_door = 22 <= state[0] <= 25 and 20 <= state[1] <= 30
    return bool(at_door and state[2] == 1)


SUBSPACES = {
    "door_opened_from_left_room": [0, 1, 2],
    "region_before_open_door_reached": [0, 1, 2],
    "at_open_door": [0, 1, 2],
}

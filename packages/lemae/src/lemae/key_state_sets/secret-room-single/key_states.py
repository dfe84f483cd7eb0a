def is_doors_opened_from_left_room(state):
    """all doors are open while the agent is in the left room, where it has found the switch"""
    in_left = 0 <= state[0] <= 11 and 0 <= state[1] <= 24
    return bool(in_left and state[2] == 7)


def is_door_side_reached_with_doors_open(state):
    """all doors are open and the agent is at the right side of the left room, close to the wall with the doors"""
    at_side = 8 <= state[0] <= 11 and 0 <= state[1] <= 24
    return bool(at_side and state[2] == 7)


def is_at_an_open_door(state):
    """all doors are open and the agent is right before one of the doors, whichever it is, or in its doorway"""
    near_wall = 10 <= state[0] <= 12
    y = state[1]
    in_rows = 3 <= y <= 5 or 11 <= y <= 13 or 19 <= y <= 21
    return bool(near_wall and in_rows and state[2] == 7)


SUBSPACES = {
    "doors_opened_from_left_room": [0, 1, 2],
    "door_side_reached_with_doors_open": [0, 1, 2],
    "at_an_open_door": [0, 1, 2],
}

def is_agent_0_opens_all_doors(state):
    """all doors are open and agent 0, which stays to hold them open, is in the left room"""
    agent_0_left = 0 <= state[0] <= 11 and 0 <= state[1] <= 24
    return bool(agent_0_left and state[4] == 7)


def is_agent_1_enters_right_room_while_agent_0_holds(state):
    """all doors are open, agent 0 still stays in the left room to hold them, and agent 1 has gone on into one of the right rooms"""
    agent_0_left = 0 <= state[0] <= 11 and 0 <= state[1] <= 24
    y = state[3]
    in_rows = 0 <= y <= 7 or 9 <= y <= 15 or 17 <= y <= 24
    agent_1_right = 13 <= state[2] <= 24 and in_rows
    return bool(agent_0_left and agent_1_right and state[4] == 7)


def is_agent_1_opens_its_own_door(state):
    """agent 1 is in a right room and just the door of this room is open, held by agent 1, while agent 0 has left its switch but is not in a right room yet"""
    agent_0_outside = 0 <= state[0] <= 12 and 0 <= state[1] <= 24
    agent_1_right = 13 <= state[2] <= 24
    y = state[3]
    room_1 = 0 <= y <= 7 and state[4] == 4
    room_2 = 9 <= y <= 15 and state[4] == 2
    room_3 = 17 <= y <= 24 and state[4] == 1
    return bool(agent_0_outside and agent_1_right and (room_1 or room_2 or room_3))


def is_agent_0_at_door_held_by_agent_1(state):
    """agent 1 stays in a right room and holds just its door open, and agent 0 is right before this door or in its doorway"""
    agent_0_near = 9 <= state[0] <= 12
    agent_1_right = 13 <= state[2] <= 24
    door_y = state[1]
    y = state[3]
    room_1 = 0 <= y <= 7 and 3 <= door_y <= 5 and state[4] == 4
    room_2 = 9 <= y <= 15 and 11 <= door_y <= 13 and state[4] == 2
    room_3 = 17 <= y <= 24 and 19 <= door_y <= 21 and state[4] == 1
    return bool(agent_0_near and agent_1_right and (room_1 or room_2 or room_3))


SUBSPACES = {
    "agent_0_opens_all_doors": [0, 1, 4],
    "agent_1_enters_right_room_while_agent_0_holds": [0, 1, 2, 3, 4],
    "agent_1_opens_its_own_door": [0, 1, 2, 3, 4],
    "agent_0_at_door_held_by_agent_1": [0, 1, 2, 3, 4],
}

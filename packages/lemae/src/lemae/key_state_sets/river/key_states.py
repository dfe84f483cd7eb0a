def is_agent_1_in_first_river_agent_0_at_its_bank(state):
    """agent 1 stays in the river x = 15 and agent 0 is close to the left bank of it, in the upper left quarter"""
    swimmer_in_river = state[2] == 15 and 0 <= state[3] <= 29
    other_at_bank = 12 <= state[0] <= 14 and 0 <= state[1] <= 14
    return bool(swimmer_in_river and other_at_bank)


def is_agent_0_across_first_river(state):
    """agent 0 has gone on over the river into the upper right quarter, while agent 1 is in the river x = 15 or to the right of it"""
    agent_0_upper_right = 16 <= state[0] <= 29 and 0 <= state[1] <= 14
    swimmer_near = 15 <= state[2] <= 29 and 0 <= state[3] <= 29
    return bool(agent_0_upper_right and swimmer_near)


def is_agent_1_in_second_river_agent_0_at_its_bank(state):
    """agent 1 stays in the right part of the river y = 15 and agent 0 is close to the upper bank of it, in the upper right quarter"""
    swimmer_in_river = state[3] == 15 and 15 <= state[2] <= 29
    other_at_bank = 16 <= state[0] <= 29 and 12 <= state[1] <= 14
    return bool(swimmer_in_river and other_at_bank)


def is_agent_0_across_second_river(state):
    """agent 0 has gone on over the river into the lower right quarter, while agent 1 is in the right part of the river y = 15 or below it"""
    agent_0_lower_right = 16 <= state[0] <= 29 and 16 <= state[1] <= 29
    swimmer_near = 15 <= state[2] <= 29 and 15 <= state[3] <= 29
    return bool(agent_0_lower_right and swimmer_near)


SUBSPACES = {
    "agent_1_in_first_river_agent_0_at_its_bank": [0, 1, 2, 3],
    "agent_0_across_first_river": [0, 1, 2, 3],
    "agent_1_in_second_river_agent_0_at_its_bank": [0, 1, 2, 3],
    "agent_0_across_second_river": [0, 1, 2, 3],
}

def is_allies_together_in_range_of_one_enemy(state):
    """all five allies live, and at least four of them stay together within 6 of one and the same living enemy, so that they can all fire at it"""
    own = state[0:50:10] > 0
    foes = state[50:110:10] > 0
    own_count = own.sum()
    foe_count = foes.sum()
    dx = state[1:50:10][:, None] - state[51:110:10]
    dy = state[2:50:10][:, None] - state[52:110:10]
    hits = (dx * dx + dy * dy <= 36) * own[:, None] * foes
    near = hits.sum(axis=0).max()
    return bool(own_count == 5 and foe_count >= 1 and near >= 4)


def is_first_enemy_dead_teams_even(state):
    """at least one enemy is dead, the living allies are at least as many as the living enemies, and at least three of them stay within 6 of the same living enemy"""
    own = state[0:50:10]
    foes = state[50:110:10]
    own_lives = own > 0
    foe_lives = foes > 0
    own_count = own_lives.sum()
    foe_count = foe_lives.sum()
    if foe_count > 5 or own_count < foe_count:
        return False
    dx = state[1:50:10][:, None] - state[51:110:10]
    dy = state[2:50:10][:, None] - state[52:110:10]
    near = (dx * dx + dy * dy <= 36) * own_lives[:, None] * foe_lives
    return bool(near.sum(axis=0).max() >= 3)


def is_four_or_less_enemies_allies_not_behind(state):
    """at most four enemies live, the living allies are at least as many with at least as much health together, and at least two of them stay within 6 of the same living enemy while weakened ones may step back"""
    own = state[0:50:10]
    foes = state[50:110:10]
    own_lives = own > 0
    foe_lives = foes > 0
    own_count = own_lives.sum()
    foe_count = foe_lives.sum()
    if foe_count > 4 or own_count < foe_count:
        return False
    if own.sum() < foes.sum():
        return False
    dx = state[1:50:10][:, None] - state[51:110:10]
    dy = state[2:50:10][:, None] - state[52:110:10]
    near = (dx * dx + dy * dy <= 36) * own_lives[:, None] * foe_lives
    return bool(near.sum(axis=0).max() >= 2)


def is_two_or_less_enemies_allies_ahead(state):
    """at most two enemies live, the living allies are more with more health together, and at least two of them are within 6 of the same living enemy to finish it"""
    own = state[0:50:10]
    foes = state[50:110:10]
    own_lives = own > 0
    foe_lives = foes > 0
    own_count = own_lives.sum()
    foe_count = foe_lives.sum()
    if foe_count > 2 or own_count <= foe_count:
        return False
    if own.sum() <= foes.sum():
        return False
    dx = state[1:50:10][:, None] - state[51:110:10]
    dy = state[2:50:10][:, None] - state[52:110:10]
    near = (dx * dx + dy * dy <= 36) * own_lives[:, None] * foe_lives
    return bool(near.sum(axis=0).max() >= 2)


SUBSPACES = {
    "allies_together_in_range_of_one_enemy": [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52, 60, 61, 62, 70, 71, 72, 80, 81, 82, 90, 91, 92, 100, 101, 102],
    "first_enemy_dead_teams_even": [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52, 60, 61, 62, 70, 71, 72, 80, 81, 82, 90, 91, 92, 100, 101, 102],
    "four_or_less_enemies_allies_not_behind": [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52, 60, 61, 62, 70, 71, 72, 80, 81, 82, 90, 91, 92, 100, 101, 102],
    "two_or_less_enemies_allies_ahead": [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52, 60, 61, 62, 70, 71, 72, 80, 81, 82, 90, 91, 92, 100, 101, 102],
}

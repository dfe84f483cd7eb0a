def is_zealots_in_front_stalkers_behind_on_one_enemy(state):
    """all five allies live, at least two zealots stay close to one and the same living enemy in front, and at least one stalker shoots from up to 7 away at it"""
    foe_lives = state[50:100:10] > 0
    if state[0:50:10].min() <= 0:
        return False
    dx = state[1:50:10][:, None] - state[51:100:10]
    dy = state[2:50:10][:, None] - state[52:100:10]
    squared = dx * dx + dy * dy
    stalkers = (squared[0:2] <= 49).sum(axis=0)
    zealots = (squared[2:5] <= 9).sum(axis=0)
    met = (stalkers >= 1) * (zealots >= 2) * foe_lives
    return bool(met.any())


def is_first_enemy_dead_allies_more(state):
    """at least one enemy is dead, the living allies are more than the living enemies, and at least two of them have the same living enemy in range"""
    own = state[0:50:10]
    foes = state[50:100:10]
    own_lives = own > 0
    foe_lives = foes > 0
    own_count = own_lives.sum()
    foe_count = foe_lives.sum()
    if foe_count > 4 or own_count <= foe_count:
        return False
    dx = state[1:50:10][:, None] - state[51:100:10]
    dy = state[2:50:10][:, None] - state[52:100:10]
    reach = np.array([49.0, 49.0, 9.0, 9.0, 9.0])
    hits = (dx * dx + dy * dy <= reach[:, None]) * own_lives[:, None] * foe_lives
    return bool(hits.sum(axis=0).max() >= 2)


def is_three_or_less_enemies_allies_more(state):
    """at most three enemies live, the living allies are more, and at least two of them have the same living enemy in range while weakened ones may step back"""
    own = state[0:50:10]
    foes = state[50:100:10]
    dx = state[1:50:10][:, None] - state[51:100:10]
    dy = state[2:50:10][:, None] - state[52:100:10]
    own_lives = own > 0
    foe_lives = foes > 0
    own_count = own_lives.sum()
    foe_count = foe_lives.sum()
    reach = np.array([49.0, 49.0, 9.0, 9.0, 9.0])
    hits = (dx * dx + dy * dy <= reach[:, None]) * own_lives[:, None] * foe_lives
    in_reach = hits.sum(axis=0).max() >= 2
    return bool(in_reach and foe_count <= 3 and own_count > foe_count)


def is_two_or_less_enemies_allies_stronger(state):
    """at most two enemies live, the living allies are more and have together more health, and at least two of them have the same living enemy in range"""
    own = state[0:50:10]
    foes = state[50:100:10]
    dx = state[1:50:10][:, None] - state[51:100:10]
    dy = state[2:50:10][:, None] - state[52:100:10]
    own_lives = own > 0
    foe_lives = foes > 0
    own_count = own_lives.sum()
    foe_count = foe_lives.sum()
    reach = np.array([49.0, 49.0, 9.0, 9.0, 9.0])
    hits = (dx * dx + dy * dy <= reach[:, None]) * own_lives[:, None] * foe_lives
    in_reach = hits.sum(axis=0).max() >= 2
    return bool(in_reach and foe_count <= 2 and own_count > foe_count and own.sum() > foes.sum())


SUBSPACES = {
    "zealots_in_front_stalkers_behind_on_one_enemy": [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52, 60, 61, 62, 70, 71, 72, 80, 81, 82, 90, 91, 92],
    "first_enemy_dead_allies_more": [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52, 60, 61, 62, 70, 71, 72, 80, 81, 82, 90, 91, 92],
    "three_or_less_enemies_allies_more": [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52, 60, 61, 62, 70, 71, 72, 80, 81, 82, 90, 91, 92],
    "two_or_less_enemies_allies_stronger": [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52, 60, 61, 62, 70, 71, 72, 80, 81, 82, 90, 91, 92],
}

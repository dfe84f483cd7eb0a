def is_zealots_in_front_stalkers_shooting_one_enemy(state):
    """all eight allies live, at least two zealots stay close to one and the same living enemy in front, and at least two stalkers shoot at it from up to 7 away"""
    own_lives = state[0:80:10] > 0
    foe_lives = state[80:160:10] > 0
    dx = state[1:80:10][:, None] - state[81:160:10]
    dy = state[2:80:10][:, None] - state[82:160:10]
    squared = dx * dx + dy * dy
    stalkers = (squared[0:3] <= 49).sum(axis=0)
    zealots = (squared[3:8] <= 9).sum(axis=0)
    met = (stalkers >= 2) * (zealots >= 2) * foe_lives
    return bool(own_lives.all() and met.any())


def is_first_enemy_dead_allies_more(state):
    """at least one enemy is dead, the living allies are more than the living enemies, and at least four allies stay within 7 of one and the same living enemy"""
    own_lives = state[0:80:10] > 0
    foe_lives = state[80:160:10] > 0
    dx = state[1:80:10] - state[81:160:10][:, None]
    dy = state[2:80:10] - state[82:160:10][:, None]
    near = np.dot(dx * dx + dy * dy <= 49, own_lives * 1) * foe_lives
    foe_count = foe_lives.sum()
    return bool(near.max() >= 4 and foe_count <= 7 and own_lives.sum() > foe_count)


def is_five_or_less_enemies_allies_more(state):
    """at most five enemies live, the living allies are more, and at least three of them have the same living enemy in range while weakened ones may step back"""
    own = state[0:80:10]
    foes = state[80:160:10]
    dx = state[1:80:10][:, None] - state[81:160:10]
    dy = state[2:80:10][:, None] - state[82:160:10]
    own_lives = own > 0
    foe_lives = foes > 0
    own_count = own_lives.sum()
    foe_count = foe_lives.sum()
    reach = np.array([49.0, 49.0, 49.0, 9.0, 9.0, 9.0, 9.0, 9.0])
    hits = (dx * dx + dy * dy <= reach[:, None]) * own_lives[:, None] * foe_lives
    in_reach = hits.sum(axis=0).max() >= 3
    return bool(in_reach and foe_count <= 5 and own_count > foe_count)


def is_two_or_less_enemies_allies_stronger(state):
    """at most two enemies live, the living allies are more and have together more health, and at least two of them have the same living enemy in range"""
    own = state[0:80:10]
    foes = state[80:160:10]
    dx = state[1:80:10][:, None] - state[81:160:10]
    dy = state[2:80:10][:, None] - state[82:160:10]
    own_lives = own > 0
    foe_lives = foes > 0
    own_count = own_lives.sum()
    foe_count = foe_lives.sum()
    reach = np.array([49.0, 49.0, 49.0, 9.0, 9.0, 9.0, 9.0, 9.0])
    hits = (dx * dx + dy * dy <= reach[:, None]) * own_lives[:, None] * foe_lives
    in_reach = hits.sum(axis=0).max() >= 2
    return bool(in_reach and foe_count <= 2 and own_count > foe_count and own.sum() > foes.sum())


SUBSPACES = {
    "zealots_in_front_stalkers_shooting_one_enemy": [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52, 60, 61, 62, 70, 71, 72, 80, 81, 82, 90, 91, 92, 100, 101, 102, 110, 111, 112, 120, 121, 122, 130, 131, 132, 140, 141, 142, 150, 151, 152],
    "first_enemy_dead_allies_more": [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52, 60, 61, 62, 70, 71, 72, 80, 81, 82, 90, 91, 92, 100, 101, 102, 110, 111, 112, 120, 121, 122, 130, 131, 132, 140, 141, 142, 150, 151, 152],
    "five_or_less_enemies_allies_more": [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52, 60, 61, 62, 70, 71, 72, 80, 81, 82, 90, 91, 92, 100, 101, 102, 110, 111, 112, 120, 121, 122, 130, 131, 132, 140, 141, 142, 150, 151, 152],
    "two_or_less_enemies_allies_stronger": [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52, 60, 61, 62, 70, 71, 72, 80, 81, 82, 90, 91, 92, 100, 101, 102, 110, 111, 112, 120, 121, 122, 130, 131, 132, 140, 141, 142, 150, 151, 152],
}

def is_shooting_from_outside_zealot_reach(state):
    """all allies live, at least two of them stay between 3 and 7 from their nearest living enemy and shoot, while a third may draw the enemies away, and the enemies have lost more of their health than the allies, at least half a unit's"""
    own = state[0:30:10]
    foes = state[30:80:10]
    own_lives = own > 0
    foe_lives = foes > 0
    dx = state[1:30:10] - state[31:80:10][:, None]
    dy = state[2:30:10] - state[32:80:10][:, None]
    far = np.where(foe_lives, 0, 5000)
    closest = (dx * dx + dy * dy + far[:, None]).min(axis=0)
    shooters = ((closest > 9) * (closest <= 49) * own_lives).sum()
    return bool(shooters >= 2 and own_lives.all() and foes.sum() <= 4.5 and own.sum() / 3 >= foes.sum() / 5)


def is_first_enemy_dead_all_allies_alive(state):
    """at least one enemy is dead, all three allies live, and at least two of them have a living enemy within 7"""
    own = state[0:30:10]
    foes = state[30:80:10]
    own_lives = own > 0
    foe_lives = foes > 0
    dx = state[1:30:10] - state[31:80:10][:, None]
    dy = state[2:30:10] - state[32:80:10][:, None]
    far = np.where(foe_lives, 0, 5000)
    closest = (dx * dx + dy * dy + far[:, None]).min(axis=0)
    in_range = ((closest <= 49) * own_lives).sum()
    return bool(in_range >= 2 and own_lives.all() and foe_lives.sum() <= 4)


def is_three_or_less_enemies_allies_ahead(state):
    """at most three enemies live, at least two living allies have an enemy within 7, and the allies have kept at least as large a share of their health as the enemies"""
    own = state[0:30:10]
    foes = state[30:80:10]
    own_lives = own > 0
    foe_lives = foes > 0
    dx = state[1:30:10] - state[31:80:10][:, None]
    dy = state[2:30:10] - state[32:80:10][:, None]
    far = np.where(foe_lives, 0, 5000)
    closest = (dx * dx + dy * dy + far[:, None]).min(axis=0)
    in_range = ((closest <= 49) * own_lives).sum()
    return bool(in_range >= 2 and foe_lives.sum() <= 3 and own.sum() / 3 >= foes.sum() / 5)


def is_last_enemy_left_ally_in_range(state):
    """only one enemy is left and at least one living ally has it within 7"""
    own = state[0:30:10]
    foes = state[30:80:10]
    own_lives = own > 0
    foe_lives = foes > 0
    dx = state[1:30:10] - state[31:80:10][:, None]
    dy = state[2:30:10] - state[32:80:10][:, None]
    far = np.where(foe_lives, 0, 5000)
    closest = (dx * dx + dy * dy + far[:, None]).min(axis=0)
    in_range = ((closest <= 49) * own_lives).sum()
    return bool(in_range >= 1 and foe_lives.sum() <= 1)


SUBSPACES = {
    "shooting_from_outside_zealot_reach": [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52, 60, 61, 62, 70, 71, 72],
    "first_enemy_dead_all_allies_alive": [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52, 60, 61, 62, 70, 71, 72],
    "three_or_less_enemies_allies_ahead": [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52, 60, 61, 62, 70, 71, 72],
    "last_enemy_left_ally_in_range": [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52, 60, 61, 62, 70, 71, 72],
}

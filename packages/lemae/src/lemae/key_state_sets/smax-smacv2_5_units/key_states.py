def is_focused_contact(state):
    """at least two living allies are within 7 of the same living enemy whose health is down to 0.75 or less, and the allies' total health is at most 0.5 below the enemies' total"""
    allies = [0, 10, 20, 30, 40]
    enemies = [50, 60, 70, 80, 90]
    ally_total = sum([float(state[a]) for a in allies])
    enemy_total = sum([float(state[e]) for e in enemies])
    if ally_total < enemy_total - 0.5:
        return False
    for e in enemies:
        if state[e] > 0 and state[e] <= 0.75:
            near = 0
            for a in allies:
                if state[a] > 0:
                    dx = float(state[a + 1]) - float(state[e + 1])
                    dy = float(state[a + 2]) - float(state[e + 2])
                    if dx * dx + dy * dy <= 49.0:
                        near = near + 1
            if near >= 2:
                return True
    return False


def is_first_enemy_down(state):
    """one to four enemies live with total health of at most 3.5, some living unit is hurt, at least as many allies as enemies live, the allies' total health is at least 0.8 of the enemies' total, and at least two living allies are within 9 of the same living enemy while the others may keep back"""
    allies = [0, 10, 20, 30, 40]
    enemies = [50, 60, 70, 80, 90]
    ally_health = [float(state[a]) for a in allies]
    enemy_health = [float(state[e]) for e in enemies]
    allies_alive = len([h for h in ally_health if h > 0])
    enemies_alive = len([h for h in enemy_health if h > 0])
    hurt = len([h for h in ally_health + enemy_health if h > 0 and h < 1])
    if hurt < 1:
        return False
    if enemies_alive < 1 or enemies_alive > 4:
        return False
    if sum(enemy_health) > 3.5:
        return False
    if allies_alive < enemies_alive or sum(ally_health) < 0.8 * sum(enemy_health):
        return False
    for e in enemies:
        if state[e] > 0:
            near = 0
            for a in allies:
                if state[a] > 0:
                    dx = float(state[a + 1]) - float(state[e + 1])
                    dy = float(state[a + 2]) - float(state[e + 2])
                    if dx * dx + dy * dy <= 81.0:
                        near = near + 1
            if near >= 2:
                return True
    return False


def is_outnumbering(state):
    """one or two enemies live, some living unit is hurt, more allies than enemies live with more total health, and at least two living allies have gone within 9 of the same living enemy while the others may stay back"""
    allies = [0, 10, 20, 30, 40]
    enemies = [50, 60, 70, 80, 90]
    ally_health = [float(state[a]) for a in allies]
    enemy_health = [float(state[e]) for e in enemies]
    allies_alive = len([h for h in ally_health if h > 0])
    enemies_alive = len([h for h in enemy_health if h > 0])
    hurt = len([h for h in ally_health + enemy_health if h > 0 and h < 1])
    if hurt < 1:
        return False
    if enemies_alive < 1 or enemies_alive > 2:
        return False
    if allies_alive <= enemies_alive or sum(ally_health) <= sum(enemy_health):
        return False
    for e in enemies:
        if state[e] > 0:
            near = 0
            for a in allies:
                if state[a] > 0:
                    dx = float(state[a + 1]) - float(state[e + 1])
                    dy = float(state[a + 2]) - float(state[e + 2])
                    if dx * dx + dy * dy <= 81.0:
                        near = near + 1
            if near >= 2:
                return True
    return False


def is_nearly_cleared(state):
    """the total health of all enemies is at most 0.8 but above 0, the allies' total health is above it, and each living enemy has at least one living ally within 9 of it"""
    allies = [0, 10, 20, 30, 40]
    enemies = [50, 60, 70, 80, 90]
    ally_total = sum([float(state[a]) for a in allies])
    enemy_total = sum([float(state[e]) for e in enemies])
    if enemy_total <= 0 or enemy_total > 0.8:
        return False
    if ally_total <= enemy_total:
        return False
    for e in enemies:
        if state[e] > 0:
            near = 0
            for a in allies:
                if state[a] > 0:
                    dx = float(state[a + 1]) - float(state[e + 1])
                    dy = float(state[a + 2]) - float(state[e + 2])
                    if dx * dx + dy * dy <= 81.0:
                        near = near + 1
            if near < 1:
                return False
    return True


SUBSPACES = {
    "focused_contact": [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52, 60, 61, 62, 70, 71, 72, 80, 81, 82, 90, 91, 92],
    "first_enemy_down": [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52, 60, 61, 62, 70, 71, 72, 80, 81, 82, 90, 91, 92],
    "outnumbering": [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52, 60, 61, 62, 70, 71, 72, 80, 81, 82, 90, 91, 92],
    "nearly_cleared": [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52, 60, 61, 62, 70, 71, 72, 80, 81, 82, 90, 91, 92],
}

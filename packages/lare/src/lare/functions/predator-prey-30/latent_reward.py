import numpy as np

def vlen(v):
    return np.sqrt(v[:, 0:1] ** 2 + v[:, 1:2] ** 2)

def dot(v, w):
    return v[:, 0:1] * w[:, 0:1] + v[:, 1:2] * w[:, 1:2]

def evaluation_func(observation, action, next_observation):
    obs = np.clip(observation, -100.0, 100.0)
    nxt = np.clip(next_observation, -100.0, 100.0)
    eps = 1e-6

    prey = obs[:, 26:28]
    next_prey = nxt[:, 26:28]
    d = vlen(prey)
    nd = vlen(next_prey)
    acc_x = action[:, 2:3] - action[:, 1:2]
    acc_y = action[:, 4:5] - action[:, 3:4]

    # distance to the nearest prey, far range and short range
    prey_distance = -nd
    prey_closeness = np.exp(-5.0 * nd)

    # reduction of the distance in this step
    prey_approach = d - nd

    # a touch that is lost in this step
    touch_lost = -(d < 0.125).astype(np.float64) * (nd >= 0.125).astype(np.float64)

    # relative velocity along the line to the nearest prey
    closing_speed = dot(nxt[:, 0:2] - nxt[:, 36:38], next_prey) / (nd + eps)

    # the nearest prey runs towards the agent
    prey_incoming = np.maximum(-dot(nxt[:, 36:38], next_prey) / (nd + eps), 0.0)

    # acceleration that leads to the moving prey
    target = prey + 0.2 * (obs[:, 36:38] - obs[:, 0:2])
    lead_acceleration = (acc_x * target[:, 0:1] + acc_y * target[:, 1:2]) / (vlen(target) + eps)

    # no acceleration although no prey is within touch
    idle = -action[:, 0:1] * (d >= 0.125).astype(np.float64)

    # preys: touched by the agent, close around, touched by teammates, left free
    prey_touches = np.zeros_like(nd)
    prey_density = np.zeros_like(nd)
    team_touches = np.zeros_like(nd)
    free_preys = np.zeros_like(nd)
    for j in range(5):
        one_prey = nxt[:, 26 + 2 * j:28 + 2 * j]
        own_dist = vlen(one_prey)
        prey_touches = prey_touches + (own_dist < 0.125).astype(np.float64)
        prey_density = prey_density + np.exp(-4.0 * own_dist)
        nearest_hunter = own_dist
        for k in range(5):
            hunter_dist = vlen(nxt[:, 16 + 2 * k:18 + 2 * k] - one_prey)
            team_touches = team_touches + (hunter_dist < 0.125).astype(np.float64)
            nearest_hunter = np.minimum(nearest_hunter, hunter_dist)
        free_preys = free_preys - nearest_hunter

    # teammates: around the nearest prey, nearer to it, on its opposite side, crowding
    hunters_around = np.zeros_like(nd)
    nearer_hunters = np.zeros_like(nd)
    encircle = np.zeros_like(nd)
    crowding = np.zeros_like(nd)
    for k in range(5):
        mate = nxt[:, 16 + 2 * k:18 + 2 * k]
        rel = mate - next_prey
        rel_len = vlen(rel)
        hunters_around = hunters_around + (rel_len < 0.4).astype(np.float64)
        nearer_hunters = nearer_hunters - (rel_len < nd).astype(np.float64)
        cosine = dot(rel, next_prey) / (rel_len * nd + eps)
        encircle = np.maximum(encircle, np.maximum(cosine, 0.0) * np.exp(-4.0 * rel_len))
        crowding = crowding - np.exp(-10.0 * vlen(mate))

    # contact with the nearest predator
    predator_contact = -(vlen(nxt[:, 16:18]) < 0.15).astype(np.float64)

    # contact with the nearest obstacle
    obstacle_contact = -(vlen(nxt[:, 4:6]) < 0.275).astype(np.float64)

    # acceleration into a near obstacle
    obstacle = obs[:, 4:6]
    obstacle_dist = vlen(obstacle)
    into = np.maximum((acc_x * obstacle[:, 0:1] + acc_y * obstacle[:, 1:2]) / (obstacle_dist + eps), 0.0)
    accelerating_into_obstacle = -into * (obstacle_dist < 0.35).astype(np.float64)

    # one of the two nearest obstacles on the straight way to the nearest prey
    blocked_way = np.zeros_like(nd)
    for k in range(2):
        block = nxt[:, 4 + 2 * k:6 + 2 * k]
        along = dot(block, next_prey) / (nd + eps)
        across = np.abs(block[:, 0:1] * next_prey[:, 1:2] - block[:, 1:2] * next_prey[:, 0:1]) / (nd + eps)
        between = (along > 0.0).astype(np.float64) * (along < nd).astype(np.float64)
        blocked_way = np.minimum(blocked_way, -between * np.maximum(0.275 - across, 0.0) / 0.275)

    return [prey_touches, prey_distance, prey_closeness, prey_density, prey_approach, touch_lost, closing_speed, prey_incoming, lead_acceleration, idle, team_touches, free_preys, hunters_around, nearer_hunters, encircle, crowding, predator_contact, obstacle_contact, accelerating_into_obstacle, blocked_way]

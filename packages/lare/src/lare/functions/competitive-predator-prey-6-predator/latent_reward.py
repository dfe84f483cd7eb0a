import numpy as np

def length(v):
    return np.sqrt(v[:, 0:1] ** 2 + v[:, 1:2] ** 2)

def dot(v, w):
    return v[:, 0:1] * w[:, 0:1] + v[:, 1:2] * w[:, 1:2]

def cross(v, w):
    return v[:, 0:1] * w[:, 1:2] - v[:, 1:2] * w[:, 0:1]

def evaluation_func(observation, action, next_observation):
    obs = np.clip(observation, -100.0, 100.0)
    nxt = np.clip(next_observation, -100.0, 100.0)
    eps = 1e-6

    prey_before = obs[:, 20:22]
    prey_after = nxt[:, 20:22]
    second_after = nxt[:, 22:24]
    velocity = nxt[:, 0:2]
    dist_before = length(prey_before)
    dist_after = length(prey_after)
    second_dist = length(second_after)

    # preys touched by the agent after the step
    prey_touches = (dist_after < 0.125).astype(np.float64) + (second_dist < 0.125).astype(np.float64)

    # a touch that is lost in this step
    touch_lost = -(dist_before < 0.125).astype(np.float64) * (dist_after >= 0.125).astype(np.float64)

    # nearness of the nearest prey: linear and at short range
    prey_distance = -dist_after
    prey_nearness = np.exp(-5.0 * dist_after)

    # reduction of the distance
    prey_approach = dist_before - dist_after

    # acceleration towards the nearest prey
    acc_x = action[:, 2:3] - action[:, 1:2]
    acc_y = action[:, 4:5] - action[:, 3:4]
    acceleration_to_prey = (acc_x * prey_before[:, 0:1] + acc_y * prey_before[:, 1:2]) / (dist_before + eps)

    # velocity towards the nearest prey and past it
    velocity_to_prey = dot(velocity, prey_after) / (dist_after + eps)
    sideways_speed = -np.abs(cross(velocity, prey_after)) / (dist_after + eps)

    # no acceleration while the prey is out of reach
    waiting = -action[:, 0:1] * (dist_before > 0.125).astype(np.float64)

    # teammates around the preys
    team_touches = np.zeros_like(dist_after)
    opposite_mates = np.zeros_like(dist_after)
    surrounding = np.zeros_like(dist_after)
    mates_nearer = np.zeros_like(dist_after)
    second_cover = second_dist
    for k in range(5):
        mate = nxt[:, 10 + 2 * k:12 + 2 * k]
        rel = mate - prey_after
        rel_dist = length(rel)
        rel_second = length(mate - second_after)
        cosine = dot(rel, prey_after) / (rel_dist * dist_after + eps)
        team_touches = team_touches + (rel_dist < 0.125).astype(np.float64) + (rel_second < 0.125).astype(np.float64)
        opposite_mates = opposite_mates + np.maximum(cosine, 0.0) * np.exp(-2.0 * rel_dist)
        surrounding = surrounding + np.exp(-2.0 * rel_dist)
        mates_nearer = mates_nearer - 0.2 * (rel_dist < dist_after).astype(np.float64)
        second_cover = np.minimum(second_cover, rel_second)

    # a second prey that no predator is near
    second_prey_uncovered = -second_cover

    # contact with the nearest obstacle
    obstacle = nxt[:, 4:6]
    obstacle_dist = length(obstacle)
    obstacle_contact = -(obstacle_dist < 0.275).astype(np.float64)

    # moving towards a close obstacle
    towards = np.maximum(dot(velocity, obstacle) / (obstacle_dist + eps), 0.0)
    moving_into_obstacle = -towards * (obstacle_dist < 0.4).astype(np.float64)

    # nearest obstacle on the straight way to the nearest prey
    along = dot(obstacle, prey_after) / (dist_after + eps)
    across = np.abs(cross(obstacle, prey_after)) / (dist_after + eps)
    between = (along > 0.0).astype(np.float64) * (along < dist_after).astype(np.float64)
    blocked_way = -between * np.maximum(0.275 - across, 0.0) / 0.275

    # contact with or nearly with the nearest predator
    predator_too_near = -np.maximum(0.2 - length(nxt[:, 10:12]), 0.0) / 0.2

    return [prey_touches, touch_lost, prey_distance, prey_nearness, prey_approach, acceleration_to_prey, velocity_to_prey, sideways_speed, waiting, team_touches, opposite_mates, surrounding, mates_nearer, second_prey_uncovered, obstacle_contact, moving_into_obstacle, blocked_way, predator_too_near]

import numpy as np

def length(v):
    return np.sqrt(v[:, 0:1] ** 2 + v[:, 1:2] ** 2)

def dot(v, w):
    return v[:, 0:1] * w[:, 0:1] + v[:, 1:2] * w[:, 1:2]

def evaluation_func(observation, action, next_observation):
    obs = np.clip(observation, -50.0, 50.0)
    nxt = np.clip(next_observation, -50.0, 50.0)
    eps = 1e-6

    prey_before = obs[:, 22:24]
    prey_after = nxt[:, 22:24]
    dist_before = length(prey_before)
    dist_after = length(prey_after)

    # preys touched by the agent after the step
    prey_touches = np.zeros_like(dist_after)
    for j in range(3):
        prey_touches = prey_touches + (length(nxt[:, 22 + 2 * j:24 + 2 * j]) < 0.125).astype(np.float64)

    # distance to the nearest prey, and nearness at short range
    prey_distance = -dist_after
    prey_nearness = np.exp(-5.0 * dist_after)

    # nearness to the second and the third prey
    other_prey_nearness = np.exp(-4.0 * length(nxt[:, 24:26])) + np.exp(-4.0 * length(nxt[:, 26:28]))

    # decrease of the distance to the nearest prey
    prey_progress = dist_before - dist_after

    # relative velocity along the line to the nearest prey
    closing_speed = dot(nxt[:, 0:2] - nxt[:, 28:30], prey_after) / (dist_after + eps)

    # the prey moves towards the agent
    cutting_off = -dot(nxt[:, 28:30], prey_after) / (dist_after + eps)

    # acceleration to the expected place of the prey
    acc_x = action[:, 2:3] - action[:, 1:2]
    acc_y = action[:, 4:5] - action[:, 3:4]
    lead = prey_before + 0.2 * obs[:, 28:30]
    intercept_action = (acc_x * lead[:, 0:1] + acc_y * lead[:, 1:2]) / (length(lead) + eps)

    # no acceleration although no prey is within touch
    idle = -action[:, 0:1] * (dist_before > 0.125).astype(np.float64)

    # teammates: beyond the prey, nearer to the prey, in contact, in a tight flock, touching preys
    surround = np.zeros_like(dist_after)
    redundant_chase = np.zeros_like(dist_after)
    mate_contact = np.zeros_like(dist_after)
    flocking = np.zeros_like(dist_after)
    team_touches = np.zeros_like(dist_after)
    cover_second = length(nxt[:, 24:26])
    cover_third = length(nxt[:, 26:28])
    for k in range(5):
        mate = nxt[:, 12 + 2 * k:14 + 2 * k]
        to_mate = mate - prey_after
        mate_prey = length(to_mate)
        mate_second = length(mate - nxt[:, 24:26])
        mate_third = length(mate - nxt[:, 26:28])
        beyond = np.maximum(dot(to_mate, prey_after) / (mate_prey * dist_after + eps), 0.0)
        surround = surround + beyond * np.exp(-3.0 * (mate_prey + dist_after))
        redundant_chase = redundant_chase - 0.2 * (mate_prey < dist_after).astype(np.float64)
        mate_contact = mate_contact - (length(mate) < 0.15).astype(np.float64)
        flocking = flocking - np.maximum(0.3 - length(mate), 0.0)
        team_touches = team_touches + (mate_prey < 0.125).astype(np.float64)
        team_touches = team_touches + (mate_second < 0.125).astype(np.float64)
        team_touches = team_touches + (mate_third < 0.125).astype(np.float64)
        cover_second = np.minimum(cover_second, mate_second)
        cover_third = np.minimum(cover_third, mate_third)

    # preys nearby that no predator guards
    unguarded_preys = -(cover_second + cover_third)

    # contact with the nearest obstacle
    obstacle_contact = -(length(nxt[:, 4:6]) < 0.275).astype(np.float64)

    # acceleration into a near obstacle
    obstacle = obs[:, 4:6]
    obstacle_dist = length(obstacle)
    into = np.maximum((acc_x * obstacle[:, 0:1] + acc_y * obstacle[:, 1:2]) / (obstacle_dist + eps), 0.0)
    accelerate_into_obstacle = -into * (obstacle_dist < 0.4).astype(np.float64)

    # nearest obstacle on the straight way to the nearest prey
    block = nxt[:, 4:6]
    along = dot(block, prey_after) / (dist_after + eps)
    across = np.abs(block[:, 0:1] * prey_after[:, 1:2] - block[:, 1:2] * prey_after[:, 0:1]) / (dist_after + eps)
    between = (along > 0.0).astype(np.float64) * (along < dist_after).astype(np.float64)
    blocked_way = -between * np.maximum(0.275 - across, 0.0) / 0.275

    return [prey_touches, prey_distance, prey_nearness, other_prey_nearness, prey_progress, closing_speed, cutting_off, intercept_action, idle, surround, redundant_chase, mate_contact, flocking, team_touches, unguarded_preys, obstacle_contact, accelerate_into_obstacle, blocked_way]

import numpy as np

def length(v):
    return np.sqrt(v[:, 0:1] ** 2 + v[:, 1:2] ** 2)

def dot(v, w):
    return v[:, 0:1] * w[:, 0:1] + v[:, 1:2] * w[:, 1:2]

def evaluation_func(observation, action, next_observation):
    obs = np.clip(observation, -100.0, 100.0)
    nxt = np.clip(next_observation, -100.0, 100.0)
    eps = 1e-6

    prey_before = obs[:, 20:22]
    prey_after = nxt[:, 20:22]
    second_after = nxt[:, 22:24]
    dist_before = length(prey_before)
    dist_after = length(prey_after)
    second_dist = length(second_after)

    # preys touched by the agent after the step
    prey_touch = (dist_after < 0.125).astype(np.float64) + (second_dist < 0.125).astype(np.float64)

    # staying near the nearest prey, over the whole field and at short range
    prey_distance = -dist_after
    close_range = np.exp(-5.0 * dist_after)

    # getting nearer in this step
    prey_approach = dist_before - dist_after

    # speed at which the gap to the fleeing prey closes after the step
    closing_speed = dot(nxt[:, 0:2] - nxt[:, 24:26], prey_after) / (dist_after + eps)

    # acceleration towards the place where the prey will be shortly
    acc_x = action[:, 2:3] - action[:, 1:2]
    acc_y = action[:, 4:5] - action[:, 3:4]
    lead = prey_before + 0.2 * obs[:, 24:26]
    intercept_action = (acc_x * lead[:, 0:1] + acc_y * lead[:, 1:2]) / (length(lead) + eps)

    # what the teammates do around the two preys
    pincer = np.zeros_like(dist_after)
    surround = np.zeros_like(dist_after)
    redundant_chase = np.zeros_like(dist_after)
    team_touch = np.zeros_like(dist_after)
    second_cover = second_dist
    for k in range(5):
        mate = nxt[:, 10 + 2 * k:12 + 2 * k]
        to_mate = mate - prey_after
        mate_dist = length(to_mate)
        mate_second = length(mate - second_after)
        cosine = -dot(prey_after, to_mate) / (dist_after * mate_dist + eps)
        opposite = np.maximum(-cosine, 0.0) * np.exp(-mate_dist - dist_after)
        pincer = np.maximum(pincer, opposite)
        surround = surround + np.exp(-2.0 * mate_dist - 2.0 * dist_after)
        redundant_chase = redundant_chase - 0.2 * (mate_dist < dist_after).astype(np.float64)
        team_touch = team_touch + (mate_dist < 0.125).astype(np.float64) + (mate_second < 0.125).astype(np.float64)
        second_cover = np.minimum(second_cover, mate_second)

    # a second prey that no predator is near
    uncovered_prey = -second_cover

    # pressed against the nearest obstacle
    obstacle = nxt[:, 4:6]
    obstacle_dist = length(obstacle)
    obstacle_contact = -np.clip((0.275 - obstacle_dist) / 0.275, 0.0, 1.0)

    # moving towards a close obstacle
    obstacle_speed = np.maximum(dot(nxt[:, 0:2], obstacle) / (obstacle_dist + eps), 0.0)
    obstacle_ahead = -obstacle_speed * np.exp(-5.0 * np.maximum(obstacle_dist - 0.275, 0.0))

    # contact with the nearest fellow predator
    mate_contact = -np.clip((0.15 - length(nxt[:, 10:12])) / 0.15, 0.0, 1.0)

    return [prey_touch, prey_distance, close_range, prey_approach, closing_speed, intercept_action, pincer, surround, redundant_chase, team_touch, uncovered_prey, obstacle_contact, obstacle_ahead, mate_contact]

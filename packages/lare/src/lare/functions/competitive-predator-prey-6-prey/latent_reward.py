import numpy as np

def length(v):
    return np.sqrt(v[:, 0:1] ** 2 + v[:, 1:2] ** 2)

def dot(v, w):
    return v[:, 0:1] * w[:, 0:1] + v[:, 1:2] * w[:, 1:2]

def evaluation_func(observation, action, next_observation):
    obs = np.clip(observation, -100.0, 100.0)
    nxt = np.clip(next_observation, -100.0, 100.0)
    eps = 1e-6

    pred_before = obs[:, 10:12]
    pred_after = nxt[:, 10:12]
    velocity = nxt[:, 0:2]
    before = length(pred_before)
    after = length(pred_after)
    speed = length(velocity)
    acc_x = action[:, 2:3] - action[:, 1:2]
    acc_y = action[:, 4:5] - action[:, 3:4]

    # distances to the nearest and the second nearest predator
    nearest_distance = after
    second_distance = length(nxt[:, 12:14])

    # safety, saturating far away
    safety = 1.0 - np.exp(-4.0 * after)

    # increase of the distance to the nearest predator
    distance_gain = after - before

    # escape out of a touch
    touch_escaped = (before < 0.125).astype(np.float64) * (after >= 0.125).astype(np.float64)

    # velocity and acceleration away from the nearest predator
    flight_speed = -dot(velocity, pred_after) / (after + eps)
    flight_action = -(acc_x * pred_before[:, 0:1] + acc_y * pred_before[:, 1:2]) / (before + eps)

    # all predators
    touches = np.zeros_like(after)
    average_distance = np.zeros_like(after)
    pressure = np.zeros_like(after)
    predator_ahead = np.zeros_like(after)
    away_x = np.zeros_like(after)
    away_y = np.zeros_like(after)
    predators_on_other_prey = np.zeros_like(after)
    for k in range(6):
        v = nxt[:, 10 + 2 * k:12 + 2 * k]
        r = length(v)
        touches = touches - (r < 0.125).astype(np.float64)
        average_distance = average_distance + r / 6.0
        pressure = pressure - np.exp(-3.0 * r)
        approach = np.maximum(dot(velocity, v) / (r + eps), 0.0)
        predator_ahead = predator_ahead - approach * np.exp(-3.0 * r)
        other_dist = length(v - nxt[:, 22:24])
        predators_on_other_prey = predators_on_other_prey + (other_dist < r).astype(np.float64) / 6.0
        w = obs[:, 10 + 2 * k:12 + 2 * k]
        s = length(w)
        away_x = away_x - np.exp(-3.0 * s) * w[:, 0:1] / (s + eps)
        away_y = away_y - np.exp(-3.0 * s) * w[:, 1:2] / (s + eps)

    # acceleration away from all near predators together
    flight_from_all_action = acc_x * away_x + acc_y * away_y

    # predators on opposite sides, among the three nearest
    encircled = np.zeros_like(after)
    for i in range(3):
        for j in range(i):
            a = nxt[:, 10 + 2 * i:12 + 2 * i]
            b = nxt[:, 10 + 2 * j:12 + 2 * j]
            la = length(a)
            lb = length(b)
            cosine = dot(a, b) / (la * lb + eps)
            encircled = encircled - np.maximum(-cosine, 0.0) * np.exp(-la - lb)

    # speed while a predator is near
    speed_under_threat = speed * np.exp(-2.0 * after)

    # no acceleration while a predator is close
    passive = -action[:, 0:1] * (before < 0.5).astype(np.float64)

    # contact with the nearest obstacle, moving and accelerating towards it
    obstacle_before = obs[:, 4:6]
    obstacle = nxt[:, 4:6]
    obstacle_dist_before = length(obstacle_before)
    obstacle_dist = length(obstacle)
    obstacle_contact = -np.clip((0.25 - obstacle_dist) / 0.25, 0.0, 1.0)
    obstacle_ahead = -np.maximum(dot(velocity, obstacle) / (obstacle_dist + eps), 0.0) * (obstacle_dist < 0.4).astype(np.float64)
    push = (acc_x * obstacle_before[:, 0:1] + acc_y * obstacle_before[:, 1:2]) / (obstacle_dist_before + eps)
    accelerate_into_obstacle = -np.maximum(push, 0.0) * (obstacle_dist_before < 0.35).astype(np.float64)

    # obstacle between the prey and the nearest predator
    along = dot(obstacle, pred_after) / (after + eps)
    across = np.abs(obstacle[:, 0:1] * pred_after[:, 1:2] - obstacle[:, 1:2] * pred_after[:, 0:1]) / (after + eps)
    between = (along > 0.0).astype(np.float64) * (along < after).astype(np.float64)
    shelter = between * np.maximum(0.275 - across, 0.0) / 0.275

    # contact with the other prey
    other_prey_contact = -(length(nxt[:, 22:24]) < 0.1).astype(np.float64)

    return [touches, nearest_distance, second_distance, average_distance, safety, distance_gain, touch_escaped, flight_speed, flight_action, flight_from_all_action, pressure, encircled, predator_ahead, predators_on_other_prey, speed_under_threat, passive, shelter, obstacle_contact, obstacle_ahead, accelerate_into_obstacle, other_prey_contact]

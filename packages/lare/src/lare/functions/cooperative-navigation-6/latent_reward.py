import numpy as np

def length(x, y):
    return np.sqrt(x * x + y * y)

def others_distance(obs, j):
    # distance of landmark j to the nearest of the other agents
    best = np.full((obs.shape[0], 1), 1000.0)
    for k in range(5):
        dx = obs[:, 4 + 2 * j:5 + 2 * j] - obs[:, 16 + 2 * k:17 + 2 * k]
        dy = obs[:, 5 + 2 * j:6 + 2 * j] - obs[:, 17 + 2 * k:18 + 2 * k]
        best = np.minimum(best, length(dx, dy))
    return best

def coverage_gap(obs):
    # mean over the landmarks of the distance of the nearest of all agents
    total = np.zeros((obs.shape[0], 1))
    for j in range(6):
        own = length(obs[:, 4 + 2 * j:5 + 2 * j], obs[:, 5 + 2 * j:6 + 2 * j])
        total = total + np.minimum(own, others_distance(obs, j))
    return total / 6.0

def own_target(obs):
    # the landmark at which the agent has the greatest advantage over the others
    best_gain = np.full((obs.shape[0], 1), -10000.0)
    tx = np.zeros((obs.shape[0], 1))
    ty = np.zeros((obs.shape[0], 1))
    for j in range(6):
        lx = obs[:, 4 + 2 * j:5 + 2 * j]
        ly = obs[:, 5 + 2 * j:6 + 2 * j]
        gain = others_distance(obs, j) - length(lx, ly)
        better = gain > best_gain
        tx = np.where(better, lx, tx)
        ty = np.where(better, ly, ty)
        best_gain = np.where(better, gain, best_gain)
    return tx, ty

def evaluation_func(observation, action, next_observation):
    obs = np.clip(observation, -100.0, 100.0)
    nxt = np.clip(next_observation, -100.0, 100.0)

    # closeness to the nearest landmark and progress towards it
    near_before = length(obs[:, 4:5], obs[:, 5:6])
    near_after = length(nxt[:, 4:5], nxt[:, 5:6])
    landmark_closeness = -near_after
    landmark_progress = near_before - near_after

    # coverage of all landmarks by the team and its change
    gap_before = coverage_gap(obs)
    gap_after = coverage_gap(nxt)
    team_coverage = -gap_after
    coverage_gain = gap_before - gap_after

    # closeness to the landmark that is this agent's to take
    after_x, after_y = own_target(nxt)
    own_target_closeness = -length(after_x, after_y)

    # acceleration in the direction of that landmark
    before_x, before_y = own_target(obs)
    push_x = action[:, 2:3] - action[:, 1:2]
    push_y = action[:, 4:5] - action[:, 3:4]
    push_to_target = (push_x * before_x + push_y * before_y) / (length(before_x, before_y) + 0.1)

    # standing on the nearest landmark alone, or where another agent is closer
    rival = others_distance(nxt, 0)
    alone_on_landmark = ((near_after < 0.2) & (rival > 0.3)).astype(float)
    contested_landmark = -(rival < near_after).astype(float)

    # collisions with any of the other agents
    collisions = np.zeros((nxt.shape[0], 1))
    for k in range(5):
        d = length(nxt[:, 16 + 2 * k:17 + 2 * k], nxt[:, 17 + 2 * k:18 + 2 * k])
        collisions = collisions - (d < 0.3).astype(float)

    # nearest agent within a safety margin
    nearest_agent = length(nxt[:, 16:17], nxt[:, 17:18])
    crowding = -np.maximum(0.5 - nearest_agent, 0.0)

    # moving towards the nearest agent while it is near
    closing = (nxt[:, 0:1] * nxt[:, 16:17] + nxt[:, 1:2] * nxt[:, 17:18]) / (nearest_agent + 0.05)
    approach_to_agent = -np.where(nearest_agent < 0.6, np.maximum(closing, 0.0), 0.0)

    # speed while being on a landmark
    speed_on_landmark = -length(nxt[:, 0:1], nxt[:, 1:2]) * (near_after < 0.2)

    return [landmark_closeness, landmark_progress, team_coverage, coverage_gain, own_target_closeness, push_to_target, alone_on_landmark, contested_landmark, collisions, crowding, approach_to_agent, speed_on_landmark]

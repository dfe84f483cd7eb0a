import numpy as np

def length(x, y):
    return np.sqrt(x * x + y * y)

def rival_distance(obs, j):
    # distance of landmark j to the nearest visible other agent
    best = np.full((obs.shape[0], 1), 1000.0)
    for k in range(5):
        dx = obs[:, 4 + 2 * j:5 + 2 * j] - obs[:, 16 + 2 * k:17 + 2 * k]
        dy = obs[:, 5 + 2 * j:6 + 2 * j] - obs[:, 17 + 2 * k:18 + 2 * k]
        best = np.minimum(best, length(dx, dy))
    return best

def unclaimed_landmark(obs):
    # offset to the nearest landmark that no visible agent is nearer to;
    # to the farthest visible landmark if all are claimed
    tx = obs[:, 14:15]
    ty = obs[:, 15:16]
    searching = np.ones((obs.shape[0], 1))
    for j in range(6):
        lx = obs[:, 4 + 2 * j:5 + 2 * j]
        ly = obs[:, 5 + 2 * j:6 + 2 * j]
        pick = (length(lx, ly) <= rival_distance(obs, j)) & (searching > 0.5)
        tx = np.where(pick, lx, tx)
        ty = np.where(pick, ly, ty)
        searching = np.where(pick, 0.0, searching)
    return tx, ty

def coverage_gap(obs):
    # mean distance of the three nearest landmarks to their nearest agent
    gap = np.zeros((obs.shape[0], 1))
    for j in range(3):
        own = length(obs[:, 4 + 2 * j:5 + 2 * j], obs[:, 5 + 2 * j:6 + 2 * j])
        gap = gap + np.minimum(own, rival_distance(obs, j))
    return gap / 3.0

def collision_number(obs):
    count = np.zeros((obs.shape[0], 1))
    for k in range(5):
        d = length(obs[:, 16 + 2 * k:17 + 2 * k], obs[:, 17 + 2 * k:18 + 2 * k])
        count = count + (d < 0.3).astype(float)
    return count

def evaluation_func(observation, action, next_observation):
    obs = np.clip(observation, -100.0, 100.0)
    nxt = np.clip(next_observation, -100.0, 100.0)
    vx = nxt[:, 0:1]
    vy = nxt[:, 1:2]
    speed = length(vx, vy)
    push_x = action[:, 2:3] - action[:, 1:2]
    push_y = action[:, 4:5] - action[:, 3:4]

    # nearest landmark
    near_before = length(obs[:, 4:5], obs[:, 5:6])
    near_after = length(nxt[:, 4:5], nxt[:, 5:6])
    landmark_closeness = -near_after
    landmark_progress = near_before - near_after
    speed_to_landmark = (vx * obs[:, 4:5] + vy * obs[:, 5:6]) / (near_before + 0.1)
    landmark_reached = (near_after < 0.15).astype(float)
    overshoot = -speed * (near_after < 0.2)

    # nearest unclaimed landmark
    bx, by = unclaimed_landmark(obs)
    fx, fy = unclaimed_landmark(nxt)
    unclaimed_before = length(bx, by)
    unclaimed_after = length(fx, fy)
    unclaimed_closeness = -unclaimed_after
    unclaimed_progress = unclaimed_before - unclaimed_after
    push_to_unclaimed = (push_x * bx + push_y * by) / (unclaimed_before + 0.1)

    # coverage of the landmarks nearby
    gap_before = coverage_gap(obs)
    gap_after = coverage_gap(nxt)
    local_coverage = -gap_after
    coverage_gain = gap_before - gap_after

    # another agent nearer to the nearest landmark, and two agents at one landmark
    rival = rival_distance(nxt, 0)
    contested_landmark = -np.maximum(near_after - rival, 0.0)
    doubly_occupied = -((near_after < 0.3) & (rival < 0.3)).astype(float)

    # collisions
    hits_before = collision_number(obs)
    hits_after = collision_number(nxt)
    collisions = -hits_after
    new_collisions = -np.maximum(hits_after - hits_before, 0.0)

    # several agents nearby
    crowd = np.zeros((nxt.shape[0], 1))
    for k in range(5):
        d = length(nxt[:, 16 + 2 * k:17 + 2 * k], nxt[:, 17 + 2 * k:18 + 2 * k])
        crowd = crowd + np.maximum(0.5 - d, 0.0)
    crowding = -crowd

    # moving and pushing towards the nearest agent when it is close
    agent_before = length(obs[:, 16:17], obs[:, 17:18])
    is_close = (agent_before < 0.5).astype(float)
    closing = (vx * obs[:, 16:17] + vy * obs[:, 17:18]) / (agent_before + 0.1)
    approach_to_agent = -is_close * np.maximum(closing, 0.0)
    push_from_agent = -is_close * (push_x * obs[:, 16:17] + push_y * obs[:, 17:18]) / (agent_before + 0.1)

    return [landmark_closeness, landmark_progress, speed_to_landmark, landmark_reached, overshoot, unclaimed_closeness, unclaimed_progress, push_to_unclaimed, local_coverage, coverage_gain, contested_landmark, doubly_occupied, collisions, new_collisions, crowding, approach_to_agent, push_from_agent]

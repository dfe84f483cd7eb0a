import numpy as np

def length(x, y):
    return np.sqrt(x * x + y * y)

def rival_distance(obs, j):
    # distance of visible landmark j to the nearest visible other agent
    best = np.full((obs.shape[0], 1), 1000.0)
    for k in range(5):
        dx = obs[:, 4 + 2 * j:5 + 2 * j] - obs[:, 16 + 2 * k:17 + 2 * k]
        dy = obs[:, 5 + 2 * j:6 + 2 * j] - obs[:, 17 + 2 * k:18 + 2 * k]
        best = np.minimum(best, length(dx, dy))
    return best

def local_gap(obs):
    # mean distance of the three nearest landmarks to the nearest agent, this one included
    gap = np.zeros((obs.shape[0], 1))
    for j in range(3):
        own = length(obs[:, 4 + 2 * j:5 + 2 * j], obs[:, 5 + 2 * j:6 + 2 * j])
        gap = gap + np.minimum(own, rival_distance(obs, j))
    return gap / 3.0

def free_landmark(obs):
    # offset to the nearest landmark at which no visible agent is nearer than this one;
    # the nearest landmark of all, and a flag of 1, if there is none
    tx = obs[:, 4:5]
    ty = obs[:, 5:6]
    missing = np.ones((obs.shape[0], 1))
    for j in range(6):
        lx = obs[:, 4 + 2 * j:5 + 2 * j]
        ly = obs[:, 5 + 2 * j:6 + 2 * j]
        pick = (length(lx, ly) <= rival_distance(obs, j)) & (missing > 0.5)
        tx = np.where(pick, lx, tx)
        ty = np.where(pick, ly, ty)
        missing = np.where(pick, 0.0, missing)
    return tx, ty, missing

def count_collisions(obs):
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

    # nearest landmark: distance, being on it, progress
    near_before = length(obs[:, 4:5], obs[:, 5:6])
    near_after = length(nxt[:, 4:5], nxt[:, 5:6])
    landmark_closeness = -near_after
    on_landmark = np.exp(-near_after / 0.2)
    landmark_progress = near_before - near_after

    # nearest free landmark: distance, velocity and push towards it, none to be seen
    bx, by, none_before = free_landmark(obs)
    fx, fy, none_after = free_landmark(nxt)
    free_before = length(bx, by)
    free_landmark_closeness = -length(fx, fy)
    velocity_to_free_landmark = (vx * bx + vy * by) / (free_before + 0.1)
    push_x = action[:, 2:3] - action[:, 1:2]
    push_y = action[:, 4:5] - action[:, 3:4]
    push_to_free_landmark = (push_x * bx + push_y * by) / (free_before + 0.1)
    no_landmark_of_its_own = -none_after

    # coverage of the landmarks nearby
    gap_before = local_gap(obs)
    gap_after = local_gap(nxt)
    local_coverage = -gap_after
    coverage_gain = gap_before - gap_after

    # second agent at the nearest landmark
    rival = rival_distance(nxt, 0)
    shared_landmark = -((rival < near_after) & (near_after < 0.5)).astype(float)

    # collisions, and collisions that began or ended in this step
    hits_before = count_collisions(obs)
    hits_after = count_collisions(nxt)
    collisions = -hits_after
    collisions_resolved = hits_before - hits_after

    # crowding by all visible agents
    crowd = np.zeros((nxt.shape[0], 1))
    for k in range(5):
        d = length(nxt[:, 16 + 2 * k:17 + 2 * k], nxt[:, 17 + 2 * k:18 + 2 * k])
        crowd = crowd + np.maximum(0.5 - d, 0.0)
    crowding = -crowd

    # moving towards the nearest agent when it is almost in contact
    agent_before = length(obs[:, 16:17], obs[:, 17:18])
    closing = (vx * obs[:, 16:17] + vy * obs[:, 17:18]) / (agent_before + 0.05)
    collision_course = -np.where(agent_before < 0.5, np.maximum(closing, 0.0), 0.0)

    # speed on a landmark
    speed_on_landmark = -length(vx, vy) * (near_after < 0.2)

    return [landmark_closeness, on_landmark, landmark_progress, free_landmark_closeness, velocity_to_free_landmark, push_to_free_landmark, no_landmark_of_its_own, local_coverage, coverage_gain, shared_landmark, collisions, collisions_resolved, crowding, collision_course, speed_on_landmark]

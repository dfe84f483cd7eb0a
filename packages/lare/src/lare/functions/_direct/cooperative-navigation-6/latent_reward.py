import numpy as np

def pair_length(x, y):
    return np.sqrt(x ** 2 + y ** 2)

def evaluation_func(observation, action, next_observation):
    lx = next_observation[:, 4]
    ly = next_observation[:, 5]
    before = pair_length(observation[:, 4], observation[:, 5])
    after = pair_length(lx, ly)

    # 1. distance to the nearest landmark
    reward = -1.0 * after

    # 2. approach
    reward = reward + 0.5 * np.clip(before - after, -0.2, 0.2)

    # 3. on the landmark and slow
    speed = pair_length(next_observation[:, 0], next_observation[:, 1])
    on_landmark = np.where(after < 0.1, 1.0, 0.0)
    reward = reward + 0.2 * on_landmark / (1.0 + speed)

    # 4. coverage by the team: distance of the nearest agent to each landmark
    coverage = np.zeros_like(after)
    for j in range(6):
        mx = next_observation[:, 4 + 2 * j]
        my = next_observation[:, 5 + 2 * j]
        nearest = pair_length(mx, my)
        for k in range(5):
            dx = mx - next_observation[:, 16 + 2 * k]
            dy = my - next_observation[:, 17 + 2 * k]
            nearest = np.minimum(nearest, pair_length(dx, dy))
        coverage = coverage + nearest
    reward = reward - 0.5 * coverage / 6.0

    # 5.-7. the other agents
    rival = np.zeros_like(after)
    for k in range(5):
        ox = next_observation[:, 16 + 2 * k]
        oy = next_observation[:, 17 + 2 * k]
        gap = pair_length(ox, oy)
        # collision
        reward = reward - np.where(gap < 0.3, 1.0, 0.0)
        # soft margin before a collision
        reward = reward - 0.1 * np.clip((0.4 - gap) / 0.1, 0.0, 1.0)
        # somebody else holds my nearest landmark
        theirs = pair_length(lx - ox, ly - oy)
        rival = np.maximum(rival, np.where((theirs < after) & (theirs < 0.3), 1.0, 0.0))
    reward = reward - 0.2 * rival

    # 8. far outside of the square
    out_x = np.clip(np.abs(next_observation[:, 2]) - 1.6, 0.0, 2.0)
    out_y = np.clip(np.abs(next_observation[:, 3]) - 1.6, 0.0, 2.0)
    reward = reward - 0.2 * (out_x + out_y)

    return [reward.reshape(-1, 1)]

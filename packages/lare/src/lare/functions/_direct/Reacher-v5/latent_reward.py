import numpy as np

def target_distance(obs):
    return np.sqrt(obs[:, 8] ** 2 + obs[:, 9] ** 2)

def evaluation_func(observation, action, next_observation):
    d_before = target_distance(observation)
    d_after = target_distance(next_observation)

    # 1. distance to the target
    distance_cost = 1.0 * d_after

    # 2. large actions
    t1 = np.clip(action[:, 0], -1.0, 1.0)
    t2 = np.clip(action[:, 1], -1.0, 1.0)
    torque_cost = 0.1 * (t1 ** 2 + t2 ** 2)

    # 3. coming closer is good, moving away is bad
    progress = 0.5 * np.clip(d_before - d_after, -0.2, 0.2)

    # 4. accuracy at the target, between 0 and 1
    near = 1.0 / (1.0 + (d_after / 0.03) ** 2)
    accuracy_bonus = 0.1 * near

    # 5. holding still at the target
    v1 = np.clip(next_observation[:, 6], -20.0, 20.0)
    v2 = np.clip(next_observation[:, 7], -20.0, 20.0)
    hold_cost = 0.003 * near * (v1 ** 2 + v2 ** 2)

    reward = -distance_cost - torque_cost + progress + accuracy_bonus - hold_cost
    return [reward.reshape(-1, 1)]

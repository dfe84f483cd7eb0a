import numpy as np

def signed_angle(obs):
    return np.arctan2(np.clip(obs[:, 1], -1.0, 1.0), np.clip(obs[:, 0], -1.0, 1.0))

def evaluation_func(observation, action, next_observation):
    angle = signed_angle(observation)
    next_angle = signed_angle(next_observation)
    velocity = np.clip(next_observation[:, 2], -8.0, 8.0)
    torque = np.clip(action[:, 0], -2.0, 2.0)

    # smooth gate: 1 upright, towards 0 away from it
    near_top = np.exp(-4.0 * next_angle ** 2)

    # 1. distance from upright, the main cost
    angle_cost = next_angle ** 2

    # 2. speed, weak everywhere
    speed_cost = 0.1 * velocity ** 2

    # 3. speed close to the top, where it means overshooting
    overshoot_cost = 0.05 * near_top * velocity ** 2

    # 4. torque, and torque that is wasted while upright
    torque_cost = 0.001 * torque ** 2 * (1.0 + near_top)

    # 5. energy too low or too high for reaching the top, only away from it
    tilt = 0.5 * (1.0 - np.clip(next_observation[:, 0], -1.0, 1.0))
    energy = velocity ** 2 / 60.0 - tilt
    energy_cost = 0.3 * np.abs(energy) * (1.0 - near_top)

    # 6. upright and at rest
    balance_bonus = 0.5 * near_top * np.exp(-velocity ** 2)

    # 7. progress towards upright
    progress = 0.2 * (np.abs(angle) - np.abs(next_angle))

    reward = (-angle_cost
              - speed_cost
              - overshoot_cost
              - torque_cost
              - energy_cost
              + balance_bonus
              + progress)
    return [reward.reshape(-1, 1)]

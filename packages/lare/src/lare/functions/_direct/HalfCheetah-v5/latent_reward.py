import numpy as np

def evaluation_func(observation, action, next_observation):
    v_before = observation[:, 8]
    v_after = next_observation[:, 8]

    # 1. forward speed, the goal
    forward_reward = 1.0 * 0.5 * (v_before + v_after)

    # 2. getting faster
    acceleration_reward = 0.05 * np.clip(v_after - v_before, -2.0, 2.0)

    # 3. torques
    torque_cost = np.zeros_like(v_after)
    for i in range(6):
        torque_cost = torque_cost + 0.1 * np.clip(action[:, i], -1.0, 1.0) ** 2

    # 4. level torso: 0 level, 0.4 upside down
    pitch = np.clip(next_observation[:, 1], -1000.0, 1000.0)
    pitch_cost = 0.2 * (1.0 - np.cos(pitch))

    # 5. rocking
    pitch_rate = np.clip(next_observation[:, 10], -10.0, 10.0)
    rocking_cost = 0.002 * pitch_rate ** 2

    # 6. bouncing
    vz = np.clip(next_observation[:, 9], -5.0, 5.0)
    bounce_cost = 0.02 * vz ** 2

    # 7. torso low on the ground
    low_cost = 0.5 * np.clip(-0.2 - next_observation[:, 0], 0.0, 0.5)

    # 8. thrashing: joint rates beyond a generous limit
    thrash_cost = np.zeros_like(v_after)
    for i in range(11, 17):
        rate = np.abs(next_observation[:, i])
        thrash_cost = thrash_cost + 0.005 * np.clip(rate - 15.0, 0.0, 10.0)

    reward = (forward_reward
              + acceleration_reward
              - torque_cost
              - pitch_cost
              - rocking_cost
              - bounce_cost
              - low_cost
              - thrash_cost)
    return [reward.reshape(-1, 1)]

import numpy as np

def target_distance(obs):
    x = np.clip(obs[:, 8:9], -10.0, 10.0)
    y = np.clip(obs[:, 9:10], -10.0, 10.0)
    return np.sqrt(x * x + y * y)

def evaluation_func(observation, action, next_observation):
    dist = target_distance(observation)
    next_dist = target_distance(next_observation)

    vel_1 = np.clip(observation[:, 6:7], -50.0, 50.0)
    vel_2 = np.clip(observation[:, 7:8], -50.0, 50.0)
    next_vel_1 = np.clip(next_observation[:, 6:7], -50.0, 50.0)
    next_vel_2 = np.clip(next_observation[:, 7:8], -50.0, 50.0)
    next_speed_sq = next_vel_1 ** 2 + next_vel_2 ** 2

    torque_1 = np.clip(action[:, 0:1], -1.0, 1.0)
    torque_2 = np.clip(action[:, 1:2], -1.0, 1.0)

    # negative: fingertip away from the target
    distance_cost = -dist

    # negative: large torques
    control_cost = -(torque_1 ** 2 + torque_2 ** 2)

    # positive: the distance shrinks in this step
    progress = dist - next_dist

    # positive: precisely at the target after the step, between 0 and 1
    near_target = np.exp(-20.0 * next_dist)

    # negative: joints turn fast
    joint_speed_cost = -np.sqrt(next_speed_sq)

    # negative: joints turn fast although the fingertip is near the target
    speed_near_target = -near_target * next_speed_sq

    # positive: at the target with joints at rest
    hold_at_target = near_target / (1.0 + next_speed_sq)

    # positive: torque against the joint motion near the target
    braking_near_target = -np.exp(-20.0 * dist) * (torque_1 * vel_1 + torque_2 * vel_2)

    return [distance_cost, control_cost, progress, near_target, joint_speed_cost, speed_near_target, hold_at_target, braking_near_target]

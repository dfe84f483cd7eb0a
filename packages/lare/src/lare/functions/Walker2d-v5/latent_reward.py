import numpy as np

def evaluation_func(observation, action, next_observation):
    # state of the torso after the step, limited to sane ranges
    height = np.clip(next_observation[:, 0:1], -10.0, 10.0)
    pitch = np.clip(next_observation[:, 1:2], -10.0, 10.0)
    vx_before = np.clip(observation[:, 8:9], -10.0, 10.0)
    vx_after = np.clip(next_observation[:, 8:9], -10.0, 10.0)
    vz = np.clip(next_observation[:, 9:10], -10.0, 10.0)
    pitch_rate = np.clip(next_observation[:, 10:11], -10.0, 10.0)

    # positive: distance covered in the step
    forward_speed = 0.5 * (vx_before + vx_after)

    # positive: forward velocity gained in the step
    speed_gain = vx_after - vx_before

    # positive: the robot has not fallen
    inside = (height > 0.8) & (height < 2.0) & (np.abs(pitch) < 1.0)
    staying_up = np.where(inside, 1.0, 0.0)

    # positive: the thighs swing in opposite directions
    right_swing = np.clip(next_observation[:, 11:12], -10.0, 10.0)
    left_swing = np.clip(next_observation[:, 14:15], -10.0, 10.0)
    alternating_gait = -right_swing * left_swing / 100.0

    # negative: effort of the six motors
    control_cost = -np.sum(np.clip(action, -1.0, 1.0) ** 2, axis=1, keepdims=True)

    # negative: torso away from upright
    tilt_penalty = -np.abs(pitch)

    # negative: the torso is tilted and tilts further
    falling_tendency = -np.clip(pitch * pitch_rate, 0.0, 10.0)

    # negative: the torso is close to the lower limit of height
    low_height_penalty = -np.clip(1.1 - height, 0.0, 1.0)

    # negative: the torso is low and moves down
    sinking_penalty = -np.clip(-vz, 0.0, 10.0) * np.clip(1.2 - height, 0.0, 0.4)

    # negative: bouncing and spinning of the torso
    unsteady_torso = -(np.abs(vz) + np.abs(pitch_rate))

    return [forward_speed, speed_gain, staying_up, alternating_gait, control_cost, tilt_penalty, falling_tendency, low_height_penalty, sinking_penalty, unsteady_torso]

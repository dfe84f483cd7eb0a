import numpy as np

def evaluation_func(observation, action, next_observation):
    velocity_before = np.clip(observation[:, 5:6], -10.0, 10.0)
    height = np.clip(next_observation[:, 0:1], -5.0, 5.0)
    pitch = np.clip(next_observation[:, 1:2], -3.0, 3.0)
    velocity_after = np.clip(next_observation[:, 5:6], -10.0, 10.0)
    upward_velocity = np.clip(next_observation[:, 6:7], -10.0, 10.0)
    pitch_rate = np.clip(next_observation[:, 7:8], -10.0, 10.0)
    torque = np.clip(action[:, 0:3], -1.0, 1.0)

    # positive: hopping forward
    forward_speed = velocity_after

    # positive: gain of forward velocity in the step
    speed_gain = velocity_after - velocity_before

    # positive: inside the limits after the step, 0 after a fall
    staying_up = np.where((height >= 0.7) & (np.abs(pitch) <= 0.2), 1.0, 0.0)

    # negative: squared torques
    control_cost = -np.sum(np.square(torque), axis=1, keepdims=True)

    # negative: tilt relative to its limit
    tilt_cost = -np.minimum(np.abs(pitch) / 0.2, 3.0)

    # positive: height above its limit
    height_margin = np.clip(height - 0.7, -1.0, 1.0)

    # negative: torso pitches fast
    pitch_rate_cost = -np.abs(pitch_rate)

    # negative: tilt is growing
    tilting_away = -np.maximum(pitch * pitch_rate, 0.0)

    # negative: sinking while already low
    low = np.clip(1.1 - height, 0.0, 1.0)
    sinking_when_low = low * np.minimum(upward_velocity, 0.0)

    return [forward_speed, speed_gain, staying_up, control_cost, tilt_cost, height_margin, pitch_rate_cost, tilting_away, sinking_when_low]

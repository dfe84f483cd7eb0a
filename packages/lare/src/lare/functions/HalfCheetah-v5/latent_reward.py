import numpy as np

def evaluation_func(observation, action, next_observation):
    velocity_before = np.clip(observation[:, 8:9], -50.0, 50.0)
    velocity_after = np.clip(next_observation[:, 8:9], -50.0, 50.0)
    torque = np.clip(action[:, 0:6], -1.0, 1.0)
    joint_velocity = np.clip(observation[:, 11:17], -100.0, 100.0)

    # positive: forward velocity during the step
    forward_speed = 0.5 * (velocity_before + velocity_after)

    # positive: gain of forward velocity in the step
    speed_gain = velocity_after - velocity_before

    # negative: running backward
    backward_motion = np.minimum(forward_speed, 0.0)

    # negative: squared torques of all joints
    control_cost = -np.sum(np.square(torque), axis=1, keepdims=True)

    # negative: mechanical power of all joints
    power_cost = -np.sum(np.abs(torque * joint_velocity), axis=1, keepdims=True)

    # negative: torso tilted, 0 when level and -2 when on its back
    tilt_cost = np.cos(np.clip(next_observation[:, 1:2], -1000.0, 1000.0)) - 1.0

    # negative: torso pitches fast
    pitch_rate_cost = -np.abs(np.clip(next_observation[:, 10:11], -100.0, 100.0))

    # negative: bouncing up and down
    vertical_speed_cost = -np.abs(np.clip(next_observation[:, 9:10], -50.0, 50.0))

    # negative: torso below its height at the start
    low_torso_cost = np.clip(next_observation[:, 0:1], -10.0, 0.0)

    return [forward_speed, speed_gain, backward_motion, control_cost, power_cost, tilt_cost, pitch_rate_cost, vertical_speed_cost, low_torso_cost]

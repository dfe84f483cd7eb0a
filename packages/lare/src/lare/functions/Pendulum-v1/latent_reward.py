import numpy as np

def evaluation_func(observation, action, next_observation):
    cos_now = np.clip(observation[:, 0:1], -1.0, 1.0)
    sin_now = np.clip(observation[:, 1:2], -1.0, 1.0)
    vel_now = np.clip(observation[:, 2:3], -8.0, 8.0)
    cos_next = np.clip(next_observation[:, 0:1], -1.0, 1.0)
    sin_next = np.clip(next_observation[:, 1:2], -1.0, 1.0)
    vel_next = np.clip(next_observation[:, 2:3], -8.0, 8.0)
    torque = np.clip(action[:, 0:1], -2.0, 2.0)

    # angle from upright before and after the step, -pi to pi
    theta = np.arctan2(sin_now, cos_now)
    theta_next = np.arctan2(sin_next, cos_next)

    # how far the pendulum is in the upper and in the lower half
    upper = np.maximum(cos_now, 0.0)
    lower = np.maximum(-cos_now, 0.0)

    # negative: away from upright
    angle_cost = -np.square(theta)

    # negative: moving fast
    velocity_cost = -np.square(vel_now)

    # negative: using torque
    torque_cost = -np.square(torque)

    # positive: upright and at rest after the step
    upright_at_rest = np.exp(-4.0 * np.square(theta_next) - 0.5 * np.square(vel_next))

    # positive: closer to upright than before the step
    progress_to_upright = np.abs(theta) - np.abs(theta_next)

    # positive: torque along the motion in the lower half
    energy_pumping = torque * vel_now * lower

    # negative: speed in the upper half, leads to overshoot
    speed_near_top = -np.square(upper) * np.abs(vel_now)

    # positive: torque towards upright in the upper half
    restoring_torque = -torque * sin_now * upper

    return [angle_cost, velocity_cost, torque_cost, upright_at_rest, progress_to_upright, energy_pumping, speed_near_top, restoring_torque]

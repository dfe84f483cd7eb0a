import numpy as np

def evaluation_func(observation, action, next_observation):
    vx_before = np.clip(observation[:, 3:4], -100.0, 100.0)
    vx_after = np.clip(next_observation[:, 3:4], -100.0, 100.0)
    vy_after = np.clip(next_observation[:, 4:5], -100.0, 100.0)
    heading = next_observation[:, 0:1]
    angle_1 = np.clip(next_observation[:, 1:2], -4.0, 4.0)
    angle_2 = np.clip(next_observation[:, 2:3], -4.0, 4.0)
    link_rate = np.clip(next_observation[:, 5:6], -50.0, 50.0)
    rate_1 = np.clip(next_observation[:, 6:7], -50.0, 50.0)
    rate_2 = np.clip(next_observation[:, 7:8], -50.0, 50.0)

    # positive: distance covered along x in the step
    forward_speed = 0.5 * (vx_before + vx_after)

    # positive: forward velocity gained in the step
    forward_gain = vx_after - vx_before

    # positive: the front link points towards +x
    heading_alignment = np.cos(heading)

    # positive or negative by its sense: travelling wave along the body
    body_wave = angle_1 * rate_2 - angle_2 * rate_1

    # positive: the joints are at work
    joint_activity = np.abs(rate_1) + np.abs(rate_2)

    # correction: swing of the front tip along x that is not motion of the whole body
    tip_swing = np.sin(heading) * link_rate

    # negative: effort
    control_cost = -np.sum(np.clip(action, -1.0, 1.0) ** 2, axis=1, keepdims=True)

    # negative: sideways motion
    sideways_penalty = -np.abs(vy_after)

    # negative: spinning of the front link
    spin_penalty = -np.abs(link_rate)

    # negative: body curled up
    overbend_penalty = -(np.clip(np.abs(angle_1) - 1.2, 0.0, 3.0) + np.clip(np.abs(angle_2) - 1.2, 0.0, 3.0))

    return [forward_speed, forward_gain, heading_alignment, body_wave, joint_activity, tip_swing, control_cost, sideways_penalty, spin_penalty, overbend_penalty]

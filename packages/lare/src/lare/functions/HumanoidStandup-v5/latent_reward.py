import numpy as np

def evaluation_func(observation, action, next_observation):
    # positive: height of the torso
    torso_height = np.clip(next_observation[:, 0:1], -5.0, 5.0)

    # positive: the torso moves up
    rising_speed = np.clip(next_observation[:, 24:25], -20.0, 20.0)

    # positive: near full height, from 0 at 1.0 m to 1 at 1.3 m
    standing = np.clip((torso_height - 1.0) / 0.3, 0.0, 1.0)

    # positive: z part of the torso's own axis, 1 when upright
    qx = np.clip(next_observation[:, 2:3], -1.0, 1.0)
    qy = np.clip(next_observation[:, 3:4], -1.0, 1.0)
    uprightness = np.clip(1.0 - 2.0 * (qx * qx + qy * qy), -1.0, 1.0)

    # positive: the feet are below the centre of mass
    right_foot_z = np.clip(next_observation[:, 103:104], -100.0, 100.0)
    left_foot_z = np.clip(next_observation[:, 133:134], -100.0, 100.0)
    feet_below = -(right_foot_z + left_foot_z)

    # positive: force on the feet, saturating
    right_foot_force = np.abs(np.clip(next_observation[:, 305:306], -1000.0, 1000.0))
    left_foot_force = np.abs(np.clip(next_observation[:, 323:324], -1000.0, 1000.0))
    feet_support = np.tanh((right_foot_force + left_foot_force) / 200.0)

    # negative: squared torques
    control_cost = -np.sum(np.clip(action, -0.4, 0.4) ** 2, axis=1, keepdims=True)

    # negative: contact forces on all bodies, limited
    contact = np.clip(next_observation[:, 270:348], -1000.0, 1000.0)
    contact_cost = -np.clip(5e-7 * np.sum(contact ** 2, axis=1, keepdims=True), 0.0, 10.0)

    # negative: torso, lower waist or pelvis touches the ground
    trunk = np.clip(next_observation[:, 270:288], -1000.0, 1000.0)
    trunk_contact = -np.tanh(np.sum(np.abs(trunk), axis=1, keepdims=True) / 200.0)

    # negative: the middle of the feet is horizontally off the centre of mass
    feet_x = np.clip(next_observation[:, 101:102], -100.0, 100.0) + np.clip(next_observation[:, 131:132], -100.0, 100.0)
    feet_y = np.clip(next_observation[:, 102:103], -100.0, 100.0) + np.clip(next_observation[:, 132:133], -100.0, 100.0)
    balance_error = -(np.abs(feet_x) + np.abs(feet_y))

    # negative: horizontal motion of the torso
    velocity_xy = np.clip(next_observation[:, 22:24], -20.0, 20.0)
    horizontal_motion = -np.sum(np.abs(velocity_xy), axis=1, keepdims=True)

    # negative: turning of the torso
    turning = np.clip(next_observation[:, 25:28], -50.0, 50.0)
    torso_turning = -np.sum(np.abs(turning), axis=1, keepdims=True)

    # negative: thrashing of the joints
    joint_speed = np.clip(next_observation[:, 28:45], -50.0, 50.0)
    thrashing_cost = -np.sum(np.abs(joint_speed), axis=1, keepdims=True) / 17.0

    # negative: bent knees while the torso is upright
    right_knee = np.abs(np.clip(next_observation[:, 11:12], -4.0, 4.0))
    left_knee = np.abs(np.clip(next_observation[:, 15:16], -4.0, 4.0))
    bent_knees = -(right_knee + left_knee) * np.clip(uprightness, 0.0, 1.0)

    return [torso_height, rising_speed, standing, uprightness, feet_below, feet_support, control_cost, contact_cost, trunk_contact, balance_error, horizontal_motion, torso_turning, thrashing_cost, bent_knees]

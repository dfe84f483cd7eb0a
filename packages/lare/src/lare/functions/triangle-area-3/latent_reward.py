import numpy as np

def length(x, y):
    return np.sqrt(x * x + y * y)

def cross(ax, ay, bx, by):
    return ax * by - ay * bx

def contact_count(obs):
    count = np.zeros((obs.shape[0], 1))
    for k in range(3):
        d = length(obs[:, 4 + 2 * k:5 + 2 * k], obs[:, 5 + 2 * k:6 + 2 * k])
        count = count + (d < 0.45).astype(float)
    return count

def evaluation_func(observation, action, next_observation):
    obs = np.clip(observation, -100.0, 100.0)
    nxt = np.clip(next_observation, -100.0, 100.0)
    vx = nxt[:, 0:1]
    vy = nxt[:, 1:2]
    push_x = action[:, 2:3] - action[:, 1:2]
    push_y = action[:, 4:5] - action[:, 3:4]

    # the other agents before and after the step
    ax = obs[:, 10:11]
    ay = obs[:, 11:12]
    bx = obs[:, 12:13]
    by = obs[:, 13:14]
    cx = nxt[:, 10:11]
    cy = nxt[:, 11:12]
    dx = nxt[:, 12:13]
    dy = nxt[:, 13:14]

    # area, its growth, and the growth by the agent's own displacement
    signed_before = cross(ax, ay, bx, by)
    area_before = 0.5 * np.abs(signed_before)
    triangle_area = 0.5 * np.abs(cross(cx, cy, dx, dy))
    area_growth = triangle_area - area_before
    mx = nxt[:, 2:3] - obs[:, 2:3]
    my = nxt[:, 3:4] - obs[:, 3:4]
    own_area_growth = 0.5 * np.abs(cross(ax - mx, ay - my, bx - mx, by - my)) - area_before

    # velocity and push away from the side between the others
    side = np.where(signed_before >= 0.0, 1.0, -1.0)
    grow_x = side * (ay - by)
    grow_y = side * (bx - ax)
    grow_length = length(grow_x, grow_y) + 0.05
    outward_speed = (vx * grow_x + vy * grow_y) / grow_length
    outward_push = (push_x * grow_x + push_y * grow_y) / grow_length

    # shape of the triangle
    side_1 = length(cx, cy)
    side_2 = length(dx, dy)
    side_3 = length(dx - cx, dy - cy)
    height = 2.0 * triangle_area / (side_3 + 0.1)
    distance_to_others = 0.5 * (side_1 + side_2)
    shortest_side = np.minimum(np.minimum(side_1, side_2), side_3)
    angle_sine = 2.0 * triangle_area / (side_1 * side_2 + 0.01)

    # contacts with obstacles
    contacts_before = contact_count(obs)
    contacts_after = contact_count(nxt)
    obstacle_contact = -contacts_after
    new_contact = -np.maximum(contacts_after - contacts_before, 0.0)

    # depth of the contact, nearness, velocity and push towards obstacles nearby
    depth = np.zeros((nxt.shape[0], 1))
    near = np.zeros((nxt.shape[0], 1))
    closing = np.zeros((nxt.shape[0], 1))
    pushing = np.zeros((nxt.shape[0], 1))
    for k in range(3):
        ox = obs[:, 4 + 2 * k:5 + 2 * k]
        oy = obs[:, 5 + 2 * k:6 + 2 * k]
        d_before = length(ox, oy)
        d_after = length(nxt[:, 4 + 2 * k:5 + 2 * k], nxt[:, 5 + 2 * k:6 + 2 * k])
        is_near = (d_before < 0.75).astype(float)
        depth = depth + np.maximum(0.45 - d_after, 0.0)
        near = near + np.maximum(0.65 - d_after, 0.0)
        closing = closing + is_near * np.maximum(vx * ox + vy * oy, 0.0) / (d_before + 0.05)
        pushing = pushing + is_near * np.maximum(push_x * ox + push_y * oy, 0.0) / (d_before + 0.05)
    contact_depth = -depth
    obstacle_nearness = -near
    speed_to_obstacle = -closing
    push_to_obstacle = -pushing

    return [triangle_area, area_growth, own_area_growth, outward_speed, outward_push, height, distance_to_others, shortest_side, angle_sine, obstacle_contact, new_contact, contact_depth, obstacle_nearness, speed_to_obstacle, push_to_obstacle]

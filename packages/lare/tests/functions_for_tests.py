"""Latent rewards that several tests use; for Pendulum-v1."""

PENDULUM = """
import numpy as np

def evaluation_func(observation, action, next_observation):
    angle = np.arctan2(observation[:, 1:2], observation[:, 0:1])
    angle_error = angle ** 2
    speed = observation[:, 2:3] ** 2
    effort = action[:, 0:1] ** 2
    return [angle_error, speed, effort]
"""

"""Particle tasks so small that a policy learns them in seconds."""

from lare.envs import MPETask, Reward, Team, View

DISTANCE = '''
import numpy as np

def evaluation_func(observation):
    """Distance to the nearest landmark, and how fast the agent is."""
    distance = np.sqrt((observation[:, 4:6] ** 2).sum(axis=1, keepdims=True))
    speed = (observation[:, 0:2] ** 2).sum(axis=1, keepdims=True)
    return [distance, speed]
'''


def gather(agents=2, horizon=10, **options):
    """Agents that earn minus the distance to the nearest of as many landmarks."""
    views = (View("landmark", agents),)
    if agents > 1:
        views += (View("agent", agents - 1),)
    reward = Reward(distance=-1.0, nearest="landmark")
    team = Team("agent", agents, size=0.05, views=views, reward=reward)
    return MPETask("gather", 0.8, (team,), n_landmarks=agents, horizon=horizon, **options)


def chase():
    """One predator after one prey, which both learn; their observations have one size."""
    predator = Team(
        "predator",
        1,
        0.1,
        views=(View("prey", 1),),
        reward=Reward(distance=-1.0, nearest="prey"),
    )
    prey = Team(
        "prey",
        1,
        0.1,
        views=(View("predator", 1),),
        reward=Reward(distance=1.0, nearest="predator"),
    )
    return MPETask("chase", 0.8, (predator, prey), n_landmarks=1, agent_id=True, horizon=8)

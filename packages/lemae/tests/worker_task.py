"""What workers are made of in the tests: functions of a module, as new processes need them."""

import os

from line_task import KEY_STATES, Line

from lemae import KeyStateSet
from lemae.algos import IPPO

COPIES = 3


def make_env():
    return Line(COPIES)


def make_env_that_aborts():
    return Line(COPIES, aborts=[1])


def make_actor(env):
    learner = IPPO(env.n_agents, env.n_actions, env.d, n_values=env.n_values)
    return learner, learner.actor


def make_env_that_dies(num_envs):
    os._exit(7)


def no_env():
    raise FileNotFoundError("no game here")


def make_actor_that_dies(env):
    os._exit(7)


def key_states():
    return KeyStateSet.from_source(KEY_STATES, 2)

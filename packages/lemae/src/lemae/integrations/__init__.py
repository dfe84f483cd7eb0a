"""Other people's environments and learners, each imported on its own and each behind an extra.

Environments with the interface of :func:`lemae.envs.make`: :mod:`~lemae.integrations.smax`,
:mod:`~lemae.integrations.smacv2`, :mod:`~lemae.integrations.pettingzoo`. Learners:
:mod:`~lemae.integrations.epymarl`, :mod:`~lemae.integrations.torchrl` and
:mod:`~lemae.integrations.benchmarl`, which share :class:`~lemae.integrations.shaping.Shaping`.
Several machines: :mod:`~lemae.integrations.ray`.
"""

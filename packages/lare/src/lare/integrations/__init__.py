"""Adapters to RL libraries, each imported on its own and each behind an extra.

:mod:`lare.integrations.stable_baselines3` and :mod:`lare.integrations.torchrl`.
"""

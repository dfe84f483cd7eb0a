"""Autograd functions that keep recipes instead of tensors.

``recipe`` holds the one idea; every other module is one operation built on it.
"""

"""Adapters to training frameworks, each imported on its own and each behind an extra.

:mod:`go4align.integrations.lightning`, :mod:`go4align.integrations.transformers` and
:mod:`go4align.integrations.libmtl`.
"""

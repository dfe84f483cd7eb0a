"""The functions of key states as code: taken apart, run on symbols, made fit for many states.

``source`` takes a file apart, one function at a time. ``symbolic`` runs a function on symbols, by
the rules of ``algebra`` and ``functions``, and so makes it a ``graph`` of elementwise operations.
``vectorize`` makes of that a function of many states, ``subspace`` reads off which indices of the
state matter, and ``forms`` chooses between the two forms of a function.
"""

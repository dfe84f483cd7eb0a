"""What generated code may use: names by kind, and limits.

A policy can only choose among the NumPy functions of :data:`NUMPY_NAMES`, because each of them has
a rule by which :mod:`numpy_proxy` bounds its cost before it runs.
"""

from __future__ import annotations

import keyword
from dataclasses import asdict, dataclass, field
from typing import Any

_UNARY = (
    "abs absolute fabs negative positive sign sqrt cbrt square reciprocal exp exp2 expm1 log log2 "
    "log10 log1p sin cos tan arcsin arccos arctan sinh cosh tanh arcsinh arccosh arctanh deg2rad "
    "rad2deg degrees radians floor ceil trunc rint isnan isinf isfinite logical_not nan_to_num sinc"
)
_BINARY = (
    "add subtract multiply divide true_divide floor_divide mod remainder fmod power float_power "
    "maximum minimum fmax fmin arctan2 hypot copysign heaviside logaddexp greater greater_equal "
    "less less_equal equal not_equal logical_and logical_or logical_xor isclose cross"
)
_REDUCTIONS = (
    "sum mean std var min max amin amax prod any all argmin argmax count_nonzero cumsum cumprod "
    "median average ptp nansum nanmean nanmax nanmin linalg.norm diff sort argsort flip"
)
_VIEWS = "reshape ravel squeeze expand_dims transpose swapaxes moveaxis atleast_1d atleast_2d"
_JOINS = "concatenate stack hstack vstack column_stack"
_CONSTANTS = "pi e inf nan newaxis"
_DTYPES = "float16 float32 float64 int8 int16 int32 int64 uint8 bool_"

_OWN = (
    "array asarray zeros ones full zeros_like ones_like full_like arange linspace eye tile repeat "
    "dot matmul outer select round around finfo"
)
_REDUCING_METHODS = "sum mean std var min max prod any all argmin argmax cumsum"
_MATH = (
    "pi e inf nan tau sqrt exp expm1 log log2 log10 log1p sin cos tan asin acos atan atan2 sinh "
    "cosh tanh hypot fabs pow degrees radians floor ceil copysign isfinite isnan isinf"
)
_BUILTINS = "abs all any bool enumerate float int len list max min range round sum tuple zip"

# Name -> (kind, most positional arguments). "own" functions check their arguments themselves.
NUMPY_RULES: dict[str, tuple[str, int]] = {
    **dict.fromkeys(_UNARY.split(), ("map", 1)),
    **dict.fromkeys(_BINARY.split(), ("map", 2)),
    **dict.fromkeys(("where", "clip"), ("map", 3)),
    **dict.fromkeys(_REDUCTIONS.split(), ("reduce", 2)),
    "diff": ("reduce", 1),
    "linalg.norm": ("reduce", 3),
    **dict.fromkeys(_VIEWS.split(), ("view", 3)),
    **dict.fromkeys(("atleast_1d", "atleast_2d"), ("view", 1)),
    **dict.fromkeys(_JOINS.split(), ("join", 2)),
    **dict.fromkeys(_OWN.split(), ("own", 3)),
    **dict.fromkeys(_CONSTANTS.split(), ("constant", 0)),
    **dict.fromkeys(_DTYPES.split(), ("dtype", 1)),
}
NUMPY_NAMES = tuple(sorted(NUMPY_RULES))

# Method -> most positional arguments. ``append`` and ``extend`` are for lists, the rest for arrays.
METHOD_RULES: dict[str, int] = {
    **dict.fromkeys(_REDUCING_METHODS.split(), 1),
    **dict.fromkeys(("ravel", "flatten", "copy", "item"), 0),
    **dict.fromkeys(("astype", "dot", "squeeze", "round", "append", "extend"), 1),
    **dict.fromkeys(("clip", "swapaxes", "repeat"), 2),
    **dict.fromkeys(("reshape", "transpose"), 8),
}

MATH_NAMES = tuple(_MATH.split())
BUILTIN_NAMES = tuple(_BUILTINS.split())
ATTRIBUTE_NAMES = ("shape", "T", "size", "ndim", "dtype", "eps", "tiny")
DTYPE_STRINGS = ("float", "float32", "float64", "int", "int32", "int64", "bool")
TYPE_NAMES = ("bool", "float", "int")  # builtins that may also stand for a dtype

_KEYWORDS = (
    "axis keepdims dtype a_min a_max nan posinf neginf rtol atol decimals ddof ord num endpoint "
    "fill_value default weights axes"
)


@dataclass(frozen=True)
class Policy:
    """What generated code may define, name and use up.

    Sizes are counted in elements, an array of shape (n, 0) as n of them. ``max_elements`` holds for
    each array, ``max_work`` for everything that one call computes, so that no call keeps more than
    8 bytes times ``max_work``.

    Attributes:
        entry: name of the function that must be defined at the top level.
        signatures: the lists of argument names it may have.
        numpy_functions: dotted names below ``np``, constants and dtypes included; a choice of
            :data:`NUMPY_NAMES`.
        math_functions: names of ``math``; empty refuses ``import math``.
        methods: methods of arrays and lists.
        attributes: attributes that are read, not called.
        builtins: built-in functions.
        keywords: names of keyword arguments of NumPy functions and methods.
        dtype_strings: strings allowed as ``dtype=`` or in ``astype``; no others are.
        max_loop_iterations: loop steps and calls of helper functions of one call, all together.
        max_loop_depth: loops inside each other, comprehensions included.
        max_source_bytes: length of the source in UTF-8.
        max_integer: largest integer written in the source.
        max_elements: elements of one array.
        max_work: elements computed in one call, where every single operation costs at least 256.
        max_results: items of the list that a call returns.
        max_result_elements: elements of everything a call returns.

    Raises:
        ValueError: if a name is not one that can be bounded, or a limit is not positive.
    """

    entry: str
    signatures: tuple[tuple[str, ...], ...]
    numpy_functions: tuple[str, ...] = field(default=NUMPY_NAMES, repr=False)
    math_functions: tuple[str, ...] = field(default=MATH_NAMES, repr=False)
    methods: tuple[str, ...] = field(default=tuple(METHOD_RULES), repr=False)
    attributes: tuple[str, ...] = ATTRIBUTE_NAMES
    builtins: tuple[str, ...] = field(default=BUILTIN_NAMES, repr=False)
    keywords: tuple[str, ...] = field(default=tuple(_KEYWORDS.split()), repr=False)
    dtype_strings: tuple[str, ...] = DTYPE_STRINGS
    max_loop_iterations: int = 4096
    max_loop_depth: int = 3
    max_source_bytes: int = 32_768
    max_integer: int = 2**31
    max_elements: int = 2**22
    max_work: int = 2**25
    max_results: int = 64
    max_result_elements: int = 2**22

    def __post_init__(self) -> None:
        known = {
            "numpy_functions": NUMPY_NAMES,
            "math_functions": MATH_NAMES,
            "methods": tuple(METHOD_RULES),
            "attributes": ATTRIBUTE_NAMES,
            "builtins": BUILTIN_NAMES,
            "keywords": tuple(_KEYWORDS.split()),
            "dtype_strings": DTYPE_STRINGS,
        }
        for name, allowed in known.items():
            strange = sorted(set(getattr(self, name)) - set(allowed))
            if strange:
                raise ValueError(
                    f"{name} has {strange}: no rule bounds them. Choose from {sorted(allowed)}"
                )
        names = [self.entry, *(name for names in self.signatures for name in names)]
        for name in names:
            if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
                raise ValueError(f"{name!r} is no name for a function or an argument")
        if not self.signatures:
            raise ValueError("signatures is empty: give at least one tuple of argument names")
        for name, value in asdict(self).items():
            if name.startswith("max_") and value < 1:
                raise ValueError(f"{name} is {value}: give a positive number")


def policy_to_json(policy: Policy) -> dict[str, Any]:
    """``policy`` in JSON's types, for the way to the child process."""
    return asdict(policy)


def policy_from_json(fields: dict[str, Any]) -> Policy:
    """Undo :func:`policy_to_json` after a way through JSON, which makes lists of tuples."""
    return Policy(**{name: _tuples(value) for name, value in fields.items()})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value

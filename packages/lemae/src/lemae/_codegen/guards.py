"""The operations of generated code, each bounded before it runs.

No list of names can bound sizes: ``x[:, None] * x`` is plain arithmetic and may need terabytes. So
that every operator, index, loop and call of generated code is replaced by a function of
:class:`Guards`, which works out the size of the result first and charges it to a :class:`Meter`.
What comes out is always one of: None, a bounded number, an array of numbers or booleans, a list or
a tuple. That no other type ever appears keeps the rest simple.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, zip_longest
from typing import Any

import numpy as np

from .errors import LimitError
from .policy import METHOD_RULES, Policy

STEP_COST = 256  # elements that one operation counts for, however small it is
ITEM_COST = 64  # elements that comparing one item of a list counts for
REMAINDER_COST = 64  # the same of one remainder, which takes microseconds for some numbers
_MAX_INTEGER = 2**64
_MAX_DEPTH = 8  # of lists inside lists
_MAX_AXES = 64
_NUMBERS = (int, float, np.generic)  # bool is an int

BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mult": operator.mul,
    "Div": operator.truediv,
    "FloorDiv": operator.floordiv,
    "Mod": operator.mod,
    "Pow": operator.pow,
    "MatMult": operator.matmul,
    "BitAnd": operator.and_,
    "BitOr": operator.or_,
    "BitXor": operator.xor,
    "LShift": operator.lshift,
    "RShift": operator.rshift,
}
_INPLACE: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.iadd,
    "Sub": operator.isub,
    "Mult": operator.imul,
    "Div": operator.itruediv,
    "FloorDiv": operator.ifloordiv,
    "Mod": operator.imod,
    "Pow": operator.ipow,
    "BitAnd": operator.iand,
    "BitOr": operator.ior,
    "BitXor": operator.ixor,
}
UNARY: dict[str, Callable[[Any], Any]] = {
    "USub": operator.neg,
    "UAdd": operator.pos,
    "Invert": operator.invert,
}
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "Eq": operator.eq,
    "NotEq": operator.ne,
    "Lt": operator.lt,
    "LtE": operator.le,
    "Gt": operator.gt,
    "GtE": operator.ge,
    "Is": operator.is_,
    "IsNot": operator.is_not,
}


def extent(shape: Sequence[int]) -> int:
    """Product of the axes, empty ones counted as 1: a sum over them is not empty."""
    product = 1
    for length in shape:
        if length > 1:
            product *= length
    return product


def broadcast_extent(shapes: Sequence[tuple[int, ...]]) -> int:
    """Elements of what these shapes broadcast to; an upper bound where they do not."""
    if not shapes:
        return 1
    first = shapes[0]
    if all(shape == first or not shape for shape in shapes):
        return extent(first) if first else max(extent(shape) for shape in shapes)
    reversed_shapes = (shape[::-1] for shape in shapes)
    return extent([max(lengths) for lengths in zip_longest(*reversed_shapes, fillvalue=1)])


class Meter(threading.local):
    """Counts what one call uses up; each thread has its own counts.

    Args:
        policy: its limits are the meter's.
    """

    def __init__(self, policy: Policy) -> None:
        self.max_elements = policy.max_elements
        self.max_work = policy.max_work
        self.max_steps = policy.max_loop_iterations
        self.reset()

    def reset(self) -> None:
        """Start the counts of a new call."""
        self.work = 0
        self.steps = 0

    def charge(self, elements: int, times: int = 1) -> None:
        """Count one operation on ``elements`` elements, each ``times`` times, before it runs."""
        if elements > self.max_elements:
            raise LimitError(
                f"an array of up to {elements} elements would be made, and {self.max_elements} are "
                "allowed: work on the rows of the batch, without products of all rows with all"
            )
        self.work += elements * times + STEP_COST
        if self.work > self.max_work:
            raise LimitError(
                f"more than {self.max_work} elements were computed in one call: use fewer and "
                "smaller operations"
            )

    def step(self) -> None:
        """Count one loop step or one call of a helper function."""
        self.steps += 1
        if self.steps > self.max_steps:
            raise LimitError(
                f"more than {self.max_steps} loop steps and helper calls in one call: replace "
                "loops over rows by operations on whole columns"
            )


class Guards:
    """Bounded forms of what generated code may do.

    Args:
        policy: the limits.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.meter = Meter(policy)
        self._keywords = frozenset(policy.keywords)

    # --- values ---------------------------------------------------------------------------------

    def admit(self, value: Any) -> Any:
        """``value`` itself, if it is of a type and size that generated code may hold."""
        kind = type(value)
        if kind is np.ndarray:
            _check_dtype(value)
            if extent(value.shape) > self.meter.max_elements:
                self.meter.charge(extent(value.shape))
        elif kind is int:
            if not -_MAX_INTEGER < value < _MAX_INTEGER:
                raise LimitError("an integer beyond 64 bits: use floats")
        elif kind in (list, tuple):
            self._check_length(len(value))
            for item in value:
                self.admit(item)
        elif isinstance(value, np.generic):
            _check_dtype(value)
        elif kind not in (float, bool, type(None)):
            raise LimitError(
                f"a value of type {kind.__name__}: only numbers and arrays are allowed"
            )
        return value

    def count(self, value: Any, depth: int = 0) -> int:
        """Elements of an array or of nested lists; each list item costs as much as a step."""
        if type(value) is np.ndarray:
            return extent(value.shape)
        if type(value) not in (list, tuple):
            return 1
        if depth > _MAX_DEPTH:
            raise LimitError(f"lists inside lists, more than {_MAX_DEPTH} deep")
        total = 1
        for item in value:
            total += self.count(item, depth + 1) + STEP_COST
            if total > self.meter.max_elements:
                self.meter.charge(total)
        return total

    def array(self, value: Any) -> Any:
        """``value`` as an array of numbers; a list is charged for its elements."""
        if type(value) is np.ndarray:
            return _check_dtype(value)
        if type(value) in (list, tuple):
            self.meter.charge(self.count(value))
        elif not isinstance(value, _NUMBERS):
            raise TypeError(f"an array or a number is needed here, not {_describe(value)}")
        return self.admit(np.asarray(value))

    def operand(self, value: Any) -> Any:
        """``value`` as NumPy may take it beside arrays: numbers stay Python's own."""
        return value if isinstance(value, _NUMBERS) else self.array(value)

    def plain(self, value: Any) -> Any:
        """``value``, if it is None, a number or a short flat list of numbers: an axis, a shape."""
        if value is not None and not isinstance(value, _NUMBERS):
            if type(value) not in (list, tuple) or len(value) > _MAX_AXES:
                raise TypeError(f"a number or a tuple of a few is needed, not {_describe(value)}")
            _plain_items(value)
        return value

    def keywords(self, keywords: dict[str, Any]) -> dict[str, Any]:
        """``keywords`` of a NumPy function: a dtype, axes, and else what may broadcast."""
        if not keywords.keys() <= self._keywords:
            raise TypeError(f"not all of these arguments are allowed: {sorted(keywords)}")
        checked = {}
        for name, value in keywords.items():
            if name == "dtype":
                checked[name] = None if value is None else checked_dtype(value)
            elif name in ("axis", "axes", "ord"):
                checked[name] = self.plain(value)
            else:
                checked[name] = None if value is None else self.operand(value)
        return checked

    def display(self, *items: Any) -> tuple[Any, ...]:
        """The items between the brackets of a list or a tuple."""
        self.meter.charge(len(items))
        return items

    def fresh(self, value: Any) -> Any:
        """A module-level value for use inside a call, which cannot change what later calls see."""
        if type(value) in (list, tuple):
            self.meter.charge(STEP_COST * len(value))
            return type(value)(self.fresh(item) for item in value)
        return value

    def freeze(self, value: Any) -> Any:
        """A module-level value when it is made: numbers, and arrays that become read-only."""
        self.meter.charge(self.count(value))
        _freeze(value)
        return value

    def _check_length(self, length: int) -> None:
        most = self.meter.max_elements // STEP_COST
        if length > most:
            raise LimitError(f"a list of {length} items, where {most} are allowed: use arrays")

    # --- operators ------------------------------------------------------------------------------

    def binary(self, name: str, left: Any, right: Any) -> Any:
        """``left <operator> right``."""
        if type(left) is np.ndarray or type(right) is np.ndarray:
            left, right = self._charge_pair(name, left, right)
            return self.admit(BINARY[name](left, right))
        self.meter.charge(0)
        if type(left) in (list, tuple) or type(right) in (list, tuple):
            return self._sequences(name, left, right)
        if isinstance(left, int) and isinstance(right, int):
            _check_integers(name, left, right)
        return self.admit(BINARY[name](left, right))

    def inplace(self, name: str, left: Any, right: Any) -> Any:
        """The value of ``left`` after ``left <operator>= right``."""
        if name not in _INPLACE or type(left) not in (np.ndarray, list):
            return self.binary(name, left, right)
        if type(left) is list:
            left[:] = self.binary(name, left, list(right) if type(right) is tuple else right)
            return left
        left, right = self._charge_pair(name, left, right)
        return self.admit(_INPLACE[name](left, right))

    def unary(self, name: str, value: Any) -> Any:
        """``<operator> value``."""
        if type(value) is np.ndarray:
            self.meter.charge(extent(value.shape))
        elif isinstance(value, _NUMBERS):
            self.meter.charge(0)
        else:
            raise TypeError(f"an array or a number is needed here, not {_describe(value)}")
        return self.admit(UNARY[name](value))

    def compare(self, names: tuple[str, ...], first: Any, *others: Any) -> Any:
        """A comparison, or a chain of them such as ``0 < x < 1``."""
        result: Any = True
        for name, second in zip(names, others, strict=True):
            result = self._compare_pair(name, first, second)
            if len(others) > 1 and not result:
                return result
            first = second
        return result

    def _compare_pair(self, name: str, left: Any, right: Any) -> Any:
        self.meter.charge(0)
        if name in ("Is", "IsNot"):
            return COMPARISONS[name](left, right)
        if name in ("In", "NotIn"):
            self._charge_items(right)
            found = any(left == item for item in _plain_items(right, left))
            return found == (name == "In")
        if type(left) is np.ndarray or type(right) is np.ndarray:
            if left is None or right is None:
                return COMPARISONS[name](left is None, right is None)
            left, right = self._charge_pair(name, left, right)
        elif type(left) in (list, tuple) or type(right) in (list, tuple):
            for side in (left, right):
                self._charge_items(side)
                _plain_items(side)
        return self.admit(COMPARISONS[name](left, right))

    def _charge_items(self, values: Any) -> None:
        if type(values) in (list, tuple):
            self.meter.charge(len(values), ITEM_COST)

    def _charge_pair(self, name: str, left: Any, right: Any) -> tuple[Any, Any]:
        """Charge an operation of which at least one side is an array; lists become arrays."""
        left, right = self.operand(left), self.operand(right)
        if name == "MatMult":
            self.charge_product(left, right)
        else:
            shapes = [side.shape for side in (left, right) if type(side) is np.ndarray]
            times = REMAINDER_COST if name in ("Mod", "FloorDiv") else 1
            self.meter.charge(broadcast_extent(shapes), times)
        return left, right

    def charge_product(self, left: Any, right: Any) -> None:
        """Charge a matrix product of arrays: rows times columns times what is summed over."""
        left_shape, right_shape = np.shape(left), np.shape(right)
        inner = max(left_shape[-1], 1) if left_shape and right_shape else 1
        self.meter.charge(extent(left_shape) * extent(right_shape) // inner)

    def _sequences(self, name: str, left: Any, right: Any) -> Any:
        if name == "Add" and type(left) is type(right):
            self._check_length(len(left) + len(right))
            self.meter.charge(len(left) + len(right))
            return left + right
        items, times = (left, right) if type(left) in (list, tuple) else (right, left)
        if name == "Mult" and isinstance(times, int | np.integer):
            length = len(items) * max(int(times), 0)
            self._check_length(length)
            self.meter.charge(length)
            return items * int(times)
        if isinstance(left, np.generic) or isinstance(right, np.generic):
            return self.binary(name, self.array(left), self.array(right))
        raise TypeError(
            f"{_describe(left)} and {_describe(right)} cannot be combined by this operator: make "
            "arrays of them first"
        )

    # --- items ----------------------------------------------------------------------------------

    def item(self, value: Any, index: Any) -> Any:
        """``value[index]``."""
        kind = type(value)
        if kind is np.ndarray or isinstance(value, np.generic):
            index, is_view = _arrays_in(self, index)
            self.meter.charge(0 if is_view else _selected(np.shape(value), index))
            return self.admit(value[index])
        self.meter.charge(0)
        if kind not in (list, tuple):
            raise TypeError(f"{_describe(value)} has no items")
        if type(index) is slice:
            self.meter.charge(len(value))
        return value[index]

    def store(self, value: Any, index: Any, new: Any) -> None:
        """``value[index] = new``."""
        if type(value) is np.ndarray:
            index, _ = _arrays_in(self, index)
            self.meter.charge(_selected(value.shape, index))
            value[index] = self.operand(new)
            return
        self.meter.charge(0)
        if type(value) is not list or not isinstance(index, int | np.integer):
            raise TypeError(f"items of {_describe(value)} can only be set one by one, in a list")
        value[index] = new

    def store_inplace(self, name: str, value: Any, index: Any, right: Any) -> None:
        """``value[index] <operator>= right``."""
        self.store(value, index, self.binary(name, self.item(value, index), right))

    # --- loops and calls ------------------------------------------------------------------------

    def enter(self) -> None:
        """Count the call of a function of the generated code."""
        self.meter.step()

    def iterate(self, value: Any) -> Iterator[Any]:
        """The items of ``value``, each counted as a loop step."""
        for item in self.items(value):
            self.meter.step()
            yield item

    def items(self, value: Any) -> Any:
        """``value`` itself, if a loop may go over it."""
        if type(value) not in (list, tuple, range, np.ndarray):
            raise TypeError(f"a loop cannot go over {_describe(value)}")
        return value

    def zip(self, *values: Any) -> list[tuple[Any, ...]]:
        """``zip`` as a list: an iterator would keep its place, and chains of them crash Python."""
        length = min((len(self.items(value)) for value in values), default=0)
        self._check_length(length)
        self.meter.charge(length * len(values), STEP_COST)
        return list(zip(*(islice(value, length) for value in values), strict=True))

    def enumerate(self, values: Any, start: Any = 0) -> list[tuple[Any, ...]]:
        """``enumerate`` as a list."""
        first = operator.index(start)
        return self.zip(range(first, first + len(self.items(values))), values)

    def method(self, value: Any, name: str, *args: Any, **keywords: Any) -> Any:
        """``value.name(...)``."""
        if name not in self.policy.methods:
            raise LimitError(f"method {name} is not allowed")
        if len(args) > METHOD_RULES[name]:
            raise TypeError(
                f"{name} takes up to {METHOD_RULES[name]} positional argument(s) here; "
                f"{len(args)} were given"
            )
        if name in ("append", "extend"):
            return self._list_method(value, name, *args)
        if type(value) is not np.ndarray and not isinstance(value, np.generic):
            raise TypeError(f"{_describe(value)} has no method {name}")
        keywords = self.keywords(keywords)
        if name == "astype":
            args = tuple(checked_dtype(arg) for arg in args)
        elif name in ("clip", "dot", "repeat"):
            args = tuple(None if arg is None else self.operand(arg) for arg in args)
        else:
            args = tuple(self.plain(arg) for arg in args)
        if name == "dot":
            self.charge_product(value, *args)
        elif name == "repeat":
            self.charge_repeat(value, *args, **keywords)
        else:
            shapes = [
                other.shape for other in (*args, *keywords.values()) if type(other) is np.ndarray
            ]
            self.meter.charge(broadcast_extent([value.shape, *shapes]))
        return self.admit(getattr(value, name)(*args, **keywords))

    def charge_repeat(self, value: Any, repeats: Any, axis: Any = None) -> None:
        """Charge ``repeat``: every item up to the largest count of times."""
        most = max(int(np.max(repeats, initial=1)), 1)
        self.meter.charge(extent(np.shape(value)) * most)

    def _list_method(self, value: Any, name: str, *args: Any) -> None:
        if type(value) is not list or len(args) != 1:
            raise TypeError(f"{name} is for lists and takes one argument")
        self.meter.charge(0)
        if name == "append":
            self._check_length(len(value) + 1)
            value.append(args[0])
        else:
            new = list(self.iterate(args[0]))
            self._check_length(len(value) + len(new))
            value.extend(new)

    # --- built-in functions ---------------------------------------------------------------------

    def builtin(self, name: str) -> Callable[..., Any]:
        """The bounded form of a built-in function."""
        forms: dict[str, Callable[..., Any]] = {
            "abs": self._abs,
            "all": lambda values: all(self.iterate(values)),
            "any": lambda values: any(self.iterate(values)),
            "bool": bool,
            "enumerate": self.enumerate,
            "float": lambda value=0.0: float(self._number(value)),
            "int": lambda value=0: self.admit(int(self._number(value))),
            "len": len,
            "list": lambda values=(): list(self.iterate(values)),
            "max": lambda *values: max(self._scalars(values)),
            "min": lambda *values: min(self._scalars(values)),
            "range": self._range,
            "round": self.round,
            "sum": self._sum,
            "tuple": lambda values=(): tuple(self.iterate(values)),
            "zip": self.zip,
        }
        return forms[name]

    def _number(self, value: Any) -> Any:
        if not isinstance(value, (*_NUMBERS, np.ndarray)):
            raise TypeError(f"a number is needed here, not {_describe(value)}")
        return value

    def _abs(self, value: Any) -> Any:
        value = self.operand(value)
        self.meter.charge(extent(np.shape(value)))
        return self.admit(abs(value))

    def _range(self, *bounds: Any) -> range:
        steps = range(*(operator.index(bound) for bound in bounds))
        if steps and (steps[-1] - steps[0]) // steps.step >= self.meter.max_steps:
            raise LimitError(
                f"range{bounds} has more than {self.meter.max_steps} steps: replace the loop by "
                "operations on whole columns"
            )
        return steps

    def _scalars(self, values: tuple[Any, ...]) -> list[Any]:
        """Arguments of ``max`` and ``min``, which would compare arrays pair by pair."""
        found = list(self.iterate(values[0] if len(values) == 1 else values))
        if any(np.ndim(item) for item in found if type(item) not in (list, tuple)) or any(
            type(item) in (list, tuple) for item in found
        ):
            raise TypeError("max and min compare numbers: use np.maximum and np.minimum for arrays")
        return found

    def _sum(self, values: Any) -> Any:
        total: Any = 0
        for value in self.iterate(values):
            total = self.binary("Add", total, value)
        return total

    def round(self, value: Any, decimals: Any = None) -> Any:
        """``round`` and ``np.round``: a huge number of digits would cost huge integers."""
        if decimals is not None and not -30 <= decimals <= 30:
            raise LimitError(f"round to {decimals} decimals: give -30 to 30")
        value = self.operand(value)
        self.meter.charge(extent(np.shape(value)))
        if type(value) is np.ndarray:
            return self.admit(value.round(decimals or 0))
        return self.admit(round(value, decimals))


def checked_dtype(value: Any) -> Any:
    """``value``, if it names a plain dtype of numbers, and nothing with a shape or fields."""
    if isinstance(value, type | np.dtype | str) and np.dtype(value).kind in "biuf":
        return value
    raise TypeError(f"{_describe(value)} as a dtype: give np.float32, np.float64, int or bool")


def _check_dtype(value: Any) -> Any:
    if value.dtype.kind not in "biuf":
        raise LimitError(f"a value of dtype {value.dtype}: only numbers are allowed")
    return value


def _arrays_in(guards: Guards, index: Any) -> tuple[Any, bool]:
    """``index`` with arrays for the lists in it, and whether it selects a view."""
    is_view = True
    items = list(index) if type(index) is tuple else [index]
    for place, item in enumerate(items):
        if type(item) in (np.ndarray, list, tuple):
            items[place], is_view = guards.array(item), False
        elif isinstance(item, bool | np.bool_):
            raise TypeError("True and False are no index: use an array of them, or np.where")
    return (tuple(items) if type(index) is tuple else items[0]), is_view


def _selected(shape: tuple[int, ...], index: Any) -> int:
    """Most elements that an index selects from an array of this shape."""
    items = index if type(index) is tuple else (index,)
    used = sum(_axes_of(item) for item in items if item is not Ellipsis)
    axis, rest, shapes = 0, 1, []
    for item in items:
        if item is Ellipsis:
            rest *= extent(shape[axis : axis + len(shape) - used])
            axis += len(shape) - used
            continue
        if type(item) is slice:
            rest *= extent([len(range(*item.indices(length))) for length in shape[axis : axis + 1]])
        elif type(item) is np.ndarray:
            shapes.append((item.size,) if item.dtype.kind == "b" else item.shape)
        axis += _axes_of(item)
    return rest * extent(shape[axis:]) * broadcast_extent(shapes)


def _axes_of(item: Any) -> int:
    if item is None:
        return 0
    return item.ndim if type(item) is np.ndarray and item.dtype.kind == "b" else 1


def _plain_items(values: Any, *more: Any) -> Sequence[Any]:
    """``values``, if it is a flat list of numbers that are cheap to compare."""
    flat = values if type(values) in (list, tuple) else [values]
    if not all(item is None or isinstance(item, _NUMBERS) for item in (*flat, *more)):
        raise TypeError("lists can only be compared or searched if all their items are numbers")
    return flat


def _check_integers(name: str, left: int, right: int) -> None:
    """Refuse a power or a shift whose result would not fit, before it is computed."""
    grows = name == "Pow" and right > 0 and abs(left) > 1 and left.bit_length() * right > 128
    if grows or (name in ("LShift", "RShift") and not 0 <= right <= 63):
        raise LimitError("an integer beyond 64 bits: use floats")


def _freeze(value: Any) -> None:
    if type(value) is np.ndarray:
        value.setflags(write=False)
    elif type(value) in (list, tuple):
        for item in value:
            _freeze(item)
    elif value is not None and not isinstance(value, _NUMBERS):
        raise TypeError(f"{_describe(value)} at the top level: only numbers, arrays and lists")


def _describe(value: Any) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"

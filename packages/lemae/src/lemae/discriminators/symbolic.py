"""A discriminator run on symbols: what comes out is a graph of elementwise operations.

The executor walks the syntax tree with symbols where the numbers of the state would be. Constants
are folded, loops over constants unrolled, helper functions entered; where a condition depends on
the state both branches are followed and their values merged. The graph says which indices are read
and which matter, and :mod:`~lemae.discriminators.vectorize` computes it for many states at once.
Nothing of the source is executed, and steps and nodes are counted, so that a run ends soon whatever
the source is.

With a given state the executor follows the one path of that state instead. The graph is then the
trace of a call, and indices that are computed from the state are known as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lemae._codegen.loading import dotted_name, parse
from lemae.discriminators.algebra import (
    ENDLESS,
    UNKNOWN,
    Array,
    Filtered,
    Unknown,
    View,
    array_of,
    is_array,
    is_boolean,
    is_scalar,
)
from lemae.discriminators.functions import Functions
from lemae.discriminators.graph import Graph, Node, UnresolvedError, reachable
from lemae.discriminators.source import PREFIX


@dataclass(frozen=True)
class Trace:
    """What a run found.

    Attributes:
        root: the result, a node of kind ``"bool"`` or a constant.
        reads: indices that some operation uses, ascending; renaming and unpacking use nothing.
        influences: those of them that the result depends on.
    """

    root: Node | bool
    reads: tuple[int, ...]
    influences: tuple[int, ...]


class IndexProblemError(UnresolvedError):
    """The source reaches beyond the end of the state."""


def execute(
    source: str,
    name: str,
    d: int | None,
    *,
    graph: Graph | None = None,
    state: np.ndarray | None = None,
) -> Trace:
    """Run the function of a key state on symbols.

    Args:
        source: passed the allow-list.
        name: of the key state.
        d: length of the state, None if it is not known.
        graph: to build on; equal operations of several functions are then one node.
        state: float64 ``[d]``, to follow one path instead of all.

    Raises:
        UnresolvedError: if something cannot be followed.
    """
    executor = _Executor(graph or Graph(), state)
    try:
        return executor.run(source, PREFIX + name, d)
    except UnresolvedError:
        raise
    except Exception as error:  # an operation on constants that fails, or is too large
        raise UnresolvedError(executor.at(f"{type(error).__name__}: {error}")) from error


Env = dict[str, Any]


@dataclass
class _Loop:
    breaks: list[tuple[Any, Env]] = field(default_factory=list)
    continues: list[tuple[Any, Env]] = field(default_factory=list)


@dataclass
class _Frame:
    """A call: what was returned, and under which conditions the walk stands where it does.

    The first return whose condition holds counts, so that conditions need not exclude earlier ones.
    """

    returns: list[tuple[Any, Any]] = field(default_factory=list)
    path: list[Any] = field(default_factory=list)
    left: list[Any] = field(default_factory=list)  # conditions of breaks and continues so far
    loops: list[_Loop] = field(default_factory=list)


class _Executor(Functions):
    """Walks the syntax tree of one function."""

    def __init__(self, graph: Graph, state: np.ndarray | None) -> None:
        super().__init__(graph, state)
        self._functions: dict[str, ast.FunctionDef] = {}
        self._constants: Env = {}
        self._frames: list[_Frame] = []

    def run(self, source: str, function: str, d: int | None) -> Trace:
        """Run ``function`` of ``source`` and everything it calls."""
        for node in parse(source).body:
            if isinstance(node, ast.FunctionDef):
                self._functions[node.name] = node
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                self._statement(node, self._constants)
        state = View(range(ENDLESS if d is None else d))
        root = self._invoke(self._functions[function], [state], {}, is_entry=True)
        reads = {node.args[0] for node in reachable([*self.used, root]) if node.op == "load"}
        matter = {node.args[0] for node in reachable([root]) if node.op == "load"}
        return Trace(root, tuple(sorted(reads)), tuple(sorted(matter)))

    # --- statements -----------------------------------------------------------------------------

    def _invoke(
        self,
        function: ast.FunctionDef,
        args: list[Any],
        keywords: dict[str, Any],
        *,
        is_entry: bool = False,
    ) -> Any:
        self.guards.meter.step()
        names = [argument.arg for argument in function.args.args]
        defaults = [self._eval(node, {}) for node in function.args.defaults]
        env = dict(zip(names[len(names) - len(defaults) :], defaults, strict=True))
        env |= dict(zip(names, args, strict=False)) | keywords
        if len(args) > len(names) or set(env) != set(names):
            raise self.unresolved(f"{function.name} is called with other arguments than it takes")
        frame = _Frame()
        self._frames.append(frame)
        end = self._block(function.body, env)
        self._frames.pop()
        if end is not None:
            frame.returns.append((True, None))
        values = [self._result(value) if is_entry else value for _, value in frame.returns]
        result = values[-1]
        for (condition, _), value in zip(frame.returns[-2::-1], values[-2::-1], strict=True):
            result = self.select(condition, value, result)
        return result

    def _result(self, value: Any) -> Any:
        if value is not None and not is_scalar(value):
            raise self.unresolved("it returns something else than a truth value")
        return self.truth(value)

    def _block(self, body: list[ast.stmt], env: Env) -> Env | None:
        """Names after the statements; None if no path leads behind them."""
        after: Env | None = env
        for statement in body:
            if after is None:
                break
            after = self._statement(statement, after)
        return after

    def _statement(self, node: ast.stmt, env: Env) -> Env | None:
        self.line = node.lineno
        if isinstance(node, ast.Return):
            value = None if node.value is None else self._eval(node.value, env)
            self._frames[-1].returns.append((self._here(), value))
            return None
        if isinstance(node, ast.If):
            return self._if(node, env)
        if isinstance(node, ast.For):
            return self._for(node, env)
        if isinstance(node, ast.Break | ast.Continue):
            self._leave(node, env)
            return None
        if isinstance(node, ast.Assign):
            value = self._eval(node.value, env)
            for target in node.targets:
                self._assign(target, value, env)
        elif isinstance(node, ast.AnnAssign):
            if node.value is not None:
                self._assign(node.target, self._eval(node.value, env), env)
        elif isinstance(node, ast.AugAssign):
            value = self._eval(node.value, env)
            target = ast.copy_location(_loaded(node.target), node)
            old = self._eval(target, env)
            new = self.binary(type(node.op).__name__, old, value)
            self._assign(node.target, new, env)
        elif isinstance(node, ast.Expr):
            self._expression_statement(node.value, env)
        elif not isinstance(node, ast.Pass | ast.Import | ast.ImportFrom):
            raise self.unresolved(f"{type(node).__name__} cannot be followed")
        return env

    def _here(self) -> Any:
        """The condition under which the walk stands where it does."""
        frame = self._frames[-1]
        return self.all_of([*frame.path, *(self.negate(condition) for condition in frame.left)])

    def _if(self, node: ast.If, env: Env) -> Env | None:
        test = self.truth(self._eval(node.test, env))
        if isinstance(test, bool):
            return self._block(node.body if test else node.orelse, env)
        with self._under(test):
            yes = self._block(node.body, dict(env))
        with self._under(self.negate(test)):
            no = self._block(node.orelse, dict(env))
        return self._merged(test, yes, no)

    @contextmanager
    def _under(self, condition: Any) -> Iterator[None]:
        self._frames[-1].path.append(condition)
        yield
        self._frames[-1].path.pop()

    def _merged(self, condition: Any, yes: Env | None, no: Env | None) -> Env | None:
        if yes is None or no is None:
            return no if yes is None else yes
        env = yes | no
        self.merging = True  # the merge of a name that nobody uses later is no use of it
        for name in yes.keys() & no.keys():
            env[name] = self.select(condition, yes[name], no[name])
        self.merging = False
        return env

    def _leave(self, node: ast.stmt, env: Env) -> None:
        frame = self._frames[-1]
        here, loop = self._here(), frame.loops[-1]
        (loop.breaks if isinstance(node, ast.Break) else loop.continues).append((here, env))
        frame.left.append(here)

    def _for(self, node: ast.For, env: Env) -> Env | None:
        frame, loop = self._frames[-1], _Loop()
        left, after = list(frame.left), env
        frame.loops.append(loop)
        end: Env | None = env
        for item in self.items(self._eval(node.iter, env)):
            self.guards.meter.step()
            after = dict(after)
            self._assign(node.target, item, after)
            end = self._rejoined(loop.continues, self._block(node.body, after))
            loop.continues = []
            frame.left = left + [condition for condition, _ in loop.breaks]
            if end is None:
                break
            after = end
        frame.loops.pop()
        if end is not None:
            end = self._block(node.orelse, end)
        frame.left = left
        return self._rejoined(loop.breaks, end)

    def _rejoined(self, exits: list[tuple[Any, Env]], end: Env | None) -> Env | None:
        for condition, env in reversed(exits):
            end = env if end is None else self._merged(condition, env, end)
        return end

    def _assign(self, target: ast.expr, value: Any, env: Env) -> None:
        if isinstance(target, ast.Name):
            env[target.id] = value
        elif isinstance(target, ast.Tuple | ast.List):
            items = self.items(value)
            if len(items) != len(target.elts):
                raise self.unresolved(f"{len(items)} values for {len(target.elts)} names")
            for part, item in zip(target.elts, items, strict=True):
                self._assign(part, item, env)
        elif isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
            self._assign_item(target, value, env)
        else:
            raise self.unresolved("this assignment cannot be followed")

    def _assign_item(self, target: Any, value: Any, env: Env) -> None:
        old = self._eval(target.value, env)
        index = self.concrete(self._eval(target.slice, env))
        if not isinstance(old, list) or not isinstance(index, int):
            raise self.unresolved("only items of lists can be set one by one")
        new = list(old)
        new[index] = value
        self._rebind(old, new, env)

    def _rebind(self, old: list[Any], new: list[Any], env: Env) -> None:
        """Give every name of a list its new content; branches share lists, which never change."""
        self.count(len(new))
        for name, value in env.items():
            if value is old:
                env[name] = new

    def _expression_statement(self, node: ast.expr, env: Env) -> None:
        is_method = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if is_method and node.func.attr in ("append", "extend"):  # type: ignore[attr-defined]
            old = self._eval(node.func.value, env)  # type: ignore[attr-defined]
            (value,) = (self._eval(argument, env) for argument in node.args)  # type: ignore[attr-defined]
            if not isinstance(old, list):
                raise self.unresolved("only lists grow")
            more = [value] if node.func.attr == "append" else self.items(value)  # type: ignore[attr-defined]
            self._rebind(old, [*old, *more], env)
        else:
            self._eval(node, env)

    # --- expressions ----------------------------------------------------------------------------

    def _eval(self, node: ast.expr, env: Env) -> Any:
        self.line = node.lineno
        self.count(1)
        method = getattr(self, f"_eval_{type(node).__name__.lower()}", None)
        if method is None:
            raise self.unresolved(f"{type(node).__name__} cannot be followed")
        return method(node, env)

    def _eval_constant(self, node: ast.Constant, env: Env) -> Any:
        return node.value

    def _eval_name(self, node: ast.Name, env: Env) -> Any:
        value = env[node.id] if node.id in env else self._constants.get(node.id, UNKNOWN)
        if isinstance(value, Unknown):
            raise self.unresolved(f"`{node.id}` is not the same kind of thing in all branches")
        return value

    def _eval_tuple(self, node: ast.Tuple, env: Env) -> Any:
        return tuple(self._eval(item, env) for item in node.elts)

    def _eval_list(self, node: ast.List, env: Env) -> Any:
        return [self._eval(item, env) for item in node.elts]

    def _eval_boolop(self, node: ast.BoolOp, env: Env) -> Any:
        value = self._eval(node.values[0], env)
        for other in node.values[1:]:
            truth = self.truth(value)
            if truth is isinstance(node.op, ast.Or):
                return value  # known, and the rest is never looked at
            following = self._eval(other, env)
            if isinstance(node.op, ast.And):
                value = self.select(truth, following, value)
            else:
                value = self.select(truth, value, following)
        return value

    def _eval_unaryop(self, node: ast.UnaryOp, env: Env) -> Any:
        value = self._eval(node.operand, env)
        if isinstance(node.op, ast.Not):
            return self.negate(self.truth(value))
        name = type(node.op).__name__
        if not self.is_symbolic(value):
            return self.guards.unary(name, value)
        if name == "Invert":
            if not is_boolean(value):
                raise self.unresolved("`~` of what is not a truth value cannot be followed")
            return self.negate(value)
        return self.binary("Mult", value, 1 if name == "UAdd" else -1)

    def _eval_binop(self, node: ast.BinOp, env: Env) -> Any:
        left, right = self._eval(node.left, env), self._eval(node.right, env)
        self.line = node.lineno
        return self.binary(type(node.op).__name__, left, right)

    def _eval_compare(self, node: ast.Compare, env: Env) -> Any:
        left = self._eval(node.left, env)
        results = []
        for operator, comparator in zip(node.ops, node.comparators, strict=True):
            right = self._eval(comparator, env)
            results.append(self.compare(type(operator).__name__, left, right))
            left = right
        if len(results) == 1:
            return results[0]
        return self.all_of([self.truth(result) for result in results])

    def _eval_ifexp(self, node: ast.IfExp, env: Env) -> Any:
        test = self.truth(self._eval(node.test, env))
        if isinstance(test, bool):
            return self._eval(node.body if test else node.orelse, env)
        return self.select(test, self._eval(node.body, env), self._eval(node.orelse, env))

    def _eval_listcomp(self, node: ast.ListComp, env: Env) -> Any:
        items: list[tuple[Any, Any]] = []

        def walk(depth: int, inner: Env, condition: Any) -> None:
            if depth == len(node.generators):
                items.append((condition, self._eval(node.elt, inner)))
                return
            part = node.generators[depth]
            for item in self.items(self._eval(part.iter, inner)):
                self.guards.meter.step()
                names = dict(inner)
                self._assign(part.target, item, names)
                tests = [self.truth(self._eval(test, names)) for test in part.ifs]
                there = self.all_of([condition, *tests])
                if there is not False:
                    walk(depth + 1, names, there)

        walk(0, env, True)
        if all(condition is True for condition, _ in items):
            return [value for _, value in items]
        return Filtered(tuple(items))

    def _eval_subscript(self, node: ast.Subscript, env: Env) -> Any:
        value = self._eval(node.value, env)
        index = self._index(node.slice, env)
        self.line = node.lineno
        if isinstance(value, View) and not isinstance(index, tuple):
            return self._view_item(node, value.indices, index)
        if not self.is_symbolic(value):
            return self.guards.item(value, index)
        if isinstance(value, Node) and value.op == "opaque":
            return self.opaque(value)
        if is_array(value):
            return self._array_item(value, index if isinstance(index, tuple) else (index,))
        if not isinstance(value, list | tuple) or not isinstance(index, int | slice):
            raise self.unresolved("this index cannot be followed")
        return value[index]

    def _array_item(self, value: Any, index: tuple[Any, ...]) -> Any:
        """One element or a part of an array, perhaps with new axes."""
        if not all(part is None or isinstance(part, int | np.integer | slice) for part in index):
            raise self.unresolved("this index cannot be followed")
        found = self.elements(value)[index]
        return array_of(found) if isinstance(found, np.ndarray) else found

    def _index(self, node: ast.expr, env: Env) -> Any:
        if isinstance(node, ast.Tuple):
            return tuple(self._index(part, env) for part in node.elts)
        if not isinstance(node, ast.Slice):
            return self.concrete(self._eval(node, env))
        parts = [node.lower, node.upper, node.step]
        return slice(
            *(None if part is None else self.concrete(self._eval(part, env)) for part in parts)
        )

    def _view_item(self, node: ast.Subscript, indices: Sequence[int], index: Any) -> Any:
        """One element or a part of the state, or of a slice of it."""
        length = len(indices)
        places = [index]
        if isinstance(index, slice):
            places = [place for place in (index.start, index.stop) if place is not None]
            length += 1
        elif isinstance(index, list):
            places = index
        elif isinstance(index, np.ndarray) and index.dtype.kind == "i":
            places = index = index.reshape(-1).tolist()
        for place in places:
            if not isinstance(place, int | np.integer) or isinstance(place, bool):
                raise self.unresolved("this index of the state cannot be followed")
            if not -length <= place < length:
                raise IndexProblemError(
                    self.at(
                        f"`{ast.unparse(node)}` reaches index {place}, and the indices there are 0 "
                        f"to {len(indices) - 1}"
                    )
                )
        if isinstance(index, slice):
            return View(indices[index])
        if isinstance(index, list):
            return Array(tuple(self.element(indices, place) for place in index), (len(index),))
        return self.element(indices, index)

    def _eval_attribute(self, node: ast.Attribute, env: Env) -> Any:
        dotted = dotted_name(node)
        if dotted:
            return self.named(dotted)
        value = self._eval(node.value, env)
        if is_array(value) and self.is_symbolic(value):
            value = np.empty(self.elements(value).shape)
        if not isinstance(value, np.ndarray | np.generic):
            raise self.unresolved(f"`.{node.attr}` cannot be followed")
        return getattr(value, node.attr)

    # --- calls ----------------------------------------------------------------------------------

    def _eval_call(self, node: ast.Call, env: Env) -> Any:
        function, dotted = node.func, dotted_name(node.func)
        args = [self._argument(argument, env) for argument in node.args]
        keywords = {str(item.arg): self._argument(item.value, env) for item in node.keywords}
        self.line = node.lineno
        if dotted:
            return self.call_named(dotted, args, keywords)
        if isinstance(function, ast.Attribute):
            return self.call_method(self._eval(function.value, env), function.attr, args, keywords)
        assert isinstance(function, ast.Name)
        if function.id in self._functions:
            return self._invoke(self._functions[function.id], args, keywords)
        return self.call_builtin(function.id, args, keywords)

    def _argument(self, node: ast.expr, env: Env) -> Any:
        is_type = isinstance(node, ast.Name) and node.id in ("float", "int", "bool")
        if is_type and node.id not in env:  # type: ignore[attr-defined]
            return node.id  # type: ignore[attr-defined]
        return self._eval(node, env)


def _loaded(target: ast.expr) -> ast.expr:
    """The target of an assignment, as an expression that reads it."""
    if isinstance(target, ast.Name):
        return ast.Name(target.id, ast.Load())
    assert isinstance(target, ast.Subscript)
    return ast.Subscript(target.value, target.slice, ast.Load())

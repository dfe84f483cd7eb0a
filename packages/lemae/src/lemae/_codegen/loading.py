"""From accepted source to a callable: every operation replaced by its bounded form, then ``exec``.

The source runs in a namespace of its own, once; the callable can be kept and called as often as
needed. Nothing here decides what is allowed: that is :mod:`allowlist`. The replacement works on any
source all the same, so that what a check might overlook still meets the limits.
"""

from __future__ import annotations

import ast
import functools
import threading
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from .errors import LimitError
from .guards import Guards
from .numpy_proxy import cast, math_proxy, numpy_proxy
from .policy import NUMPY_RULES, Policy

Node = TypeVar("Node", bound=ast.AST)

FILE_NAME = "<generated>"  # in tracebacks


def parse(source: str) -> ast.Module:
    """The syntax tree of ``source``, without warnings about its style."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source, FILE_NAME)


def load(source: str, policy: Policy) -> Callable[..., Any]:
    """Make the entry function of ``source`` callable.

    Args:
        source: what :func:`allowlist.check` accepted.
        policy: its names and limits.

    Returns:
        A function of arrays. It hands read-only views to the generated function, and starts every
        call with fresh counts. Module-level code runs in its first call, not before.
    """
    guards = Guards(policy)
    tree = _Instrument(policy).visit(parse(source))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = compile(ast.fix_missing_locations(tree), FILE_NAME, "exec", dont_inherit=True)
    lock = threading.Lock()
    found: list[Callable[..., Any]] = []

    def find() -> Callable[..., Any]:
        with lock:
            if not found:
                namespace = _namespace(guards)
                exec(code, namespace)
                found.append(namespace[policy.entry])
        return found[0]

    def call(*inputs: Any) -> Any:
        views = [_read_only(value) for value in inputs]
        guards.meter.reset()
        with np.errstate(all="ignore"):
            result = (found[0] if found else find())(*views)
        guards.meter.reset()
        if isinstance(result, list | tuple) and len(result) > policy.max_results:
            raise LimitError(
                f"{len(result)} items were returned, and {policy.max_results} are allowed: return "
                "one array per factor, and only the factors that matter"
            )
        if guards.count(result) > policy.max_result_elements:
            raise LimitError(
                f"the result has more than {policy.max_result_elements} elements: return one "
                "number per row and factor"
            )
        return result

    call.__name__ = policy.entry
    return call


def _read_only(value: Any) -> Any:
    view = np.asarray(value).view(np.ndarray)
    if view.dtype.kind not in "biuf":
        raise TypeError(f"an argument has dtype {view.dtype}: give arrays of numbers or booleans")
    view.setflags(write=False)
    return view


def _namespace(guards: Guards) -> dict[str, Any]:
    numpy_names, math_names = numpy_proxy(guards), math_proxy(guards)
    return {
        "__builtins__": {"float": float, "int": int, "bool": bool},
        "np": numpy_names,
        "numpy": numpy_names,
        "math": math_names,
        "_enter": guards.enter,
        "_binary": guards.binary,
        "_inplace": guards.inplace,
        "_unary": guards.unary,
        "_compare": guards.compare,
        "_item": guards.item,
        "_slice": slice,
        "_store": guards.store,
        "_store_inplace": guards.store_inplace,
        "_iterate": guards.iterate,
        "_method": guards.method,
        "_display": guards.display,
        "_list": lambda *items: list(guards.display(*items)),
        "_fresh": guards.fresh,
        "_freeze": guards.freeze,
        "_cast": functools.partial(cast, guards),
        **{f"_call_{name}": guards.builtin(name) for name in guards.policy.builtins},
    }


class _Instrument(ast.NodeTransformer):
    """Replaces operators, items, loops and calls by calls of the guards.

    Imports, annotations and strings without a use disappear. Line numbers stay.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._constants: set[str] = set()
        self._in_function = False

    def visit_Module(self, node: ast.Module) -> ast.AST:
        for statement in node.body:
            self._constants |= {
                name.id
                for name in ast.walk(statement)
                if isinstance(statement, ast.Assign | ast.AnnAssign)
                and isinstance(name, ast.Name)
                and isinstance(name.ctx, ast.Store)
            }
        node.body = self._statements(node.body)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self._in_function = True
        node.returns = None
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            argument.annotation = None
        names = {item.id for item in ast.walk(node) if _is_stored(item)}  # type: ignore[attr-defined]
        names |= {argument.arg for argument in node.args.args}
        outer, self._constants = self._constants, self._constants - names
        node.body = [_at(node, ast.Expr(_call("_enter"))), *self._statements(node.body)]
        self._constants = outer
        self._in_function = False
        return node

    def _statements(self, body: list[ast.stmt]) -> list[ast.stmt]:
        visited = [self.visit(statement) for statement in body if not _is_dropped(statement)]
        return visited or [ast.Pass(lineno=1, col_offset=0)]

    def visit_If(self, node: ast.If) -> ast.AST:
        node.test = self.visit(node.test)
        node.body = self._statements(node.body)
        node.orelse = self._statements(node.orelse) if node.orelse else []
        return node

    def visit_For(self, node: ast.For) -> ast.AST:
        node.iter = _call("_iterate", self.visit(node.iter))
        node.body = self._statements(node.body)
        node.orelse = self._statements(node.orelse) if node.orelse else []
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        node.iter = _call("_iterate", self.visit(node.iter))
        node.ifs = [self.visit(test) for test in node.ifs]
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        if node.value is None:
            return _at(node, ast.Pass())
        return self.visit(_at(node, ast.Assign([node.target], node.value)))

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        value = self.visit(node.value)
        target = node.targets[0]
        if isinstance(target, ast.Subscript):
            base, index = self.visit(target.value), self._index(target.slice)
            return _at(node, ast.Expr(_call("_store", base, index, value)))
        node.value = value if self._in_function else _call("_freeze", value)
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        name, value = _name_of(node.op), self.visit(node.value)
        if isinstance(node.target, ast.Subscript):
            base, index = self.visit(node.target.value), self._index(node.target.slice)
            return _at(node, ast.Expr(_call("_store_inplace", name, base, index, value)))
        if not isinstance(node.target, ast.Name):
            raise SyntaxError("augmented assignment to an attribute")
        old = self.visit(ast.Name(node.target.id, ast.Load()))
        return _at(node, ast.Assign([node.target], _call("_inplace", name, old, value)))

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        left, right = self.visit(node.left), self.visit(node.right)
        return _at(node, _call("_binary", _name_of(node.op), left, right))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        node.operand = self.visit(node.operand)
        if isinstance(node.op, ast.Not) or isinstance(node.operand, ast.Constant):
            return node
        return _at(node, _call("_unary", _name_of(node.op), node.operand))

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        names = ast.Tuple([_name_of(operator) for operator in node.ops], ast.Load())
        values = [self.visit(value) for value in (node.left, *node.comparators)]
        return _at(node, _call("_compare", names, *values))

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        return _at(node, _call("_item", self.visit(node.value), self._index(node.slice)))

    def _index(self, node: ast.expr) -> ast.expr:
        if isinstance(node, ast.Tuple):  # short-lived and short: not worth a charge
            return _at(node, ast.Tuple([self.visit(item) for item in node.elts], ast.Load()))
        return self.visit(node)  # type: ignore[no-any-return]

    def visit_List(self, node: ast.List) -> ast.AST:
        return self._display("_list", node)

    def visit_Tuple(self, node: ast.Tuple) -> ast.AST:
        return self._display("_display", node)

    def _display(self, function: str, node: ast.List | ast.Tuple) -> ast.AST:
        if not isinstance(node.ctx, ast.Load):
            return node
        return _at(node, _call(function, *(self.visit(item) for item in node.elts)))

    def visit_Slice(self, node: ast.Slice) -> ast.AST:
        parts = (node.lower, node.upper, node.step)
        values = [ast.Constant(None) if part is None else self.visit(part) for part in parts]
        return _at(node, _call("_slice", *values))

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if self._in_function and node.id in self._constants and isinstance(node.ctx, ast.Load):
            return _at(node, _call("_fresh", node))
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        args = [self.visit(argument) for argument in node.args]
        keywords = [ast.keyword(item.arg, self.visit(item.value)) for item in node.keywords]
        function = node.func
        dotted = dotted_name(function)
        if isinstance(function, ast.Name) and function.id in self._policy.builtins:
            function = ast.Name(f"_call_{function.id}", ast.Load())
        elif dotted and NUMPY_RULES.get(dotted.partition(".")[2], ("",))[0] == "dtype":
            args.insert(0, function)
            function = ast.Name("_cast", ast.Load())
        elif isinstance(function, ast.Attribute) and not dotted:
            args[:0] = [self.visit(function.value), ast.Constant(function.attr)]
            function = ast.Name("_method", ast.Load())
        return _at(node, ast.Call(function, args, keywords))


def dotted_name(node: ast.AST) -> str:
    """``"np.linalg.norm"`` for such a chain of attributes below a module's name; else empty."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if parts and isinstance(node, ast.Name) and node.id in ("np", "numpy", "math"):
        return ".".join((node.id, *reversed(parts)))
    return ""


def _is_dropped(node: ast.stmt) -> bool:
    text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return text or isinstance(node, ast.Import | ast.ImportFrom)


def _is_stored(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def _name_of(operator: ast.AST) -> ast.Constant:
    return ast.Constant(type(operator).__name__)


def _call(function: str, *args: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(function, ast.Load()), list(args), [])


def _at(old: ast.AST, new: Node) -> Node:
    return ast.copy_location(new, old)

"""The allow-list: which Python a generated function may be written in.

Deny-lists fail, because NumPy alone has dozens of ways to a file. Here every node of the syntax
tree must be of a known kind, every attribute and every name a known one; anything else is refused
with its line and what to write instead, all of it at once, so that a language model can repair it.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import io
import tokenize
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from .errors import Problem, UnsafeCodeError
from .loading import dotted_name, load, parse
from .policy import NUMPY_RULES, TYPE_NAMES, Policy

__all__ = ["CheckedCode", "Policy", "check", "load_function"]

_MAX_DEPTH = 60  # of the syntax tree
_MAX_LINE_TOKENS = 4000  # of one logical line: bounds the work of the parser
_MODULES = ("np", "numpy", "math")
_CONSTRUCTORS = ("array", "asarray", "zeros", "ones", "full", "arange", "linspace", "eye", "finfo")
_IMPORTS = (("numpy", "np"), ("numpy", None), ("math", None))
_IGNORED_IMPORTS = ("typing", "__future__", "collections.abc")  # for annotations only

_PLAIN_NODES = (
    ast.Expr, ast.Pass, ast.Break, ast.Continue, ast.Return, ast.If, ast.BoolOp, ast.IfExp,
    ast.List, ast.Tuple, ast.Slice, ast.Subscript, ast.operator, ast.unaryop, ast.boolop,
    ast.cmpop, ast.expr_context,
)  # fmt: skip
_ADVICE = {
    "While": ("`while` loop", "use `for ... in range(n)` with a small n"),
    "Import": ("import", "only `import numpy as np` and `import math` are allowed"),
    "ImportFrom": ("import", "only `import numpy as np` and `import math` are allowed"),
    "Try": ("`try`", "write code that needs no exception handling"),
    "TryStar": ("`try`", "write code that needs no exception handling"),
    "Raise": ("`raise`", "return a value for every input instead"),
    "Assert": ("`assert`", "remove it"),
    "With": ("`with`", "remove it; warnings of divisions are handled outside"),
    "ClassDef": ("`class`", "use plain functions"),
    "Lambda": ("`lambda`", "define a helper function with `def` at the top level"),
    "Global": ("`global`", "pass values as arguments"),
    "Nonlocal": ("`nonlocal`", "pass values as arguments"),
    "Delete": ("`del`", "remove it"),
    "JoinedStr": ("f-string", "no text is needed"),
    "NamedExpr": ("`:=`", "assign on a line of its own"),
    "Starred": ("`*`", "write the items one by one"),
    "Match": ("`match`", "use `if`"),
    "Dict": ("dictionary", "use separate variables or a list"),
    "Set": ("set", "use a list"),
    "DictComp": ("dictionary comprehension", "use a list comprehension"),
    "SetComp": ("set comprehension", "use a list comprehension"),
    "GeneratorExp": ("generator expression", "use a list comprehension, with [ ]"),
    "Yield": ("`yield`", "return a list"),
    "YieldFrom": ("`yield`", "return a list"),
    "Await": ("`await`", "remove it"),
    "AsyncFunctionDef": ("`async`", "use a plain `def`"),
    "AsyncFor": ("`async`", "use a plain `for`"),
    "AsyncWith": ("`async`", "remove it"),
}


@dataclass(frozen=True)
class CheckedCode:
    r"""Source that passed :func:`check`.

    Attributes:
        source: the text as it was given, with ``\n`` at line ends and one at the end. Line numbers
            in messages, and whoever else parses it, count its lines.
        sha256: hex digest of ``source`` in UTF-8.
        entry: name of the function to call.
        signature: names of its arguments, one of the policy's.
    """

    source: str = field(repr=False)
    sha256: str
    entry: str
    signature: tuple[str, ...]


def check(source: str, policy: Policy) -> CheckedCode:
    r"""Accept or refuse source as a whole.

    Args:
        source: Python source, as the model wrote it. ``import numpy as np``, ``import math``,
            imports for annotations, annotations and docstrings may be there and are not executed.
        policy: what is allowed.

    Returns:
        The accepted code. It is safe to hand to :func:`load_function`, under the policy's limits.

    Raises:
        UnsafeCodeError: with every reason there is.

    Example:
        >>> policy = Policy(entry="f", signatures=(("x",),))
        >>> check("def f(x):\n    return [x[:, :1] ** 2]", policy).signature
        ('x',)
    """
    lines = source.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    text = "\n".join(line.rstrip(" \t") for line in lines).strip("\n") + "\n"
    tree = _parsed(text, policy)
    checker = _Checker(policy)
    checker.module(tree)
    if checker.problems:
        unique = dict.fromkeys(checker.problems)
        raise UnsafeCodeError(sorted(unique, key=lambda problem: problem.line))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return CheckedCode(text, digest, policy.entry, checker.signature)


@functools.lru_cache(maxsize=128)
def load_function(code: CheckedCode, policy: Policy) -> Callable[..., Any]:
    """Make checked code callable in this process; once for each code and policy.

    Args:
        code: what :func:`check` returned.
        policy: the same policy.

    Returns:
        A function of as many arrays as ``code.signature`` has names (optional ones may be left
        out). The generated function sees read-only views. A call costs a few microseconds for each
        operation in the source on top of NumPy's own time, runs in any number of threads, and
        raises :class:`LimitError` when it would use more than the policy allows. Nothing of the
        code runs before the first call.

    """
    return load(code.source, policy)


# --- before the tree ----------------------------------------------------------------------------


def _parsed(text: str, policy: Policy) -> ast.Module:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > policy.max_source_bytes:
        _refuse(0, "source", f"{size} bytes, {policy.max_source_bytes} are allowed: write less")
    try:
        text.encode()
        _check_characters(text)
        _check_line_lengths(text)
        tree = parse(text)
    except UnsafeCodeError:
        raise  # although it is a ValueError
    except tokenize.TokenError as error:
        message, (line, _) = error.args
        _refuse(line, "syntax error", message)
    except SyntaxError as error:
        _refuse(error.lineno or 0, "syntax error", f"{error.msg}: give complete, valid Python")
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        reason = str(error) or type(error).__name__
        _refuse(0, "source", f"Python cannot read it ({reason}): nest less, use plain characters")
    _check_depth(tree)
    return tree


def _check_characters(text: str) -> None:
    """Refuse what some readers take for the end of a line and others do not, or do not show."""
    for number, line in enumerate(text.split("\n"), start=1):
        for character in line:
            if character != "\t" and unicodedata.category(character) in ("Cc", "Zl", "Zp"):
                _refuse(
                    number, f"character U+{ord(character):04X}", "remove it, also from comments"
                )


def _check_line_lengths(text: str) -> None:
    """Refuse endless lines before the parser, whose stack they could exhaust, sees them."""
    count = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        count = 0 if token.type == tokenize.NEWLINE else count + 1
        if count > _MAX_LINE_TOKENS:
            _refuse(token.start[0], "long line", "split the expression into several statements")


def _check_depth(tree: ast.Module) -> None:
    level: list[ast.AST] = [tree]
    for _ in range(_MAX_DEPTH):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return
    line = next((node.lineno for node in level if hasattr(node, "lineno")), 0)
    _refuse(line, "deep nesting", "split the expression into several statements")


def _refuse(line: int, construct: str, advice: str) -> Any:
    raise UnsafeCodeError([Problem(line, construct, advice)])


# --- the tree -----------------------------------------------------------------------------------


class _Checker:
    """Walks a module and collects every problem."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.problems: list[Problem] = []
        self.signature: tuple[str, ...] = ()
        self._functions: dict[str, ast.FunctionDef] = {}
        self._constants: set[str] = set()
        self._names: set[str] = set()  # that can be read where the walk is now
        self._arguments: set[str] = set()
        self._calls: set[str] = set()
        self._loops = 0
        self._steps = 1  # of all loops around, where their length is known

    def module(self, tree: ast.Module) -> None:
        """Check everything."""
        statements = [node for node in tree.body if not self._is_ignorable(node)]
        for node in statements:
            if isinstance(node, ast.FunctionDef):
                if node.name in self._functions:
                    self._report(node, f"`{node.name}`", "it is defined twice")
                self._functions[node.name] = node
        for node in statements:
            if isinstance(node, ast.Assign | ast.AnnAssign):
                self._names = set(self._constants)
                self._constant(node)
            elif not isinstance(node, ast.FunctionDef):
                self._report(node, *_described(node, "only functions and constants stand here"))
        graph = {name: self._function(node) for name, node in self._functions.items()}
        self._check_recursion(graph)
        self._check_entry()

    def _report(self, node: ast.AST, construct: str, advice: str) -> None:
        self.problems.append(Problem(getattr(node, "lineno", 0), construct, advice))

    def _is_ignorable(self, node: ast.stmt) -> bool:
        """Whether it is an allowed import or a docstring, which are not executed."""
        if isinstance(node, ast.Import):
            pairs = [(alias.name, alias.asname) for alias in node.names]
            refused = not self.policy.math_functions and ("math", None) in pairs
            return all(pair in _IMPORTS for pair in pairs) and not refused
        if isinstance(node, ast.ImportFrom):
            return node.module in _IGNORED_IMPORTS and not node.level
        return _is_text(node)

    # --- definitions ----------------------------------------------------------------------------

    def _constant(self, node: ast.Assign | ast.AnnAssign) -> None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if node.value is not None:
            self._expression(node.value)
            self._check_constant_value(node.value)
        for target in targets:
            if isinstance(target, ast.Name):
                self._store(target)
                self._constants.add(target.id)
            else:
                self._report(target, "assignment", "a constant at the top level needs one name")

    def _check_constant_value(self, node: ast.expr) -> None:
        """Refuse what is more than numbers, arithmetic and arrays of them."""
        if isinstance(node, ast.Attribute) and node.attr in ("eps", "tiny"):
            node = node.value
        if isinstance(node, ast.Call):
            module, _, name = dotted_name(node.func).partition(".")
            is_dtype = NUMPY_RULES.get(name, ("",))[0] == "dtype"
            if module != "math" and name not in _CONSTRUCTORS and not is_dtype:
                advice = "at the top level only numbers and np.array and the like of numbers stand"
                self._report(node, "call", f"{advice}: move it into the function")
            for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                self._check_constant_value(argument)
        elif isinstance(node, ast.List | ast.Tuple | ast.BinOp | ast.UnaryOp):
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    self._check_constant_value(child)
        elif not isinstance(node, ast.Constant | ast.Name) and not dotted_name(node):
            advice = "at the top level only numbers, arithmetic and arrays of them stand"
            self._report(node, "expression", f"{advice}: move it into the function")

    def _function(self, node: ast.FunctionDef) -> set[str]:
        """Check a function and give the names of the functions it calls."""
        self._check_name(node, node.name, "function")
        if node.decorator_list:
            self._report(node.decorator_list[0], "decorator", "remove it")
        if getattr(node, "type_params", None):
            self._report(node, "type parameter", "remove it")
        self._arguments = set(self._argument_names(node))
        stored = {
            item.id
            for item in ast.walk(node)
            if isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store)
        }
        self._names = self._constants | self._arguments | stored
        self._calls, self._loops, self._steps = set(), 0, 1
        self._statements(node.body)
        return self._calls

    def _argument_names(self, node: ast.FunctionDef) -> list[str]:
        parts = node.args
        for unusual in (parts.vararg, parts.kwarg, *parts.kwonlyargs, *parts.posonlyargs):
            if unusual is not None:
                self._report(node, f"argument `{unusual.arg}`", "use plain arguments only")
        for default in parts.defaults:
            if not _is_plain_constant(default):
                self._report(default, "default value", "only numbers, booleans and None")
            else:
                self._expression(default)
        for argument in parts.args:
            self._check_name(argument, argument.arg, "argument")
        return [argument.arg for argument in parts.args]

    def _check_entry(self) -> None:
        wanted = " or ".join(
            f"`def {self.policy.entry}({', '.join(names)})`" for names in self.policy.signatures
        )
        node = self._functions.get(self.policy.entry)
        if node is None:
            place = Problem(0, f"no function `{self.policy.entry}`", f"define {wanted}")
            self.problems.append(place)
            return
        names = tuple(argument.arg for argument in node.args.args)
        if names not in self.policy.signatures:
            self._report(node, f"arguments ({', '.join(names)})", f"define {wanted}")
        self.signature = names

    def _check_recursion(self, graph: dict[str, set[str]]) -> None:
        for name, node in self._functions.items():
            reached: set[str] = set()
            new = set(graph[name])
            while new:
                reached |= new
                new = {callee for reach in new for callee in graph[reach]} - reached
            if name in reached:
                self._report(node, f"recursion in `{name}`", "use a bounded `for` loop")

    # --- statements -----------------------------------------------------------------------------

    def _statements(self, body: Iterable[ast.stmt]) -> None:
        for node in body:
            self._statement(node)

    def _statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            if not self._is_ignorable(node):
                self._report(node, *_described(node))
        elif isinstance(node, ast.Assign):
            self._expression(node.value)
            for target in node.targets:
                self._target(target, alone=len(node.targets) == 1)
        elif isinstance(node, ast.AnnAssign):
            if node.value is not None:
                self._expression(node.value)
            self._target(node.target, alone=True)
        elif isinstance(node, ast.AugAssign):
            self._expression(node.value)
            self._target(node.target, alone=True)
            self._check_not_argument(node.target)
            self._power(node, node.op, node.target, node.value)
        elif isinstance(node, ast.For):
            self._loop(node)
        elif isinstance(node, ast.If):
            self._expression(node.test)
            self._statements(node.body)
            self._statements(node.orelse)
        elif isinstance(node, ast.Return):
            if node.value is not None:
                self._expression(node.value)
        elif isinstance(node, ast.Expr):
            if not _is_text(node):
                self._expression(node.value)
        elif isinstance(node, ast.FunctionDef):
            self._report(node, f"function `{node.name}`", "define it at the top level, not inside")
        elif not isinstance(node, ast.Pass | ast.Break | ast.Continue):
            self._report(node, *_described(node))

    def _target(self, node: ast.expr, *, alone: bool = False) -> None:
        if isinstance(node, ast.Name):
            self._store(node)
        elif isinstance(node, ast.Tuple | ast.List):
            for item in node.elts:
                self._target(item)
        elif isinstance(node, ast.Subscript) and alone:
            self._check_not_argument(node)
            self._expression(node.value)
            self._expression(node.slice)
        elif isinstance(node, ast.Subscript):
            self._report(node, "assignment to an item", "give it a statement of its own")
        else:
            self._report(node, *_described(node, "assign to plain names or items of arrays"))

    def _store(self, node: ast.Name) -> None:
        self._check_name(node, node.id, "name")
        if node.id in self._functions:
            self._report(node, f"`{node.id}`", "it is a function; use another name")

    def _check_name(self, node: ast.AST, name: str, what: str) -> None:
        if name.startswith("_") or "__" in name:
            self._report(node, f"{what} `{name}`", "names may not start with an underscore")
        if name in (*_MODULES, *self.policy.builtins):
            self._report(node, f"{what} `{name}`", "it hides the built-in; use another name")

    def _check_not_argument(self, target: ast.expr) -> None:
        while isinstance(target, ast.Subscript):
            target = target.value
        if isinstance(target, ast.Name) and target.id in self._arguments:
            advice = f"it changes the argument in place: work on `{target.id}.copy()`"
            self._report(target, f"`{target.id}`", advice)

    def _loop(self, node: ast.For) -> None:
        self._target(node.target)
        with_steps = self._enter_loop(node, node.iter)
        self._statements(node.body)
        self._leave_loop(with_steps)
        self._statements(node.orelse)

    def _enter_loop(self, node: ast.AST, iterable: ast.expr) -> int:
        self._expression(iterable)
        self._loops += 1
        if self._loops == self.policy.max_loop_depth + 1:
            self._report(iterable, "loop", f"more than {self.policy.max_loop_depth} in each other")
        steps = max(_range_length(iterable), 1)
        self._steps *= steps
        most = self.policy.max_loop_iterations
        if self._steps > most >= self._steps // steps:
            self._report(iterable, "loop", f"{self._steps} steps, where {most} are allowed in all")
        return steps

    def _leave_loop(self, steps: int) -> None:
        self._loops -= 1
        self._steps //= steps

    # --- expressions ----------------------------------------------------------------------------

    def _expression(self, node: ast.AST) -> None:
        if isinstance(node, ast.Constant):
            self._literal(node)
        elif isinstance(node, ast.Name):
            self._read(node)
        elif isinstance(node, ast.Attribute):
            self._attribute(node)
        elif isinstance(node, ast.Call):
            self._call(node)
        elif isinstance(node, ast.ListComp):
            self._comprehension(node)
        elif isinstance(node, ast.Compare):
            self._compare(node)
        elif isinstance(node, ast.BinOp):
            self._children(node)
            self._power(node, node.op, node.left, node.right)
        elif isinstance(node, (ast.UnaryOp, *_PLAIN_NODES)):
            self._children(node)
        else:
            self._report(node, *_described(node))

    def _children(self, node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            self._expression(child)

    def _literal(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, str | bytes):
            self._report(node, "string", "no text is needed, except as a dtype such as 'float32'")
        elif isinstance(value, complex):
            self._report(node, "complex number", "use real numbers")
        elif isinstance(value, int) and abs(value) > self.policy.max_integer:
            self._report(node, "integer", "it is too large; write a float such as 1e12")

    def _read(self, node: ast.Name) -> None:
        name = node.id
        if name.startswith("_"):
            self._check_name(node, name, "name")
        elif name in _MODULES or name in self._functions or name in self.policy.builtins:
            self._report(node, f"`{name}`", "it can be called, but not be used as a value")
        elif name not in self._names:
            self._report(node, f"`{name}`", "this name is not defined here or not allowed")

    def _attribute(self, node: ast.Attribute) -> None:
        dotted = dotted_name(node)
        if dotted:
            if self._module_kind(node, dotted) not in ("constant", "dtype", ""):
                self._report(node, f"`{dotted}`", "it can be called, but not be used as a value")
            return
        self._expression(node.value)
        if node.attr not in self.policy.attributes:
            allowed = ", ".join(self.policy.attributes)
            self._report(node, f"attribute `.{node.attr}`", f"only these can be read: {allowed}")

    def _module_kind(self, node: ast.AST, dotted: str) -> str:
        """Kind of a name of NumPy or math; empty, and reported, if it is not allowed."""
        module, _, name = dotted.partition(".")
        if module == "math":
            if name in self.policy.math_functions:
                return "constant" if name in ("pi", "e", "inf", "nan", "tau") else "math"
        elif name in self.policy.numpy_functions:
            return NUMPY_RULES[name][0]
        self._report(node, f"`{dotted}`", "not allowed; use element-wise and reducing functions")
        return ""

    def _call(self, node: ast.Call) -> None:
        function = node.func
        dotted = dotted_name(function)
        own = False
        if dotted:
            if self._module_kind(node, dotted) == "constant":
                self._report(node, f"`{dotted}`", "it is not a function")
        elif isinstance(function, ast.Attribute):
            self._expression(function.value)
            if function.attr not in self.policy.methods:
                self._report(node, f"method `.{function.attr}()`", "this method is not allowed")
            elif function.attr in ("append", "extend"):
                self._check_not_argument(function.value)
        elif isinstance(function, ast.Name) and function.id in self._functions:
            own = True
            self._calls.add(function.id)
        elif not isinstance(function, ast.Name) or function.id not in self.policy.builtins:
            name = f"`{function.id}()`" if isinstance(function, ast.Name) else "computed function"
            self._report(node, name, "call functions of NumPy or ones defined here")
        self._call_arguments(node, own)

    def _call_arguments(self, node: ast.Call, own: bool) -> None:
        is_cast = isinstance(node.func, ast.Attribute) and node.func.attr == "astype"
        for argument in node.args:
            self._argument(argument, is_dtype=is_cast)
        for keyword in node.keywords:
            if keyword.arg is None:
                self._report(node, "`**`", "write the arguments one by one")
            elif not own and keyword.arg not in self.policy.keywords:
                allowed = ", ".join(self.policy.keywords)
                advice = f"not allowed; these are: {allowed}"
                self._report(keyword.value, f"argument `{keyword.arg}=`", advice)
            self._argument(keyword.value, is_dtype=keyword.arg == "dtype")

    def _argument(self, node: ast.expr, *, is_dtype: bool) -> None:
        """An argument; as a dtype it may be a short string or the name of a type."""
        if isinstance(node, ast.Name) and node.id in TYPE_NAMES and node.id not in self._names:
            return
        if is_dtype and isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node.value not in self.policy.dtype_strings:
                allowed = ", ".join(self.policy.dtype_strings)
                self._report(node, f"dtype {node.value[:20]!r}", f"use one of {allowed}")
            return
        self._expression(node)

    def _comprehension(self, node: ast.ListComp) -> None:
        entered = []
        for part in node.generators:
            if part.is_async:
                self._report(node, "`async`", "use a plain comprehension")
            entered.append(self._enter_loop(node, part.iter))
            self._target(part.target)
            for test in part.ifs:
                self._expression(test)
        self._expression(node.elt)
        for steps in entered:
            self._leave_loop(steps)

    def _compare(self, node: ast.Compare) -> None:
        for operator, value in zip(node.ops, node.comparators, strict=True):
            identity = isinstance(operator, ast.Is | ast.IsNot)
            if identity and not (isinstance(value, ast.Constant) and value.value is None):
                self._report(node, "`is`", "only `is None` and `is not None`; else use `==`")
        self._children(node)

    def _power(self, node: ast.AST, operator: ast.AST, left: ast.AST, right: ast.AST) -> None:
        """Refuse constant powers, shifts and repetitions that are too large before any run."""
        number = _constant_integer(right)
        base = _constant_integer(left)
        most = self.policy.max_integer
        if isinstance(operator, ast.Pow) and number is not None and abs(number) > 64:
            self._report(node, "`**`", f"the exponent {_shown(number)} is too large")
        elif isinstance(operator, ast.Pow) and None not in (base, number):
            if abs(base or 0) > 1 and abs(base or 0) ** max(number or 0, 0) > most:
                self._report(node, "`**`", "the result is too large; use floats such as 10.0")
        elif isinstance(operator, ast.Pow) and _is_constant_power(right):
            self._report(node, "`**`", "powers of powers are too large")
        elif isinstance(operator, ast.LShift | ast.RShift) and number is not None:
            if not 0 <= number <= 63:
                self._report(node, "shift", f"by {_shown(number)}: 0 to 63 are allowed")
        elif isinstance(operator, ast.Mult):
            for side, times in ((left, number), (right, base)):
                if isinstance(side, ast.List | ast.Tuple) and (times or 0) > 4096:
                    self._report(node, "repeated list", "it is too long; use np.zeros or np.full")


def _described(node: ast.AST, advice: str = "this construct is not allowed") -> tuple[str, str]:
    kind = type(node).__name__
    return _ADVICE.get(kind, (f"`{kind}`", advice))


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _is_plain_constant(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp):
        node = node.operand
    return isinstance(node, ast.Constant)


def _constant_integer(node: ast.AST) -> int | None:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _constant_integer(node.operand)
        return None if inner is None else -inner
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        base, power = _constant_integer(node.left), _constant_integer(node.right)
        if base is not None and power is not None and 0 <= power <= 64 and abs(base) <= 2**31:
            return int(base**power)
    return None


def _is_constant_power(node: ast.AST) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)


def _range_length(node: ast.expr) -> int:
    """Steps of ``range(constants)``; 0 where it is anything else."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        return 0
    bounds = [_constant_integer(argument) for argument in node.args]
    whole = [bound for bound in bounds if bound is not None]
    if node.func.id != "range" or not 1 <= len(whole) == len(bounds) <= 3 or whole[2:] == [0]:
        return 0
    steps = range(*whole)
    return (steps[-1] - steps[0]) // steps.step + 1 if steps else 0


def _shown(number: int) -> str:
    return str(number) if abs(number) < 10**12 else "given"

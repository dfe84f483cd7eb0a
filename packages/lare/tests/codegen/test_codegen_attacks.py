"""Attacks on the execution of generated code.

Each is either refused by the allow-list or ends within seconds in the child, as an error of its
call or as the death of the process. A second set goes to the child without the allow-list.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from lare._codegen import (
    ExecutionError,
    LimitError,
    Limits,
    Policy,
    UnsafeCodeError,
    check,
    load_function,
    run_in_child,
)
from lare._codegen import child as child_module
from lare._codegen.loading import load

POLICY = Policy(entry="f", signatures=(("x",), ("x", "y")))
X = np.random.default_rng(0).normal(size=(8, 5))

# Statements of a function body `def f(x):`. None of these may reach execution.
REFUSED = {
    "import os": "import os\nreturn [x]",
    "import in disguise": "import numpy.ctypeslib as np\nreturn [x]",
    "import a sibling": "from numpy import load\nreturn [x]",
    "relative import": "from . import errors\nreturn [x]",
    "__import__": "__import__('os').system('id')\nreturn [x]",
    "open": "open('f', 'w')\nreturn [x]",
    "eval": "return eval('x')",
    "exec": "exec('x')\nreturn [x]",
    "compile": "return compile('x', 'f', 'exec')",
    "getattr": "return getattr(x, 'tofile')('f')",
    "setattr": "setattr(x, 'flags', 1)\nreturn [x]",
    "vars": "return vars()",
    "globals": "return globals()['np']",
    "breakpoint": "breakpoint()\nreturn [x]",
    "input": "return [input()]",
    "print": "print(1)\nreturn [x]",
    "type": "return [type(x)]",
    "class walk": "return x.__class__.__mro__",
    "subclasses": "return ().__class__.__base__.__subclasses__()",
    "function globals": "return np.sum.__globals__",
    "code object": "return f.__code__",
    "builtins": "return __builtins__",
    "single underscore": "return _binary",
    "guards by name": "return _method(x, 'tofile', 'f')",
    "underscore variable": "_y = x\nreturn [_y]",
    "underscore argument": "return [np.sum(x, _axis=1)]",
    "dunder method": "return [x.__add__(x)]",
    "dunder set": "x.__class__ = 1\nreturn [x]",
    "full-width underscore": "return x.＿＿class＿＿",  # noqa: RUF001
    "ligature in a name": "return np.ﬀt.fft(x)",
    "mathematical letters": "return 𝐨𝐩𝐞𝐧('f')",  # noqa: RUF001
    "format": "return '{0.__class__}'.format(x)",
    "percent format": "return '%s' % x",
    "f-string": "return f'{x.__class__}'",
    "bytes": "return b'x'",
    "str.join": "return ''.join([])",
    "np.load": "return np.load('f')",
    "np.save": "np.save('f', x)\nreturn [x]",
    "np.savetxt": "np.savetxt('f', x)\nreturn [x]",
    "np.fromfile": "return np.fromfile('/etc/passwd', dtype=np.uint8)",
    "np.memmap": "return np.memmap('f', dtype=np.float32, mode='w+', shape=(9,))",
    "np.genfromtxt": "return np.genfromtxt('/etc/passwd')",
    "np.loadtxt": "return np.loadtxt('/etc/passwd')",
    "np.fromregex": "return np.fromregex('/etc/passwd', 'x', np.float32)",
    "np.frombuffer": "return np.frombuffer(x)",
    "np.fromstring": "return np.fromstring('1 2', sep=' ')",
    "np.DataSource": "return np.DataSource().open('http://localhost')",
    "np.ctypeslib": "return np.ctypeslib.ctypes.CDLL(None)",
    "np.f2py": "return np.f2py.os.system('id')",
    "np.lib": "return np.lib.npyio.os.system('id')",
    "np.testing": "return np.testing.os.system('id')",
    "np.char": "return np.char.multiply(x, 10)",
    "np.random": "return [np.random.rand(3)]",
    "np.fft": "return [np.fft.fft(x)]",
    "np.vectorize": "return np.vectorize(f)(x)",
    "np.apply_along_axis": "return np.apply_along_axis(f, 0, x)",
    "np.frompyfunc": "return np.frompyfunc(f, 1, 1)(x)",
    "np.seterrcall": "np.seterrcall(f)\nreturn [x]",
    "np.set_printoptions": "np.set_printoptions(formatter=1)\nreturn [x]",
    "np.copyto": "np.copyto(x, 1)\nreturn [x]",
    "np.put": "np.put(x, 0, 1)\nreturn [x]",
    "np.object_": "return [np.array([1], dtype=np.object_)]",
    "object dtype": "return [x.astype(object)]",
    "object by letter": "return [x.astype('O')]",
    "string dtype": "return [x.astype('U100000000')]",
    "structured dtype": "return [np.zeros(3, dtype=[('a', 'f8')])]",
    "void dtype": "return [np.zeros(3, dtype='V1000000')]",
    "np.longdouble": "return [np.longdouble(1)]",
    "np.complex128": "return [np.complex128(1)]",
    "np.einsum": "return [np.einsum('i,j,k->ijk', x[0], x[0], x[0])]",
    "np.kron": "return [np.kron(x, x)]",
    "np.meshgrid": "return np.meshgrid(x, x)",
    "np.broadcast_to": "return [np.broadcast_to(x, (10**9, 8, 5))]",
    "np.lib.stride_tricks": "return np.lib.stride_tricks.as_strided(x, (10**9,))",
    "ufunc.reduce": "return np.add.reduce(x)",
    "ufunc.outer": "return np.multiply.outer(x, x)",
    "ufunc.at": "np.add.at(x, 0, 1)\nreturn [x]",
    "out=": "return [np.add(x, 1, out=x)]",
    "where=": "return [np.add(x, 1, where=x > 0)]",
    "subok=": "return [np.array(x, subok=True)]",
    "tofile": "x.tofile('f')\nreturn [x]",
    "dump": "x.dump('f')\nreturn [x]",
    "tobytes": "return [x.tobytes()]",
    "ctypes": "return [x.ctypes.data]",
    "data": "return x.data",
    "base": "return [x.base]",
    "flags": "x.flags.writeable = True\nreturn [x]",
    "setflags": "x.setflags(write=True)\nreturn [x]",
    "view": "return [x.view()]",
    "sort": "x.sort()\nreturn [x]",
    "fill": "x.fill(0)\nreturn [x]",
    "resize": "x.resize(10**9)\nreturn [x]",
    "shape set": "x.shape = (40,)\nreturn [x]",
    "item set": "x[0] = 1\nreturn [x]",
    "column set": "x[:, 0] = 1\nreturn [x]",
    "augmented": "x += 1\nreturn [x]",
    "augmented item": "x[:, 0] *= 2\nreturn [x]",
    "while": "while True:\n    pass",
    "try": "try:\n    return [x]\nexcept Exception:\n    return [x]",
    "raise": "raise SystemExit",
    "assert": "assert False",
    "with": "with open('f') as g:\n    return [x]",
    "class": "class A:\n    pass\nreturn [x]",
    "lambda": "return (lambda: x)()",
    "inner function": "def g():\n    return x\nreturn g()",
    "global": "global np\nreturn [x]",
    "nonlocal": "nonlocal x\nreturn [x]",
    "del": "del x",
    "walrus": "return [(y := x)]",
    "match": "match x:\n    case _:\n        return [x]",
    "match a class": "match x:\n    case object(shape=s):\n        return [s]",
    "star": "return [*x]",
    "star call": "return np.stack(*[x])",
    "double star": "return np.sum(x, **{})",
    "star target": "a, *b = x\nreturn [a]",
    "attribute as target": "for x.shape in [1]:\n    pass\nreturn [x]",
    "item as loop target": "for x[0] in [1]:\n    pass\nreturn [x]",
    "item as comprehension target": "return [1 for x[0] in [1]]",
    "item in a tuple target": "x[0], a = 1, 2\nreturn [x]",
    "two targets": "a = x[0] = 1\nreturn [x]",
    "generator": "return sum(i for i in range(3))",
    "yield": "yield x",
    "yield from": "yield from x",
    "await": "await x",
    "dict": "return {'a': x}",
    "set": "return {1}",
    "dict comprehension": "return {i: i for i in range(3)}",
    "np rebound": "np = x\nreturn [np]",
    "np as a value": "return [np]",
    "np as a loop variable": "for np in [1]:\n    pass\nreturn [x]",
    "range rebound": "range = x\nreturn [range]",
    "function as a value": "return [np.load]",
    "allowed function as a value": "g = np.sum\nreturn [g(x)]",
    "own function as a value": "return [f]",
    "computed call": "return [np.sum][0](x)",
    "call of a call": "return np.sum(x)(x)",
    "recursion": "return f(x)",
    "power of powers": "return [9**9**9]",
    "large exponent": "return [x * 2**100000]",
    "large exponent, inplace": "a = 3\na **= 10**8\nreturn [a]",
    "large shift": "return [1 << 10**9]",
    "large integer": "return [" + "9" * 400 + "]",
    "very large hex integer": "return [0x" + "f" * 20000 + "]",
    "complex": "return [1j]",
    "list times": "return [0] * 10**9",
    "text times": "return 'a' * 10**9",
    "long loop": "for i in range(10**9):\n    pass\nreturn [x]",
    "nested loops": "for i in range(4096):\n    for j in range(4096):\n        pass\nreturn [x]",
    "loop in a comprehension": "return [i for i in range(4096) for j in range(4096)]",
    "deep loops": "return [1 for a in x for b in x for c in x for d in x]",
    "async comprehension": "return [i async for i in x]",
    "is": "return [x is x]",
    "object array of dtypes": "return [np.array([float, float])]",
    "dtype with a shape": "return [np.zeros(3, (float, 10**6))]",
    "slice set": "a = [1]\na[0:0], b = a, a\nreturn [x]",
}

# Whole sources that may not reach execution.
REFUSED_SOURCES = {
    "nothing": "",
    "no function": "a = 1",
    "other function": "def g(x):\n    return [x]",
    "other arguments": "def f(a, b, c):\n    return [a]",
    "star arguments": "def f(*x):\n    return [x]",
    "keyword arguments": "def f(x, **k):\n    return [x]",
    "keyword-only": "def f(x, *, y=1):\n    return [x]",
    "default call": "def f(x, y=open('f')):\n    return [x]",
    "default list": "def f(x, y=[]):\n    y.append(x)\n    return [x]",
    "default string": "def f(x, y='a'):\n    return [x]",
    "decorator": "@staticmethod\ndef f(x):\n    return [x]",
    "decorator call": "@np.vectorize(1)\ndef f(x):\n    return [x]",
    "async": "async def f(x):\n    return [x]",
    "call at the top": "f = 1\nopen('f')",
    "code at the top": "for i in range(3):\n    pass\ndef f(x):\n    return [x]",
    "top-level if": "if True:\n    import os\ndef f(x):\n    return [x]",
    "mutual recursion": "def g(x):\n    return f(x)\ndef f(x):\n    return g(x)",
    "long recursion": "def a(x):\n    return b(x)\ndef b(x):\n    return c(x)\n"
    "def c(x):\n    return a(x)\ndef f(x):\n    return [x]",
    "twice": "def f(x):\n    return [x]\ndef f(x):\n    return [x]",
    "f rebound": "def f(x):\n    return [x]\nf = 1",
    "named as a builtin": "def range(x):\n    return [x]\ndef f(x):\n    return [x]",
    "math.factorial": "import math\ndef f(x):\n    return [math.factorial(10**6)]",
    "math dunder": "import math\ndef f(x):\n    return [math.__loader__]",
    "null byte": "def f(x):\n    return [x]\0",
    "lone surrogate": "def f(x):\n    return ['\ud800']",
    "no Python": "Sure! Here is the function:",
    "cut off": "def f(x):\n    return [x",
    "bad indent": "def f(x):\n    a = 1\n  return [x]",
    "many brackets": "def f(x):\n    return " + "(" * 5000 + "x" + ")" * 5000,
    "many signs": "def f(x):\n    return [" + "-" * 30000 + "1]",
    "many nots": "def f(x):\n    return [" + "not " * 5000 + "x]",
    "long chain": "def f(x):\n    return [x" + ".T" * 9000 + "]",
    "long sum": "def f(x):\n    return [x" + "+x" * 9000 + "]",
    "medium sum": "def f(x):\n    return [x" + "+x" * 900 + "]",
    "deep blocks": "def f(x):\n"
    + "".join(" " * (i + 1) + "if 1:\n" for i in range(95))
    + " " * 97
    + "return [x]",
    "very long": "def f(x):\n    return [x]\n#" + "x" * 40000,
    "own function at the top": "def g():\n    return 1\nA = g()\ndef f(x):\n    return [x]",
    "work at the top": "A = np.exp(np.zeros(4000000))\ndef f(x):\n    return [x]",
    "loop at the top": "A = [i for i in range(9)]\ndef f(x):\n    return [x]",
    "item at the top": "A = np.zeros(9)[0]\ndef f(x):\n    return [x]",
    "method at the top": "A = np.zeros(9).sum()\ndef f(x):\n    return [x]",
    "call inside a list at the top": "A = [1, np.sum([1])]\ndef f(x):\n    return [x]",
    "iterator at the top": "Z = enumerate([0] * 4000)\ndef f(x):\n    return [x]",
    "range at the top": "Z = range(4000)\ndef f(x):\n    return [x]",
    "form feed": "def f(x):\n    return [x]\x0c\n",
    "next line": "def f(x):\n    # \x85    return [1]\n    return [x]\n",
    "line separator": "def f(x):\n    # \u2028    return [1]\n    return [x]\n",
    "paragraph separator": "def f(x):\n    # \u2029\n    return [x]\n",
    "escape": "def f(x):\n    # \x1b[2K\n    return [x]\n",
    "type parameter": "def f[T: open('f')](x):\n    return [x]",
    "type alias": "type A = open('f')\ndef f(x):\n    return [x]",
}

# Beginnings of the bodies below.
MUCH = "a = np.zeros(4000000)\n"
HUGE = "a = np.full(400000, 1e308)\n"
KEEP = "L = []\nfor i in range(4000):\n    "
ROWS = "n = 16000\na, w = np.zeros((4000, 1)), (0.0,) * n\n"
LONG = "n = 16000\nL, M = [0] * n, [0] * n\n"
TREE = "a = (1,)\nfor i in range(60):\n    a = (a, a)\n"

# Accepted as Python, and stopped while running: in process as in the child.
STOPPED = {
    "rows with rows": "a = np.zeros((4096, 1))\nreturn [a * np.zeros((1, 4096))]",
    "growing product": "a = x\nfor i in range(20):\n    a = a[..., None] * x[0]\nreturn [a]",
    "comparison": "a = np.zeros((4096, 1))\nreturn [a < np.zeros((1, 4096))]",
    "maximum": "a = np.zeros((4096, 1))\nreturn [np.maximum(a, np.zeros((1, 4096)))]",
    "where": "a = np.zeros((4096, 1))\nreturn [np.where(a > 0, a, np.zeros((1, 4096)))]",
    "clip": "a = np.zeros((4096, 1))\nreturn [np.clip(a, 0, np.zeros((1, 4096)))]",
    "clip keyword": "a = np.zeros((4096, 1))\nreturn [np.clip(a, 0, a_max=np.zeros((1, 4096)))]",
    "clip method": "a = np.zeros((4096, 1))\nreturn [a.clip(0, np.zeros((1, 4096)))]",
    "isclose": "a = np.zeros((4096, 1))\nreturn [np.isclose(a, 0, rtol=np.zeros((1, 4096)))]",
    "select": "a = np.zeros((4096, 1))\nreturn [np.select([a > 0], [np.zeros((1, 4096))])]",
    "outer": "a = np.zeros(4096)\nreturn [np.outer(a, a)]",
    "matmul": "a = np.zeros((4096, 1))\nreturn [a @ a.T]",
    "empty matmul": "a = np.zeros((4000000, 0))\nreturn [a @ a.T]",
    "dot": "a = np.zeros((4096, 1))\nreturn [a.dot(a.T)]",
    "zeros": "return [np.zeros(10**9)]",
    "zeros, many axes": "return [np.zeros((1000, 1000, 1000))]",
    "zeros, empty": "return [np.zeros((10**9, 0)).sum(axis=1)]",
    "ones": "return [np.ones((10**5, 10**5))]",
    "full": "return [np.full(10**9, 1.0)]",
    "eye": "return [np.eye(100000)]",
    "tile": "return [np.tile(x, (10000, 10000))]",
    "repeat": "return [np.repeat(x, 10**8)]",
    "repeat method": "return [x.repeat(10**8)]",
    "repeat by array": "return [np.repeat(x, np.full(40, 10**8))]",
    "arange": "return [np.arange(10**9)]",
    "arange, small step": "return [np.arange(0.0, 1.0, 1e-12)]",
    "arange, nan": "return [np.arange(0.0, np.nan)]",
    "linspace": "return [np.linspace(0, 1, 10**9)]",
    "linspace of arrays": "return [np.linspace(np.zeros(4096), 1, num=4096)]",
    "index": "a = np.zeros((2048, 2048))\nreturn [a[np.zeros((2048, 1), dtype=int)]]",
    "pair of indices": "i = np.zeros((4096, 1), dtype=int)\nreturn [x[i, i.T]]",
    "list as index": "n = 9000\nreturn [np.zeros((4000, 1000))[[0] * n]]",
    "doubling list": "a = [1]\nfor i in range(60):\n    a = a + a\nreturn a",
    "doubling list, inplace": "a = [1]\nfor i in range(60):\n    a += a\nreturn a",
    "doubling by extend": "a = [1]\nfor i in range(60):\n    a.extend(a)\nreturn a",
    "doubling by times": "a = [1]\nfor i in range(60):\n    a = a * 2\nreturn a",
    "doubling tuple": "a = (1,)\nfor i in range(60):\n    a += a\nreturn [x]",
    "doubling by slices": "a = [1]\nfor i in range(60):\n    a[0:0] = a\nreturn [x]",
    "list within lists": "a = [1]\nfor i in range(60):\n    a = [a, a]\nreturn [np.sum(a)]",
    "list within lists, returned": "a = [1]\nfor i in range(60):\n    a = [a, a]\nreturn a",
    "list within lists, compared": "a, b = [1], [1]\nfor i in range(60):\n"
    "    a, b = [a, a], [b, b]\nreturn [a == b]",
    "list in itself": "a = [1]\na.append(a)\nreturn [np.array(a)]",
    "list in itself, returned": "a = [1]\na.append(a)\nreturn a",
    "list in itself, sum": "a = [1]\na.append(a)\nreturn [np.sum(a)]",
    "many references": "a = np.zeros(4000000)\nreturn [np.array([a] * 1000)]",
    "stack of references": "a = np.zeros(4000000)\nreturn [np.stack([a] * 1000)]",
    "returned references": "a = np.zeros(4000000)\nreturn [a] * 1000",
    "large range": "n = 10**8\nfor i in range(n):\n    pass\nreturn [x]",
    "huge range": "n = x.size * 10**9 * 10**9\nfor i in range(n):\n    pass\nreturn [x]",
    "loops by shape": "for i in range(x.shape[0]):\n    for j in range(2000):\n        i = j\n"
    "return [x]",
    "loop over growing list": "a = [1]\nfor i in a:\n    a.append(i)\nreturn [x]",
    "comprehension": "n = 2000\nreturn [i for i in range(n) for j in range(n)]",
    "sum of a long list": "n = 10**7\nreturn [sum(range(n))]",
    "list of range": "n = 10**7\nreturn [list(range(n))]",
    "zip of one long": "n = 10**7\nreturn [list(zip(range(n)))]",
    "squaring an integer": "a = 3\nfor i in range(60):\n    a = a * a\nreturn [a]",
    "squaring in place": "a = 3\nfor i in range(60):\n    a *= a\nreturn [a]",
    "power of a variable": "n = 10**6\nreturn [7**n]",
    "power in place": "a = 7\nn = 10**6\na **= n\nreturn [a]",
    "shift by a variable": "n = 10**9\nreturn [1 << n]",
    "int of a float": "return [int(1e300)]",
    "floor of a float": "import math\nreturn [math.floor(1e300)]",
    "round to many digits": "n = 10**9\nreturn [round(5, -n)]",
    "np.round to many digits": "return [np.round(5, -10**9)]",
    "object array by None": "return [np.array([None, 1])]",
    "object array by where": "return [np.where(x > 0, None, x)]",
    "ragged": "return [np.array([[1], [1, 2]])]",
    "complex by a power": "a = -8.0\nreturn [a ** 0.5]",
    "third argument is out": "return [np.add(x, x, x.copy())]",
    "np.diff many times": "return [np.diff(x, 10**9)]",
    "alias of the argument": "a = x\na[0] = 1\nreturn [x]",
    "alias, augmented": "a = x\na += 1\nreturn [x]",
    "view of the argument": "a = x[:, 0]\na *= 2\nreturn [x]",
    "reshaped argument": "a = x.reshape(-1)\na[0] = 3\nreturn [x]",
    "transposed argument": "a = x.T\na[0, 0] = 3\nreturn [x]",
    "asarray of the argument": "a = np.asarray(x)\na += 1\nreturn [x]",
    "much work": "a = np.zeros(4000000)\nfor i in range(4000):\n    a = np.exp(a)\nreturn [a]",
    "norm of a matrix": "return [np.linalg.norm(np.zeros((2000, 2000)), 2)]",
    "norm of a matrix, keyword": "return [np.linalg.norm(np.zeros((2000, 2000)), ord=-2)]",
    "many sorts": "a = np.zeros(4000000)\nfor i in range(400):\n    a = np.sort(a)\nreturn [a]",
    "much kept": "a = []\nfor i in range(4000):\n    a.append(np.zeros(4000000))\nreturn [x]",
    "many small steps": "for i in range(4000):\n" + "    a = x[0, 0] + 1\n" * 600 + "return [x]",
    "exponential calls": "return [g(x)]\n"
    + "\n".join(
        f"def {a}(x):\n    return {b}(x) + {b}(x)"
        for a, b in zip("ghijklmnopqr", "hijklmnopqrs", strict=True)
    )
    + "\ndef s(x):\n    return x[0, 0]",
    "max of arrays": "a = np.zeros((4096, 1))\nreturn [max(a, np.zeros((1, 4096)))]",
    "max of nested lists": "a = [1]\nfor i in range(60):\n    a = [a, a]\nreturn [max(a, a)]",
    "sum of broadcasts": "return [sum([np.zeros((4096, 1)), np.zeros((1, 4096))])]",
    "cumulated result": "return [np.zeros(4000000) for i in range(4)]",
    "dictionary of nothing": "return [g]\nfor i in x:\n    g = i",
    "slice stores": MUCH + "for i in range(1000):\n    a[:] = 0.0\nreturn [x]",
    "slice stores, part": MUCH + "for i in range(1000):\n    a[1:] = 0.0\nreturn [x]",
    "object array by atleast_1d": "b = 7\nt = np.atleast_1d(x, [b])\nreturn [t[1] ** 9]",
    "object array by atleast_2d": "b = 7\nt = np.atleast_2d(x, [b])\nreturn [t[1] ** 9]",
    "True as index": MUCH + KEEP + "L.append(a[True])\nreturn [x]",
    "True in an index": MUCH + KEEP + "L.append(a[True, ...])\nreturn [x]",
    "computed True as index": MUCH + KEEP + "L.append(a[x.any()])\nreturn [x]",
    "where of one argument": MUCH + KEEP + "L.append(np.where(a == 0))\nreturn [x]",
    "lists of lists": "n = 16000\n" + KEEP + "L.append([[0] * n, [0] * n, [0] * n])\nreturn [x]",
    "lists of sums": "n = 8000\nb = [0] * n\n" + KEEP + "L.append([b + b, b + b])\nreturn [x]",
    "lists of displays": KEEP + "L.append([" + "[0, 0, 0, 0], " * 300 + "])\nreturn [x]",
    "lists of tuples": KEEP + "L.append((" + "(x, x, x, x), " * 300 + "))\nreturn [x]",
    "clip by a tuple": ROWS + "return [a.clip(w, 1.0)]",
    "clip by a tuple, keyword": ROWS + "return [a.clip(a_min=w, a_max=1.0)]",
    "isclose by a tuple": ROWS + "return [np.isclose(a, a, atol=w)]",
    "nan_to_num by a tuple": ROWS + "return [np.nan_to_num(a, nan=w)]",
    "default of select": ROWS + "return [np.select([a > 0], [a], w)]",
    "default of select, keyword": ROWS + "return [np.select([a > 0], [a], default=w)]",
    "ddof as a tuple": ROWS + "return [np.var([a, a], axis=0, ddof=w)]",
    "ddof as an array": ROWS + "return [np.stack([a, a]).var(axis=0, ddof=np.array(w))]",
    "weights as a tuple": ROWS + "return [np.average(a, weights=w)]",
    "kept arrays": "L = []\nfor i in range(31):\n    L.append(np.ones(4194000))\nreturn [x]",
    "fmod": HUGE + "for i in range(9):\n    b = np.fmod(a, 3e-308)\nreturn [x]",
    "remainder": HUGE + "for i in range(9):\n    b = a % 3e-308\nreturn [x]",
    "floor division": HUGE + "for i in range(9):\n    a //= 3e-308\nreturn [x]",
    "np.floor_divide": HUGE + "for i in range(9):\n    b = np.floor_divide(a, 3e-308)\nreturn [x]",
    "searched lists": LONG + "for i in range(4000):\n    b = [1 in L, 1 in L]\nreturn [x]",
    "compared lists": LONG + "for i in range(4000):\n    b = [L == M, L == M]\nreturn [x]",
    "dtype of lists": TREE + "return [x.sum(dtype=a)]",
    "cast to lists": TREE + "return [x.astype(a)]",
    "axis of lists": TREE + "return [np.sum(x, axis=a)]",
    "shape of lists": TREE + "return [x.reshape(a)]",
    "chain of zips": "e = [1]\nfor i in range(4000):\n    e = zip(e)\nreturn e",
    "chain of enumerates": "e = [1]\nfor i in range(4000):\n    e = enumerate(e)\nreturn e",
    "norm of a flat matrix": "return [np.linalg.norm(np.zeros((1, 2000, 2000)), 2, (1, 2))]",
    "many items": "return [x[:, :1]] * 65",
    "in": "a = [1]\nfor i in range(60):\n    a = [a, a]\nreturn [a in [a]]",
}


def body(text):
    """Source of `def f(x)` with this body; what follows `return [g(x)]` is at the top level."""
    inside, separator, after = text.partition("return [g(x)]\n")
    lines = [f"    {line}" for line in (inside + separator).splitlines()]
    return "def f(x):\n" + "\n".join(lines) + "\n\n" + after


@pytest.mark.parametrize("name", REFUSED)
def test_a_body_is_refused(name):
    with pytest.raises(UnsafeCodeError) as caught:
        check(body(REFUSED[name]), POLICY)
    assert caught.value.problems
    for problem in caught.value.problems:
        assert problem.construct
        assert problem.advice
        assert str(problem) in str(caught.value)


@pytest.mark.parametrize("name", REFUSED_SOURCES)
def test_a_source_is_refused(name):
    start = time.monotonic()
    with pytest.raises(UnsafeCodeError):
        check(REFUSED_SOURCES[name], POLICY)
    assert time.monotonic() - start < 5


def test_a_refused_body_is_refused_for_its_own_reason():
    """The frame around the bodies above is fine: what is refused is what they hold."""
    check(body("return [x]"), POLICY)


@pytest.mark.parametrize("name", STOPPED)
def test_a_running_attack_is_stopped_in_process(name):
    code = check(body(STOPPED[name]), POLICY)
    function = load_function(code, POLICY)
    kept = X.copy()
    start = time.monotonic()
    with pytest.raises((LimitError, TypeError, ValueError, UnboundLocalError)):
        function(X)
    assert time.monotonic() - start < 15
    np.testing.assert_array_equal(X, kept)


BROADCASTS = (
    "rows with rows",
    "comparison",
    "maximum",
    "where",
    "clip",
    "clip keyword",
    "clip method",
    "isclose",
    "outer",
    "matmul",
    "dot",
    "linspace of arrays",
    "pair of indices",
    "sum of broadcasts",
)


@pytest.mark.parametrize("name", BROADCASTS)
def test_an_attack_is_stopped_before_its_memory_is_taken(name):
    """Each would make 4096 times 4096 elements: the limit must hold before NumPy runs."""
    function = load_function(check(body(STOPPED[name]), POLICY), POLICY)
    tracemalloc.start()
    try:
        with pytest.raises(LimitError):
            function(X)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


HOARDS = (
    "True as index",
    "True in an index",
    "where of one argument",
    "lists of lists",
    "lists of sums",
    "lists of displays",
    "lists of tuples",
    "clip by a tuple",
    "clip by a tuple, keyword",
    "isclose by a tuple",
    "nan_to_num by a tuple",
    "default of select",
    "ddof as a tuple",
    "ddof as an array",
    "weights as a tuple",
    "kept arrays",
    "much kept",
)


@pytest.mark.parametrize("name", HOARDS)
def test_no_call_takes_600_megabytes(name):
    function = load_function(check(body(STOPPED[name]), POLICY), POLICY)
    tracemalloc.start()
    try:
        with pytest.raises((LimitError, TypeError)):
            function(X)
        assert tracemalloc.get_traced_memory()[1] < 600 << 20
    finally:
        tracemalloc.stop()


SLOW = ("fmod", "remainder", "floor division", "searched lists", "compared lists", "slice stores")


@pytest.mark.parametrize("name", SLOW)
def test_slow_operations_meet_the_limit_early(name):
    function = load_function(check(body(STOPPED[name]), POLICY), POLICY)
    start = time.process_time()
    with pytest.raises(LimitError):
        function(X)
    assert time.process_time() - start < 3


@pytest.mark.parametrize("name", ["zip", "enumerate"])
def test_chains_of_iterators_do_not_crash(name):
    """Each step of the last loop went down 160000 levels of C."""
    steps = f"    e = {name}(e)\n" * 40
    chain = f"e = [1]\nfor i in range(4000):\n{steps}for k in e:\n    pass\nreturn [x]"
    (outcome,) = run_in_child(check(body(chain), POLICY), POLICY, [(X,)]).outcomes
    assert outcome.error.startswith("LimitError")


def test_a_large_batch_leaves_room_for_work():
    text = (
        "t = np.zeros((x.shape[0], 1))\nfor i in range(20):\n"
        "    part = np.square(x[:, 20 * i : 20 * i + 20])\n"
        "    t = t + np.sum(part, axis=1, keepdims=True)\nreturn [t]"
    )
    large = np.ones((16_384, 400))
    (found,) = load_function(check(body(text), POLICY), POLICY)(large)
    np.testing.assert_array_equal(found, np.full((16_384, 1), 400.0))


@pytest.mark.parametrize("value", [np.array([None, 1]), np.array(["a"]), np.array([1j])])
def test_inputs_of_other_types_are_refused(value):
    with pytest.raises(TypeError, match="dtype"):
        load_function(check(body("return [x]"), POLICY), POLICY)(value)


def test_nothing_runs_before_the_first_call():
    code = check("A = 1 // 0\n" + body("return [x]"), POLICY)
    function = load_function(code, POLICY)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            function(X)


@pytest.mark.parametrize("text", ["range(4)", "[1, range(4)]", "np.float32", "np.finfo(float)"])
def test_the_top_level_keeps_only_numbers(text):
    """Also where no check stood before."""
    function = load(f"Z = {text}\n" + body("return [x]"), POLICY)
    with pytest.raises(TypeError, match="at the top level"):
        function(X)


def test_an_enumeration_at_the_top_level_keeps_no_place():
    text = "Z = enumerate([0] * 4)\n" + body("return [sum([1 for k in Z])]")
    function = load(text, POLICY)
    assert [function(X), function(X)] == [[4], [4]]


def test_the_number_of_items_is_told_to_the_model():
    function = load_function(check(body("return [x[:, :1]] * 3000"), POLICY), POLICY)
    with pytest.raises(LimitError, match="3000 items were returned, and 64 are allowed"):
        function(X)
    code = check(body("return [x[:, :1]] * 3000"), POLICY)
    (outcome,) = run_in_child(code, POLICY, [(X,)]).outcomes
    assert "3000 items were returned" in outcome.error


def test_control_characters_are_named():
    with pytest.raises(UnsafeCodeError, match=r"line 2, character U\+2028: remove it"):
        check("def f(x):\n    # \u2028\n    return [x]\n", POLICY)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("x = x\x00", r"line 3, character U\+0000: remove it"),
        ("x = x" + " + x" * 3000, "line 3, long line: split the expression"),
        ("x = (x", "line 5, syntax error: EOF in multi-line"),  # where the file ends
    ],
)
def test_what_is_refused_before_the_parser_has_a_line(line, said):
    source = f"def f(x):\n    y = 1\n    {line}\n    return [x]\n"
    with pytest.raises(UnsafeCodeError, match=said) as caught:
        check(source, POLICY)
    assert len(caught.value.problems) == 1


def test_a_message_lists_so_many_problems_and_counts_the_rest():
    with pytest.raises(UnsafeCodeError, match="refused for 4000 reason") as caught:
        check(body("\n".join(["x.f"] * 4000)), POLICY)
    assert len(caught.value.problems) == 4000
    assert str(caught.value).endswith("\n- and 3900 more")
    assert len(str(caught.value)) < 20_000


@pytest.mark.parametrize("name", ["growing product", "alias of the argument", "list in itself"])
def test_the_child_tells_the_line_of_an_attack(name):
    code = check(body(STOPPED[name]), POLICY)
    report = run_in_child(code, POLICY, [(X,), (X[:1],)])
    for outcome in report.outcomes:
        assert outcome.outputs is None
        assert "line " in outcome.error
        assert outcome.changed_inputs == ()


# --- the child alone ----------------------------------------------------------------------------

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux isolation")


def run_unguarded(text, calls=((X,),), **limits):
    """Run the body of f without allow-list and guards, with everything that Python offers."""
    return child_module._run(body(text), POLICY, calls, Limits(**limits), guarded=False)


ERRORS_IN_CHILD = {
    "write here": "open('out.txt', 'w').write('x')\nreturn [x]",
    "write there": "open({target!r}, 'w').write('x')\nreturn [x]",
    "append": "open({target!r}, 'a').write('x')\nreturn [x]",
    "low-level write": "import os\nos.open({target!r}, os.O_CREAT | os.O_WRONLY)\nreturn [x]",
    "folder": "import os\nos.mkdir({target!r})\nreturn [x]",
    "link": "import os\nos.symlink('/etc/passwd', {target!r})\nreturn [x]",
    "delete": "import os\nos.unlink({victim!r})\nreturn [x]",
    "rename": "import os\nos.rename({victim!r}, {target!r})\nreturn [x]",
    "truncate": "import os\nos.truncate({victim!r}, 0)\nreturn [x]",
    "save": "np.save({target!r}, x)\nreturn [x]",
    "tofile": "x.tofile({target!r})\nreturn [x]",
    "memmap": "np.memmap({target!r}, dtype=np.uint8, mode='w+', shape=(9,))\nreturn [x]",
    "read": "open({victim!r}).read()\nreturn [x]",
    "read a list": "import os\nos.listdir('/')\nreturn [x]",
    "socket": "import _socket\n_socket.socket()\nreturn [x]",
    "connect": "import _socket\ns = _socket.socket()\ns.connect(('127.0.0.1', {port}))\nreturn [x]",
    "pipe": "import os\nos.pipe()\nreturn [x]",
    "fork": "import os\nif os.fork() == 0:\n    os._exit(0)\nreturn [x]",
    "program": "import os\nos.posix_spawn('/bin/true', ['true'], {{}})\nreturn [x]",
    "exec": "import os\nos.execv('/bin/true', ['true'])",
    "memory": "a = np.ones(3 << 28)\nreturn [x]",
    "memory in pieces": "a = []\nfor i in range(4000):\n    a.append(np.ones(1 << 20))\nreturn [x]",
    "object array": "return [np.array([x, None], dtype=object)]",
    "text": "return ['a']",
    "function": "return [f]",
    "generator": "yield x",
    "other type": "return 7j",
    "raise limit": "import resource\n"
    "resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))\nreturn [x]",
    "write to the argument": "x.setflags(write=True)\nx[0] = 1\nraise KeyError",
}

FIND_PIPE = """
import os, stat
for n in range(3, 64):
    try:
        if stat.S_ISFIFO(os.fstat(n).st_mode):
            break
    except OSError:
        pass
"""


@linux_only
def test_the_child_alone_stops_files_sockets_and_processes(tmp_path):
    """All in one process, one call each: a call that got through would show in its outcome."""
    victim = tmp_path / "victim.txt"
    victim.write_text("whole")
    tmp_path.chmod(0o777)
    victim.chmod(0o666)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.2)
        places = {
            "target": str(tmp_path / "made.txt"),
            "victim": str(victim),
            "port": listener.getsockname()[1],
        }
        cases = [text.format(**places) for text in ERRORS_IN_CHILD.values()]
        functions = []
        for number, text in enumerate(cases):
            lines = "\n".join(f"    {line}" for line in text.splitlines())
            functions.append(f"def attack_{number}(x):\n{lines}")
        table = ", ".join(f"attack_{number}" for number in range(len(cases)))
        source = (
            "import os, resource, _socket\nimport numpy as np\n"
            + "\n".join(functions)
            + f"\nattacks = iter([{table}])\ndef f(x):\n    return next(attacks)(x)\n"
        )
        report = child_module._run(
            source, POLICY, [(X,)] * len(cases), Limits(memory_bytes=1 << 30), guarded=False
        )
        with pytest.raises(TimeoutError):
            listener.accept()
    for name, outcome in zip(ERRORS_IN_CHILD, report.outcomes, strict=True):
        assert outcome.error is not None, f"{name} got through: {outcome.returned}"
    errors = dict(zip(ERRORS_IN_CHILD, (o.error for o in report.outcomes), strict=True))
    assert errors["memory"].startswith(("MemoryError", "_ArrayMemoryError"))
    assert errors["fork"].startswith(("BlockingIOError", "OSError", "PermissionError"))
    changed = [outcome.changed_inputs for outcome in report.outcomes]
    assert changed == [()] * (len(cases) - 1) + [(0,)]
    assert victim.read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["victim.txt"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("while True:\n    pass", "killed"),
        ("import time\ntime.sleep(60)", "killed"),
        (FIND_PIPE + "os.close(n)\nimport time\ntime.sleep(60)", "killed"),
    ],
)
def test_an_endless_call_is_killed(text, said):
    start = time.monotonic()
    with pytest.raises(ExecutionError, match=said) as caught:
        run_unguarded(text, wall_s=2.0)
    assert time.monotonic() - start < 15
    assert "process" in caught.value.isolation


@linux_only
def test_processor_time_is_limited_by_the_kernel():
    with pytest.raises(ExecutionError, match="processor time"):
        run_unguarded("while True:\n    pass", wall_s=12.0, cpu_s=0.5)


@pytest.mark.parametrize(
    "text",
    [
        "import os\nos._exit(0)",
        "import os\nos._exit(7)",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)",
        "raise SystemExit",
        "raise KeyboardInterrupt",
        "import ctypes\nctypes.string_at(0)",
    ],
)
def test_a_child_that_dies_is_reported(text):
    with pytest.raises(ExecutionError, match="call 1 of 1"):
        run_unguarded(text)


@pytest.mark.parametrize(
    "sent",
    [
        "b'hello\\n'",
        "b'[]\\n'",
        "b'{}' + b' ' * 70000",
        "b'[' * 60000 + b'\\n'",
        "b'{\"outputs\": 3}\\n'",
        "b'{\"outputs\": [3]}\\n'",
        "b'{\"error\": 3}\\n'",
        "b'{\"seconds\": -1}\\n'",
        "b'{\"seconds\": NaN}\\n'",
        'b\'{"changed": ["a"]}\\n\'',
        "b'{\"returned\": []}\\n'",
        'b\'{"outputs": [{"dtype": "|O", "shape": [1]}]}\\n\' + b\'x\' * 8',
        'b\'{"outputs": [{"dtype": [], "shape": [1]}]}\\n\' + b\'x\' * 8',
        'b\'{"outputs": [{"dtype": "<f8", "shape": [-1]}]}\\n\'',
        'b\'{"outputs": [{"dtype": "<f8", "shape": [true]}]}\\n\' + b\'x\' * 8',
        'b\'{"outputs": [{"dtype": "<f8", "shape": "ab"}]}\\n\'',
        'b\'{"outputs": [{"dtype": "<f8", "shape": [1e9]}]}\\n\'',
        'b\'{"outputs": [{"dtype": "<f8", "shape": [1099511627775, 1099511627775]}]}\\n\'',
        "b'{\"outputs\": []}\\n' * 2",
        "b''",
    ],
)
def test_forged_output_is_refused(sent):
    """The parent takes the bytes for what they are, whoever wrote them."""
    start = b'{"isolation": ["process"]}\n'
    output = start + eval(sent)
    if not eval(sent) or b"1099511627775" in eval(sent):
        assert child_module._parse(output, 1) == (("process",), ())  # cut off
        return
    with pytest.raises(ExecutionError, match="only the returned arrays") as caught:
        child_module._parse(output, 1)
    assert caught.value.isolation == ("process",)


def test_a_child_that_forges_its_pipe_is_refused():
    with pytest.raises(ExecutionError):
        run_unguarded(FIND_PIPE + "os.write(n, b'forged' + chr(10).encode())\nos._exit(0)")


def test_printing_does_not_disturb_the_results():
    text = "import os, sys\nprint('x' * 1000)\nsys.stdout.flush()\nos.write(1, b'x')\nreturn [x]"
    (outcome,) = run_unguarded(text).outcomes
    np.testing.assert_array_equal(outcome.outputs[0], X)


def test_too_much_output_is_refused():
    with pytest.raises(ExecutionError, match="sent more than 100000 bytes"):
        run_unguarded(
            "return [np.zeros(100000)]".replace("np", "__import__('numpy')"), output_bytes=100_000
        )
    flood = FIND_PIPE + "while True:\n    os.write(n, b'x' * 65536)"
    with pytest.raises(ExecutionError):
        run_unguarded(flood, output_bytes=1 << 20)


def test_the_child_sees_no_environment(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "secret-value")
    (outcome,) = run_unguarded(
        "import os\nreturn [float(len([k for k in os.environ if 'KEY' in k]))]"
    ).outcomes
    assert outcome.outputs[0] == 0


def children_of_this_process() -> set[int]:
    """Zombies included: a child that nobody waited for is still listed."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(after_name[1]) == os.getpid():
            found.add(int(stat.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_no_process_and_no_folder_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(child_module.tempfile, "tempdir", str(tmp_path))
    before = threading.active_count()
    children = children_of_this_process()  # other tests of this worker may have left some
    with pytest.raises(ExecutionError):
        run_unguarded("import time\ntime.sleep(60)", wall_s=1.5)
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == before
    assert children_of_this_process() <= children

"""The native kernels; all other metadata is in pyproject.toml.

The extension is optional: without a C compiler the package installs, and works in plain torch.
"""

import sys

from setuptools import Extension, setup

if sys.platform == "win32":
    flags = []
else:
    # Each step rounds as separate operations do; but nobody asks for errno or for signals.
    flags = ["-O3", "-g0", "-std=c11"]
    flags += ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
    # Compiled for OpenMP and not linked with it: the run-time is torch's, which is loaded before,
    # so that a process never has two. Only on Linux is it known to be there, under these names.
    flags.append("-fopenmp" if sys.platform == "linux" else "-fopenmp-simd")

setup(
    ext_modules=[
        Extension(
            "lowmem_bp._native",
            [f"src/lowmem_bp/csrc/{name}.c" for name in ("module", "portable", "avx2", "avx512")],
            depends=[f"src/lowmem_bp/csrc/{name}.h" for name in ("kernels", "types")],
            define_macros=[("Py_LIMITED_API", "0x030A0000")],
            extra_compile_args=flags,
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)

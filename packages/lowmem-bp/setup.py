"""The native kernels; all other metadata is in pyproject.toml.

The extension is optional: without a C compiler the package installs, and works in plain torch.
"""

import sys

from setuptools import Extension, setup

# The OpenMP run-time is torch's, which is loaded first: compiled for it, not linked with it. Only
# on Linux is it known to be there under these names.
openmp = ["-fopenmp"] if sys.platform.startswith("linux") else []
flags = (
    []
    if sys.platform == "win32"
    else ["-O3", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", *openmp]
)
if flags and not openmp:
    flags.append("-fopenmp-simd")

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

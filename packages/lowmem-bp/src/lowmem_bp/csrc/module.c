/* The module lowmem_bp._native: addresses of functions that share the kernels' work among threads.
 *
 * Python calls them through ctypes with the addresses of tensors' data, so that the module knows
 * nothing of torch and works with every version of it. It is linked without an OpenMP run-time of
 * its own: GOMP_parallel comes from the one that torch has loaded before.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "types.h"

/* Raised with every change of a signature below, with backends/native.py. */
enum { INTERFACE = 2 };

extern const struct kernels kernels_portable;
#if defined(__x86_64__) && defined(__GNUC__)
extern const struct kernels kernels_avx2, kernels_avx512;
#endif

static const struct kernels *kernels = &kernels_portable;

/* Instruction sets that this processor has, best last; returns how many. */
static int instruction_sets(const struct kernels *found[3], const char *names[3]) {
    int n = 0;
    found[n] = &kernels_portable;
    names[n++] = "portable";
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    /* There is no processor with AVX2 and without F16C, which some compilers cannot ask for. */
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi2")) {
        found[n] = &kernels_avx2;
        names[n++] = "avx2";
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
            found[n] = &kernels_avx512;
            names[n++] = "avx512";
        }
    }
#endif
    return n;
}

#if defined(_OPENMP)
#define TEXT(text) _Pragma(#text)
#define OMP(text) TEXT(omp text)
#else
#define OMP(text)
#endif

/* Runs CALL for each thread with a range [begin, end) of n units, multiples of `grain`. */
#define SHARE(n, grain, CALL)                                                                      \
    do {                                                                                           \
        size_t parts = ((n) + (grain) - 1) / (grain);                                              \
        int wanted = parts < (size_t)threads ? (int)parts : threads;                               \
        if (wanted <= 1) {                                                                         \
            int part = 0;                                                                          \
            size_t begin = 0, end = (n);                                                           \
            (void)part;                                                                            \
            if (end) CALL;                                                                         \
            break;                                                                                 \
        }                                                                                          \
        OMP(parallel for schedule(static) num_threads(wanted))                                     \
        for (int part = 0; part < wanted; part++) {                                                \
            size_t begin = parts * part / wanted * (grain);                                        \
            size_t end = parts * (part + 1) / wanted * (grain);                                    \
            if (end > (n)) end = (n);                                                              \
            CALL;                                                                                  \
        }                                                                                          \
    } while (0)

enum { SMALL = 32768 }; /* elements that are not worth sharing out */

static size_t rows_of(size_t columns) { return columns && columns < SMALL ? SMALL / columns : 1; }

static void pack(const uint8_t *codes, uint8_t *packed, int bits, size_t n, int threads) {
    SHARE(n, SMALL, kernels->pack(codes, packed, bits, begin, end));
}

static void unpack(const uint8_t *packed, uint8_t *codes, int bits, size_t n, int threads) {
    SHARE(n, SMALL, kernels->unpack(packed, codes, bits, begin, end));
}

static void pack_steps(const void *x, int dtype, const double *cuts, int bits, uint8_t *packed,
                       size_t n, int threads) {
    SHARE(n, SMALL, kernels->pack_steps(x, (enum dtype)dtype, cuts, bits, packed, begin, end));
}

static void step_multiply(const uint8_t *packed, const void *grad, int dtype, const double *levels,
                          int bits, void *out, size_t n, int threads) {
    SHARE(n, SMALL,
          kernels->step_multiply(packed, grad, (enum dtype)dtype, levels, bits, out, begin, end));
}

static void quantize(const void *x, int dtype, int8_t *q, uint16_t *scale, size_t rows,
                     size_t columns, int threads) {
    SHARE(rows, rows_of(columns),
          kernels->quantize(x, (enum dtype)dtype, q, scale, columns, begin, end));
}

static void dequantize(const int8_t *q, const uint16_t *scale, void *out, int dtype, size_t rows,
                       size_t columns, int threads) {
    SHARE(rows, rows_of(columns),
          kernels->dequantize(q, scale, out, (enum dtype)dtype, columns, begin, end));
}

static void gated(const void *g, const void *u, int dtype, int kind, void *z, size_t n, int threads) {
    SHARE(n, SMALL, kernels->gated(g, u, (enum dtype)dtype, (enum gate)kind, z, begin, end));
}

static void gated_backward(const void *dz, const void *g, const void *u, int dtype, int kind,
                           void *da, void *du, size_t n, int threads) {
    SHARE(n, SMALL,
          kernels->gated_backward(dz, g, u, (enum dtype)dtype, (enum gate)kind, da, du, begin, end));
}

/* Scratch is one row per thread, `rows` of norm_backward three. */
static void normalize(const void *x, int dtype, float eps, void *z, int z_dtype, float *r,
                      size_t rows, size_t columns, float *scratch, int threads) {
    SHARE(rows, rows_of(columns),
          kernels->normalize(x, (enum dtype)dtype, eps, z, (enum dtype)z_dtype, r, columns,
                             scratch + part * columns, begin, end));
}

static void affine(const void *z, int dtype, const float *weight, const float *bias, void *y,
                   int y_dtype, size_t rows, size_t columns, float *scratch, int threads) {
    SHARE(rows, rows_of(columns),
          kernels->affine(z, (enum dtype)dtype, weight, bias, y, (enum dtype)y_dtype, columns,
                          scratch + part * columns, begin, end));
}

/* The sums d_weight and d_bias have one row per thread, all 0 before. */
static void norm_backward(const void *z, int z_dtype, const float *r, const void *dy, int dy_dtype,
                          const float *weight, int centred, void *dx, int dx_dtype, float *d_weight,
                          float *d_bias, size_t rows, size_t columns, float *scratch, int threads) {
    SHARE(rows, rows_of(columns),
          kernels->norm_backward(z, (enum dtype)z_dtype, r, dy, (enum dtype)dy_dtype, weight, centred,
                                 dx, (enum dtype)dx_dtype,
                                 d_weight ? d_weight + part * columns : NULL,
                                 d_bias ? d_bias + part * columns : NULL, columns,
                                 scratch + 3 * part * columns, begin, end));
}

/* --- Python -------------------------------------------------------------------------------------- */

static PyObject *use(PyObject *self, PyObject *name) {
    const struct kernels *found[3];
    const char *names[3];
    int n = instruction_sets(found, names);
    (void)self;
    for (int i = 0; i < n; i++)
        if (PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, names[i]) == 0) {
            kernels = found[i];
            Py_RETURN_NONE;
        }
    PyErr_Format(PyExc_ValueError, "this processor has no instruction set %R", name);
    return NULL;
}

static PyMethodDef methods[] = {
    {"use", use, METH_O, "Switch all threads to one of instruction_sets."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "Addresses of kernels, see backends/native.py.", -1, methods,
    NULL, NULL, NULL, NULL,
};

static int add(PyObject *module, const char *name, PyObject *value) {
    int failed = value == NULL || PyModule_AddObjectRef(module, name, value) < 0;
    Py_XDECREF(value);
    return failed;
}

#define ADDRESS(name) add(module, #name, PyLong_FromVoidPtr((void *)name))

PyMODINIT_FUNC PyInit__native(void) {
    const struct kernels *found[3];
    const char *names[3];
    int n = instruction_sets(found, names);
    PyObject *module = PyModule_Create(&definition), *sets = PyTuple_New(n);
    if (module == NULL || sets == NULL) return NULL;
    for (int i = 0; i < n; i++)
        if (PyTuple_SetItem(sets, i, PyUnicode_FromString(names[i])) < 0) return NULL;
    kernels = found[n - 1];
#if defined(_OPENMP)
    int openmp = 1;
#else
    int openmp = 0;
#endif
    if (add(module, "instruction_sets", sets) || add(module, "has_threads", PyBool_FromLong(openmp)) ||
        add(module, "version", PyLong_FromLong(INTERFACE)) || ADDRESS(pack) ||
        ADDRESS(unpack) || ADDRESS(pack_steps) || ADDRESS(step_multiply) || ADDRESS(quantize) ||
        ADDRESS(dequantize) || ADDRESS(gated) || ADDRESS(gated_backward) || ADDRESS(normalize) ||
        ADDRESS(affine) || ADDRESS(norm_backward))
        return NULL;
    return module;
}

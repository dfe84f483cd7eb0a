#ifndef LOWMEM_BP_TYPES_H
#define LOWMEM_BP_TYPES_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Codes are packed and looked up by words, lowest byte first; without the extension plain torch does
   the work. */
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "lowmem-bp has no kernels for big-endian processors"
#endif

/* The numbers are known to backends/native.py. */
enum dtype { F32, BF16, F16, F64 };
enum gate { SILU, GELU, GELU_TANH };

enum { BLOCK = 1024, GROUP = 128 }; /* elements worked on at a time; elements with one scale */

#if defined(__GNUC__)
#define ALWAYS __attribute__((always_inline))
#else
#define ALWAYS
#endif

/* A sum may be taken in any order. */
#if defined(_MSC_VER)
#define SIMD_SUM(name)
#else
#define PRAGMA(text) _Pragma(#text)
#define SIMD_SUM(name) PRAGMA(omp simd reduction(+ : name))
#endif

struct kernels {
    void (*pack)(const uint8_t *, uint8_t *, int, size_t, size_t);
    void (*unpack)(const uint8_t *, uint8_t *, int, size_t, size_t);
    void (*pack_steps)(const void *, enum dtype, const double *, int, uint8_t *, size_t, size_t);
    void (*step_multiply)(const uint8_t *, const void *, enum dtype, const double *, int, void *,
                          size_t, size_t);
    void (*quantize)(const void *, enum dtype, int8_t *, uint16_t *, size_t, size_t, size_t);
    void (*dequantize)(const int8_t *, const uint16_t *, void *, enum dtype, size_t, size_t, size_t);
    void (*gated)(const void *, const void *, enum dtype, enum gate, void *, size_t, size_t);
    void (*gated_backward)(const void *, const void *, const void *, enum dtype, enum gate, void *,
                           void *, size_t, size_t);
    void (*normalize)(const void *, enum dtype, float, void *, enum dtype, float *, size_t, float *,
                      size_t, size_t);
    void (*affine)(const void *, enum dtype, const float *, const float *, void *, enum dtype,
                   size_t, float *, size_t, size_t);
    void (*norm_backward)(const void *, enum dtype, const float *, const void *, enum dtype,
                          const float *, int, void *, enum dtype, float *, float *, size_t, float *,
                          size_t, size_t);
};

#endif

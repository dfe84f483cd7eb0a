/* The kernels for x86 with AVX-512. */

#if defined(__x86_64__) && defined(__GNUC__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c,bmi2"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c,bmi2")
#endif

#define ISA(name) name##_avx512
#define WIDE 16
#include "kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

#else
typedef int nothing_for_this_processor;
#endif

/* The kernels, written once and compiled once per instruction set.
 *
 * The file that includes this one defines ISA(name), which gives every function a name of its own,
 * and switches the compiler to an instruction set; WIDE is 16 (AVX-512), 8 (AVX2) or 0. Most loops
 * are left to the compiler's vectoriser; only codes, whose look-ups it cannot see, are by hand.
 *
 * Every kernel works on a range, so that a caller can share the work out. Elements are fp32, bf16
 * or fp16 (enum dtype), arithmetic is fp32; the two kernels on codes take fp64 as well.
 */

#include "types.h"

#if WIDE
#include <immintrin.h>
#endif

/* --- conversions ------------------------------------------------------------------------------ */

static inline float ISA(from_bits)(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint32_t ISA(to_bits)(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

static inline float ISA(bf16_to_float)(uint16_t half) { return ISA(from_bits)((uint32_t)half << 16); }

static inline uint16_t ISA(float_to_bf16)(float value) { /* to nearest, ties to even */
    uint32_t bits = ISA(to_bits)(value);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return (bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : (uint16_t)rounded;
}

static inline float ISA(fp16_to_float)(uint16_t half) {
    /* Exponents are rebiased by a product, which takes care of subnormal numbers too. */
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, rest = (uint32_t)(half & 0x7fffu) << 13;
    float scaled = ISA(from_bits)(rest) * 5.192296858534828e33f; /* 2**112 */
    uint32_t bits = ISA(to_bits)(scaled);
    bits = rest >= 0x0f800000u ? rest | 0x7f800000u : bits;
    return ISA(from_bits)(bits | sign);
}

static inline uint16_t ISA(float_to_fp16)(float value) { /* to nearest, ties to even */
    uint32_t bits = ISA(to_bits)(value), sign = (bits >> 16) & 0x8000u;
    bits &= 0x7fffffffu;
    /* Adding 0.5 leaves a subnormal half in the low bits of the sum, rounded. */
    uint32_t tiny = ISA(to_bits)(ISA(from_bits)(bits) + 0.5f) - 0x3f000000u;
    uint32_t usual = (bits + 0xc8000fffu + ((bits >> 13) & 1u)) >> 13;
    uint32_t result = bits < 0x38800000u ? tiny : usual;
    result = bits >= 0x477ff000u ? 0x7c00u : result;
    result = bits > 0x7f800000u ? 0x7e00u : result;
    return (uint16_t)(result | sign);
}

/* Elements [i, i + n) as floats: where they lie if they are floats, else in `buffer`. */
static inline const float *ISA(load)(const void *from, enum dtype dtype, size_t i, size_t n,
                                     float *buffer) {
    if (dtype == F32) return (const float *)from + i;
    const uint16_t *half = (const uint16_t *)from + i;
    if (dtype == BF16) {
        for (size_t j = 0; j < n; j++) buffer[j] = ISA(bf16_to_float)(half[j]);
        return buffer;
    }
    size_t j = 0;
#if WIDE
    for (; j + 8 <= n; j += 8)
        _mm256_storeu_ps(buffer + j, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(half + j))));
#endif
    for (; j < n; j++) buffer[j] = ISA(fp16_to_float)(half[j]);
    return buffer;
}

static inline void ISA(store)(const float *from, enum dtype dtype, size_t i, size_t n, void *to) {
    if (dtype == F32) {
        if ((float *)to + i != from) memcpy((float *)to + i, from, 4 * n);
        return;
    }
    uint16_t *half = (uint16_t *)to + i;
    if (dtype == BF16) {
        for (size_t j = 0; j < n; j++) half[j] = ISA(float_to_bf16)(from[j]);
        return;
    }
    size_t j = 0;
#if WIDE
    for (; j + 8 <= n; j += 8)
        _mm_storeu_si128((__m128i *)(half + j), _mm256_cvtps_ph(_mm256_loadu_ps(from + j), 0));
#endif
    for (; j < n; j++) half[j] = ISA(float_to_fp16)(from[j]);
}

/* Where to write floats that are to become elements [i, ...) of `to`. */
static inline float *ISA(target)(void *to, enum dtype dtype, size_t i, float *buffer) {
    return dtype == F32 ? (float *)to + i : buffer;
}

/* --- codes ------------------------------------------------------------------------------------ */

/* Words of as many code bytes as fill one packed byte; little end first, as x86 and ARM are. */
static inline void ISA(pack_bytes)(const uint8_t *codes, size_t n, int bits, uint8_t *packed) {
    size_t bytes = n * bits / 8, i;
    if (bits == 2) {
        for (i = 0; i < bytes; i++) {
            uint32_t w;
            memcpy(&w, codes + 4 * i, 4);
            packed[i] = (uint8_t)(w | w >> 6 | w >> 12 | w >> 18);
        }
    } else if (bits == 4) {
        for (i = 0; i < bytes; i++) packed[i] = (uint8_t)(codes[2 * i] | codes[2 * i + 1] << 4);
    } else {
        for (i = 0; i < bytes; i++) {
            uint64_t w;
            memcpy(&w, codes + 8 * i, 8);
            packed[i] = (uint8_t)((w * 0x0102040810204080ull) >> 56);
        }
    }
    size_t done = bytes * (8 / bits);
    if (done < n) {
        uint8_t last = 0;
        for (i = done; i < n; i++) last |= (uint8_t)(codes[i] << (bits * (i - done)));
        packed[bytes] = last;
    }
}

/* Ranges begin at a multiple of 8 elements in all kernels on codes. */
static void ISA(pack)(const uint8_t *codes, uint8_t *packed, int bits, size_t begin, size_t end) {
    ISA(pack_bytes)(codes + begin, end - begin, bits, packed + begin * bits / 8);
}

static void ISA(unpack)(const uint8_t *packed, uint8_t *codes, int bits, size_t begin, size_t end) {
    int per_byte = 8 / bits;
    uint8_t mask = (uint8_t)((1 << bits) - 1);
    packed += begin / per_byte;
    codes += begin;
    size_t n = end - begin, whole = n / per_byte, i;
    if (bits == 2) {
        for (i = 0; i < whole; i++) {
            uint32_t p = packed[i], w = (p | p << 6 | p << 12 | p << 18) & 0x03030303u;
            memcpy(codes + 4 * i, &w, 4);
        }
    } else {
        for (i = 0; i < whole; i++)
            for (int j = 0; j < per_byte; j++)
                codes[per_byte * i + j] = (packed[i] >> (bits * j)) & mask;
    }
    for (i = whole * per_byte; i < n; i++)
        codes[i] = (packed[i / per_byte] >> (bits * (i % per_byte))) & mask;
}

#define COUNT(NAME, REAL)                                                                          \
    static inline void ISA(NAME)(const REAL *x, const REAL *cuts, int n_cuts, size_t n,            \
                                 uint8_t *codes) {                                                 \
        for (size_t i = 0; i < n; i++) codes[i] = x[i] > cuts[0];                                  \
        for (int c = 1; c < n_cuts; c++)                                                           \
            for (size_t i = 0; i < n; i++) codes[i] += x[i] > cuts[c];                             \
    }
COUNT(count_f32, float)
COUNT(count_f64, double)

#if WIDE
/* Bit j of a byte at bit 2 j of the result. */
static const uint16_t ISA(spread)[256] = {
#define S1(n) n
#define S2(n) S1(n), S1(n + 1)
#define S4(n) S2(n), S2(n + 4)
#define S8(n) S4(n), S4(n + 16)
#define S16(n) S8(n), S8(n + 64)
#define S32(n) S16(n), S16(n + 256)
#define S64(n) S32(n), S32(n + 1024)
#define S128(n) S64(n), S64(n + 4096)
    S128(0), S128(16384)};
#undef S1
#undef S2
#undef S4
#undef S8
#undef S16
#undef S32
#undef S64
#undef S128

/* Two bits of every code in registers: three cuts are ascending, so that code 1 is (1, 0, 0),
 * 2 is (1, 1, 0) and 3 is (1, 1, 1). Returns how many elements are done, a multiple of 16. */
static inline size_t ISA(pack_two_bits)(const float *x, const float *cuts, size_t n, uint8_t *packed) {
    size_t i = 0;
#if WIDE == 16
    const __m512 c0 = _mm512_set1_ps(cuts[0]), c1 = _mm512_set1_ps(cuts[1]);
    const __m512 c2 = _mm512_set1_ps(cuts[2]);
    for (; i + 16 <= n; i += 16) {
        __m512 v = _mm512_loadu_ps(x + i);
        uint32_t a = _mm512_cmp_ps_mask(v, c0, _CMP_GT_OQ), b = _mm512_cmp_ps_mask(v, c1, _CMP_GT_OQ);
        uint32_t c = _mm512_cmp_ps_mask(v, c2, _CMP_GT_OQ);
        uint32_t word = _pdep_u32(a ^ b ^ c, 0x55555555u) | _pdep_u32(b, 0xaaaaaaaau);
        memcpy(packed + i / 4, &word, 4);
    }
#else
    const __m256 c0 = _mm256_set1_ps(cuts[0]), c1 = _mm256_set1_ps(cuts[1]);
    const __m256 c2 = _mm256_set1_ps(cuts[2]);
    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_loadu_ps(x + i);
        uint32_t a = _mm256_movemask_ps(_mm256_cmp_ps(v, c0, _CMP_GT_OQ));
        uint32_t b = _mm256_movemask_ps(_mm256_cmp_ps(v, c1, _CMP_GT_OQ));
        uint32_t c = _mm256_movemask_ps(_mm256_cmp_ps(v, c2, _CMP_GT_OQ));
        /* A table, not pdep: that takes hundreds of cycles on AMD before Zen 3. */
        uint16_t word = (uint16_t)(ISA(spread)[a ^ b ^ c] | ISA(spread)[b] << 1);
        memcpy(packed + i / 4, &word, 2);
    }
#endif
    return i;
}
#endif

static void ISA(pack_steps)(const void *x, enum dtype dtype, const double *cuts, int bits,
                            uint8_t *packed, size_t begin, size_t end) {
    int n_cuts = (1 << bits) - 1;
    float narrow[15], buffer[BLOCK];
    uint8_t codes[BLOCK];
    for (int c = 0; c < n_cuts; c++) narrow[c] = (float)cuts[c];
    for (size_t i = begin; i < end; i += BLOCK) {
        size_t n = end - i < BLOCK ? end - i : BLOCK, done = 0;
        uint8_t *to = packed + i * bits / 8;
        if (dtype == F64) {
            ISA(count_f64)((const double *)x + i, cuts, n_cuts, n, codes);
        } else {
            const float *values = ISA(load)(x, dtype, i, n, buffer);
#if WIDE
            if (bits == 2) done = ISA(pack_two_bits)(values, narrow, n, to);
#endif
            ISA(count_f32)(values + done, narrow, n_cuts, n - done, codes);
        }
        ISA(pack_bytes)(codes, n - done, bits, to + done * bits / 8);
    }
}

/* The levels that the codes of elements [i, i + n) name; `bits` is a constant where it is called. */
static inline ALWAYS void ISA(look_up)(const uint8_t *packed, size_t i, size_t n, int bits,
                                const float *levels, float *out) {
    uint32_t mask = (1u << bits) - 1u;
    size_t j = 0;
    packed += i * bits / 8;
#if WIDE == 16
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512 table = _mm512_loadu_ps(levels);
    if (bits < 4) {
        const __m512i shift = _mm512_mullo_epi32(lane, _mm512_set1_epi32(bits));
        for (; j + 16 <= n; j += 16) {
            uint32_t word = 0;
            memcpy(&word, packed + j * bits / 8, 2 * bits);
            __m512i code = _mm512_srlv_epi32(_mm512_set1_epi32((int)word), shift);
            code = _mm512_and_si512(code, _mm512_set1_epi32((int)mask));
            _mm512_storeu_ps(out + j, _mm512_permutexvar_ps(code, table));
        }
    } else {
        const __m512i shift =
            _mm512_mullo_epi32(_mm512_and_si512(lane, _mm512_set1_epi32(7)), _mm512_set1_epi32(4));
        for (; j + 16 <= n; j += 16) {
            uint32_t word[2];
            memcpy(word, packed + j / 2, 8);
            __m512i both = _mm512_mask_set1_epi32(_mm512_set1_epi32((int)word[0]), 0xff00, (int)word[1]);
            /* Only the lowest four bits of an index count. */
            _mm512_storeu_ps(out + j, _mm512_permutexvar_ps(_mm512_srlv_epi32(both, shift), table));
        }
    }
#elif WIDE == 8
    const __m256i lane = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    const __m256i shift = _mm256_mullo_epi32(lane, _mm256_set1_epi32(bits));
    const __m256 low = _mm256_loadu_ps(levels), high = _mm256_loadu_ps(levels + 8);
    for (; j + 8 <= n; j += 8) {
        uint32_t word = 0;
        memcpy(&word, packed + j * bits / 8, bits);
        __m256i code = _mm256_srlv_epi32(_mm256_set1_epi32((int)word), shift);
        code = _mm256_and_si256(code, _mm256_set1_epi32((int)mask));
        __m256 found = _mm256_permutevar8x32_ps(low, code);
        if (bits == 4) {
            __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(code, 28));
            found = _mm256_blendv_ps(found, _mm256_permutevar8x32_ps(high, code), upper);
        }
        _mm256_storeu_ps(out + j, found);
    }
#endif
    int per_byte = 8 / bits;
    for (; j < n; j++) out[j] = levels[(packed[j / per_byte] >> (bits * (j % per_byte))) & mask];
}

static void ISA(step_multiply)(const uint8_t *packed, const void *grad, enum dtype dtype,
                               const double *levels, int bits, void *out, size_t begin, size_t end) {
    float narrow[16] = {0}, buffer[BLOCK], factors[BLOCK], product[BLOCK];
    int per_byte = 8 / bits, mask = (1 << bits) - 1;
    for (int c = 0; c <= mask; c++) narrow[c] = (float)levels[c];
    if (dtype == F64) {
        for (size_t i = begin; i < end; i++)
            ((double *)out)[i] = ((const double *)grad)[i] *
                                 levels[(packed[i / per_byte] >> (bits * (i % per_byte))) & mask];
        return;
    }
    for (size_t i = begin; i < end; i += BLOCK) {
        size_t n = end - i < BLOCK ? end - i : BLOCK;
        const float *g = ISA(load)(grad, dtype, i, n, buffer);
        float *to = ISA(target)(out, dtype, i, product);
        if (bits == 2) ISA(look_up)(packed, i, n, 2, narrow, factors);
        else if (bits == 1) ISA(look_up)(packed, i, n, 1, narrow, factors);
        else ISA(look_up)(packed, i, n, 4, narrow, factors);
        for (size_t j = 0; j < n; j++) to[j] = g[j] * factors[j];
        ISA(store)(to, dtype, i, n, out);
    }
}

/* --- eight bits, one scale per group of 128 ----------------------------------------------------- */

/* Ranges are rows of `columns` elements; a row has ceil(columns / 128) groups. */
static void ISA(quantize)(const void *x, enum dtype dtype, int8_t *q, uint16_t *scale, size_t columns,
                          size_t begin, size_t end) {
    float buffer[GROUP];
    size_t groups = (columns + GROUP - 1) / GROUP;
    for (size_t row = begin; row < end; row++)
        for (size_t group = 0; group < groups; group++) {
            size_t i = row * columns + group * GROUP;
            size_t n = columns - group * GROUP < GROUP ? columns - group * GROUP : GROUP;
            const float *values = ISA(load)(x, dtype, i, n, buffer);
            /* As whole numbers the bits of positive floats have the order of the floats, and NaN
             * is the greatest. */
            uint32_t largest = 0;
            for (size_t j = 0; j < n; j++) {
                uint32_t bits = ISA(to_bits)(values[j]) & 0x7fffffffu;
                largest = bits > largest ? bits : largest;
            }
            /* The scale is rounded first: dequantising sees the rounded one. */
            uint16_t rounded = ISA(float_to_bf16)(ISA(from_bits)(largest) / 127.0f);
            float step = ISA(bf16_to_float)(rounded);
            step = step == 0.0f ? 1.0f : step;
            scale[row * groups + group] = rounded;
            for (size_t j = 0; j < n; j++) {
                float ratio = values[j] / step;
                ratio = ratio < -127.0f ? -127.0f : ratio;
                ratio = ratio > 127.0f ? 127.0f : ratio;
                /* Adding 1.5 * 2**23 rounds to the nearest whole number, ties to even. */
                q[i + j] = (int8_t)(int32_t)((ratio + 12582912.0f) - 12582912.0f);
            }
        }
}

static void ISA(dequantize)(const int8_t *q, const uint16_t *scale, void *out, enum dtype dtype,
                            size_t columns, size_t begin, size_t end) {
    float buffer[GROUP];
    size_t groups = (columns + GROUP - 1) / GROUP;
    for (size_t row = begin; row < end; row++)
        for (size_t group = 0; group < groups; group++) {
            size_t i = row * columns + group * GROUP;
            size_t n = columns - group * GROUP < GROUP ? columns - group * GROUP : GROUP;
            float step = ISA(bf16_to_float)(scale[row * groups + group]);
            float *to = ISA(target)(out, dtype, i, buffer);
            for (size_t j = 0; j < n; j++) to[j] = (float)q[i + j] * step;
            ISA(store)(to, dtype, i, n, out);
        }
}

/* --- gated products ----------------------------------------------------------------------------- */

static inline float ISA(exponential)(float x) { /* relative error below 2e-7; 0 below -87.7 */
    /* At these ends the power of two becomes 0 or infinite by itself. */
    x = x < -88.0f ? -88.0f : x;
    x = x > 89.0f ? 89.0f : x;
    float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * ISA(from_bits)((uint32_t)((int32_t)n + 127) << 23);
}

static inline float ISA(silu)(float x) { return x / (1.0f + ISA(exponential)(-x)); }

static inline float ISA(gelu_tanh)(float x) { /* x / 2 (1 + tanh t) = x / (1 + exp(-2 t)) */
    float t = 0.7978845608f * (x + 0.044715f * x * x * x);
    return x / (1.0f + ISA(exponential)(-2.0f * t));
}

static inline float ISA(gelu)(float x) {
    /* erf by Abramowitz and Stegun 7.1.26, absolute error 1.5e-7 */
    float a = (x < 0.0f ? -x : x) * 0.70710678f;
    float t = 1.0f / (1.0f + 0.3275911f * a);
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    float upper = 0.5f * p * t * ISA(exponential)(-a * a); /* (1 - erf a) / 2 */
    return x * (x < 0.0f ? upper : 1.0f - upper);
}

/* An activation rounded to the dtype it would have as a tensor of its own. */
#define GATE(NAME)                                                                                 \
    static inline void ISA(NAME##_of)(const float *g, enum dtype dtype, size_t n, float *out) {    \
        for (size_t j = 0; j < n; j++) out[j] = ISA(NAME)(g[j]);                                   \
        if (dtype == BF16)                                                                         \
            for (size_t j = 0; j < n; j++) out[j] = ISA(bf16_to_float)(ISA(float_to_bf16)(out[j]));\
        if (dtype == F16)                                                                          \
            for (size_t j = 0; j < n; j++) out[j] = ISA(fp16_to_float)(ISA(float_to_fp16)(out[j]));\
    }
GATE(silu)
GATE(gelu)
GATE(gelu_tanh)

static inline void ISA(gate)(enum gate kind, const float *g, enum dtype dtype, size_t n, float *out) {
    if (kind == SILU) ISA(silu_of)(g, dtype, n, out);
    else if (kind == GELU) ISA(gelu_of)(g, dtype, n, out);
    else ISA(gelu_tanh_of)(g, dtype, n, out);
}

/* z = act(g) u */
static void ISA(gated)(const void *g, const void *u, enum dtype dtype, enum gate kind, void *z,
                       size_t begin, size_t end) {
    float g_buffer[BLOCK], u_buffer[BLOCK], act[BLOCK], product[BLOCK];
    for (size_t i = begin; i < end; i += BLOCK) {
        size_t n = end - i < BLOCK ? end - i : BLOCK;
        const float *gate = ISA(load)(g, dtype, i, n, g_buffer);
        const float *up = ISA(load)(u, dtype, i, n, u_buffer);
        float *to = ISA(target)(z, dtype, i, product);
        ISA(gate)(kind, gate, dtype, n, act);
        for (size_t j = 0; j < n; j++) to[j] = act[j] * up[j];
        ISA(store)(to, dtype, i, n, z);
    }
}

/* of z = a u with a = act(g): da = dz u, du = dz a */
static void ISA(gated_backward)(const void *dz, const void *g, const void *u, enum dtype dtype,
                                enum gate kind, void *da, void *du, size_t begin, size_t end) {
    float dz_buffer[BLOCK], g_buffer[BLOCK], u_buffer[BLOCK], act[BLOCK], a[BLOCK], b[BLOCK];
    for (size_t i = begin; i < end; i += BLOCK) {
        size_t n = end - i < BLOCK ? end - i : BLOCK;
        const float *grad = ISA(load)(dz, dtype, i, n, dz_buffer);
        const float *gate = ISA(load)(g, dtype, i, n, g_buffer);
        const float *up = ISA(load)(u, dtype, i, n, u_buffer);
        float *to_a = ISA(target)(da, dtype, i, a), *to_u = ISA(target)(du, dtype, i, b);
        ISA(gate)(kind, gate, dtype, n, act);
        for (size_t j = 0; j < n; j++) to_a[j] = grad[j] * up[j];
        for (size_t j = 0; j < n; j++) to_u[j] = grad[j] * act[j];
        ISA(store)(to_a, dtype, i, n, da);
        ISA(store)(to_u, dtype, i, n, du);
    }
}

/* --- norms ---------------------------------------------------------------------------------------- */

/* Sums of blocks in floats, of these in doubles: rows may be long. Squares are of a[j] - shift. */
#define MEAN(NAME, TERM)                                                                           \
    static inline float ISA(NAME)(const float *a, const float *b, float shift, size_t n) {         \
        double total = 0.0;                                                                        \
        (void)b, (void)shift;                                                                      \
        for (size_t i = 0; i < n; i += BLOCK) {                                                    \
            size_t end = n - i < BLOCK ? n : i + BLOCK;                                            \
            float part = 0.0f;                                                                     \
            SIMD_SUM(part)                                                                         \
            for (size_t j = i; j < end; j++) part += TERM;                                         \
            total += part;                                                                         \
        }                                                                                          \
        return (float)(total / (double)n);                                                         \
    }
MEAN(mean_of, a[j])
MEAN(mean_square, (a[j] - shift) * (a[j] - shift))
MEAN(mean_product, a[j] * b[j])

/* z = (x - mean) r, row by row; `row` is scratch for one. */
static void ISA(normalize)(const void *x, enum dtype dtype, float eps, void *z, enum dtype z_dtype,
                           float *r, size_t columns, float *row, size_t begin, size_t end) {
    for (size_t k = begin; k < end; k++) {
        size_t i = k * columns;
        const float *values = ISA(load)(x, dtype, i, columns, row);
        float mean = ISA(mean_of)(values, NULL, 0.0f, columns);
        float scale = 1.0f / sqrtf(ISA(mean_square)(values, NULL, mean, columns) + eps);
        r[k] = scale;
        float *to = ISA(target)(z, z_dtype, i, row);
        for (size_t j = 0; j < columns; j++) to[j] = (values[j] - mean) * scale;
        ISA(store)(to, z_dtype, i, columns, z);
    }
}

/* y = z weight + bias, each step rounded to fp32 as separate operations round it */
static void ISA(affine)(const void *z, enum dtype dtype, const float *weight, const float *bias,
                        void *y, enum dtype y_dtype, size_t columns, float *row, size_t begin,
                        size_t end) {
    for (size_t k = begin; k < end; k++) {
        size_t i = k * columns;
        const float *values = ISA(load)(z, dtype, i, columns, row);
        float *to = ISA(target)(y, y_dtype, i, row);
        if (bias)
            for (size_t j = 0; j < columns; j++) to[j] = values[j] * weight[j] + bias[j];
        else
            for (size_t j = 0; j < columns; j++) to[j] = values[j] * weight[j];
        ISA(store)(to, y_dtype, i, columns, y);
    }
}

/* dx from z and r; adds to the sums of the weight's and the bias's gradient, either may be NULL.
 * `rows` is scratch for three rows. Without a weight, dy is the gradient of z itself. */
static void ISA(norm_backward)(const void *z, enum dtype z_dtype, const float *r, const void *dy,
                               enum dtype dy_dtype, const float *weight, int centred, void *dx,
                               enum dtype dx_dtype, float *d_weight, float *d_bias, size_t columns,
                               float *rows, size_t begin, size_t end) {
    float *g = rows + 2 * columns;
    for (size_t k = begin; k < end; k++) {
        size_t i = k * columns;
        const float *normal = ISA(load)(z, z_dtype, i, columns, rows);
        const float *grad = ISA(load)(dy, dy_dtype, i, columns, rows + columns);
        if (d_weight)
            for (size_t j = 0; j < columns; j++) d_weight[j] += grad[j] * normal[j];
        if (d_bias)
            for (size_t j = 0; j < columns; j++) d_bias[j] += grad[j];
        if (!dx) continue;
        if (weight)
            for (size_t j = 0; j < columns; j++) g[j] = grad[j] * weight[j];
        else
            for (size_t j = 0; j < columns; j++) g[j] = grad[j];
        float mean = centred ? ISA(mean_of)(g, NULL, 0.0f, columns) : 0.0f;
        float along = ISA(mean_product)(g, normal, 0.0f, columns);
        float *to = ISA(target)(dx, dx_dtype, i, g);
        for (size_t j = 0; j < columns; j++) to[j] = (g[j] - normal[j] * along - mean) * r[k];
        ISA(store)(to, dx_dtype, i, columns, dx);
    }
}

const struct kernels ISA(kernels) = {
    ISA(pack),       ISA(unpack), ISA(pack_steps), ISA(step_multiply), ISA(quantize),
    ISA(dequantize), ISA(gated),  ISA(gated_backward), ISA(normalize), ISA(affine),
    ISA(norm_backward),
};

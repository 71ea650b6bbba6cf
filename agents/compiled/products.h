/* Products of rows with a frozen weight, in float32, bfloat16 or int8.
 *
 * A weight [out, in] is laid out in panels of COLUMNS outputs, and in a panel input by input, so that
 * it is read once from its first number to its last. Inputs that one instruction takes together (two
 * of bfloat16, four of int8) stand side by side. Each output is one sum over the inputs in their order,
 * whatever rows are multiplied with it: a row's result does not depend on the others.
 */
#ifndef POPULORA_PRODUCTS
#define POPULORA_PRODUCTS
#include "vectors.h"

#if LANES == 16
#include <immintrin.h>
#define PARTS 3 /* registers of a panel */
#define TILE 8  /* rows whose sums stay in registers */
#elif LANES == 8
#define PARTS 2
#define TILE 6
#else
#define PARTS 1
#define TILE 8
#endif
#define COLUMNS (LANES * PARTS)

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#define HAS_BFLOAT16 1
#else
#define HAS_BFLOAT16 0
#endif
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define HAS_INT8 1
#else
#define HAS_INT8 0
#endif

enum { FLOAT32, BFLOAT16, INT8 };

typedef struct {
  const void *panels;
  const float *scale; /* int8: of each output */
  const float *bias;  /* of each output, or NULL */
  int64_t in, out;
  int32_t precision;
} Weight;

/* Rows as a product reads them. */
typedef struct {
  const void *rows;
  int64_t step;         /* bytes from row to row */
  const float *scale;   /* int8: of each row */
  const int32_t *shift; /* int8: what the weights' offset of 128 adds to the sums of each row */
} Rows;

/* Bytes of a row for products in this precision: what is beyond its length is zero. */
INLINE int64_t row_bytes(int64_t in, int precision)
{
  return precision == FLOAT32 ? in * 4 : precision == BFLOAT16 ? (in + 31) / 32 * 64 : (in + 63) / 64 * 64;
}

#if HAS_INT8
/* Multiply 64 numbers by the Hadamard matrix: an input far larger than the others, which would leave
 * them few of the 255 steps of an int8, is spread over all (as in QuaRot, Ashkboos et al., 2024). */
INLINE void spin(__m512 *v)
{
#define APART(bits, swap)                                                                          \
  for (int q = 0; q < 4; q++)                                                                      \
    v[q] = _mm512_add_ps(swap, _mm512_mask_sub_ps(v[q], bits, _mm512_setzero_ps(), v[q]))
  APART(0xAAAA, _mm512_permute_ps(v[q], 0xB1));
  APART(0xCCCC, _mm512_permute_ps(v[q], 0x4E));
  APART(0xF0F0, _mm512_shuffle_f32x4(v[q], v[q], 0xB1));
  APART(0xFF00, _mm512_shuffle_f32x4(v[q], v[q], 0x4E));
#undef APART
  const __m512 a = _mm512_add_ps(v[0], v[1]), b = _mm512_sub_ps(v[0], v[1]);
  const __m512 c = _mm512_add_ps(v[2], v[3]), d = _mm512_sub_ps(v[2], v[3]);
  v[0] = _mm512_add_ps(a, c), v[1] = _mm512_add_ps(b, d);
  v[2] = _mm512_sub_ps(a, c), v[3] = _mm512_sub_ps(b, d);
}
#endif

INLINE int64_t panel_bytes(const Weight *w)
{
  return w->precision == FLOAT32    ? w->in * COLUMNS * 4
         : w->precision == BFLOAT16 ? (w->in + 1) / 2 * COLUMNS * 4
                                    : (w->in + 3) / 4 * COLUMNS * 4;
}

/* Write a row for products in this precision; int8: its scale and shift too. */
static void prepare(const float *x, int64_t in, int precision, void *row, float *scale, int32_t *shift)
{
#if HAS_BFLOAT16
  if (precision == BFLOAT16)
    for (int64_t i = 0; i < in; i += 32) {
      const int64_t left = in - i;
      const __mmask16 a = left < 16 ? (1u << left) - 1 : 0xFFFF;
      const __mmask16 b = left < 16 ? 0 : left < 32 ? (1u << (left - 16)) - 1 : 0xFFFF;
      const __m512 low = _mm512_maskz_loadu_ps(a, x + i), high = _mm512_maskz_loadu_ps(b, x + i + 16);
      _mm512_storeu_si512((uint16_t *)row + i, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
#endif
#if HAS_INT8
  if (precision == INT8) {
    const int64_t whole = (in + 63) / 64 * 64;
    float spun[whole];
    __m512 most = _mm512_setzero_ps(), bad = _mm512_setzero_ps();
    for (int64_t i = 0; i < whole; i += 64) {
      __m512 v[4];
      for (int q = 0; q < 4; q++) {
        const int64_t left = in - i - 16 * q;
        v[q] = _mm512_maskz_loadu_ps(left >= 16 ? 0xFFFF : left > 0 ? (1u << left) - 1 : 0, x + i + 16 * q);
      }
      if (in % 64 == 0) spin(v);
      for (int q = 0; q < 4; q++) {
        most = _mm512_max_ps(most, _mm512_abs_ps(v[q]));
        bad = _mm512_fmadd_ps(v[q], _mm512_setzero_ps(), bad); /* NaN if one is not finite */
        _mm512_storeu_ps(spun + i + 16 * q, v[q]);
      }
    }
    const float m = _mm512_reduce_max_ps(most), none = _mm512_reduce_add_ps(bad);
    const __m512 times = _mm512_set1_ps(m > 0x1p-100f && none == 0 ? 127.0f / m : 0.0f);
    __m512i sum = _mm512_setzero_si512();
    for (int64_t i = 0; i < whole; i += 16) {
      const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(spun + i), times));
      sum = _mm512_add_epi32(sum, q);
      _mm_storeu_si128((__m128i *)((int8_t *)row + i), _mm512_cvtsepi32_epi8(q));
    }
    *scale = m / 127.0f + none;
    *shift = 128 * _mm512_reduce_add_epi32(sum);
  }
#endif
  (void)x, (void)in, (void)row, (void)scale, (void)shift, (void)precision;
}

/* The sums of n rows and a panel, [TILE, COLUMNS]. They are kept in registers to the last input. */
INLINE void sum_float32(int n, const void *rows, int64_t step, const void *panel, int64_t in, float *made)
{
  const float *x = rows, *p = panel;
  vec a[TILE][PARTS];
  for (int r = 0; r < n; r++)
    for (int v = 0; v < PARTS; v++) a[r][v] = (vec){0};
  for (int64_t k = 0; k < in; k++, p += COLUMNS) {
    vec f[PARTS];
    for (int v = 0; v < PARTS; v++) f[v] = load(p + v * LANES);
    for (int r = 0; r < n; r++)
      for (int v = 0; v < PARTS; v++) a[r][v] += x[r * step + k] * f[v];
  }
  for (int r = 0; r < n; r++)
    for (int v = 0; v < PARTS; v++) store(made + r * COLUMNS + v * LANES, a[r][v]);
}

#if HAS_BFLOAT16
INLINE void sum_bfloat16(int n, const void *rows, int64_t step, const void *panel, int64_t in, float *made)
{
  const int32_t *x = rows;
  const __m512i *p = panel;
  __m512 a[TILE][PARTS];
  for (int r = 0; r < n; r++)
    for (int v = 0; v < PARTS; v++) a[r][v] = _mm512_setzero_ps();
  for (int64_t k = 0; k < (in + 1) / 2; k++, p += PARTS) {
    __m512bh f[PARTS];
    for (int v = 0; v < PARTS; v++) f[v] = (__m512bh)_mm512_loadu_si512(p + v);
    for (int r = 0; r < n; r++) {
      const __m512bh both = (__m512bh)_mm512_set1_epi32(x[r * step + k]);
      for (int v = 0; v < PARTS; v++) a[r][v] = _mm512_dpbf16_ps(a[r][v], f[v], both);
    }
  }
  for (int r = 0; r < n; r++)
    for (int v = 0; v < PARTS; v++) _mm512_storeu_ps(made + r * COLUMNS + v * 16, a[r][v]);
}
#endif

#if HAS_INT8
/* Weights have 128 added, since the instruction wants one side without a sign. Written out, because
 * GCC 12 keeps some of the sums in memory: zmm0 to 23 hold those of a row after those of another. */
#define SUMS_OF_ROW(from, a, b, c)                                                                 \
  "vpbroadcastd " from ", %%zmm27\n\tvpdpbusd %%zmm27, %%zmm24, %%zmm" #a                           \
  "\n\tvpdpbusd %%zmm27, %%zmm25, %%zmm" #b "\n\tvpdpbusd %%zmm27, %%zmm26, %%zmm" #c "\n\t"
#define SUMS_1 SUMS_OF_ROW("(%[x])", 0, 1, 2)
#define SUMS_2 SUMS_1 SUMS_OF_ROW("(%[x],%[step])", 3, 4, 5)
#define SUMS_3 SUMS_2 SUMS_OF_ROW("(%[x],%[step],2)", 6, 7, 8)
#define SUMS_4 SUMS_3 SUMS_OF_ROW("(%[y])", 9, 10, 11)
#define SUMS_5 SUMS_4 SUMS_OF_ROW("(%[y],%[step])", 12, 13, 14)
#define SUMS_6 SUMS_5 SUMS_OF_ROW("(%[y],%[step],2)", 15, 16, 17)
#define SUMS_7 SUMS_6 SUMS_OF_ROW("(%[z])", 18, 19, 20)
#define SUMS_8 SUMS_7 SUMS_OF_ROW("(%[z],%[step])", 21, 22, 23)
#define CLEAR_ROW(a, b, c)                                                                         \
  "vpxord %%zmm" #a ", %%zmm" #a ", %%zmm" #a "\n\tvpxord %%zmm" #b ", %%zmm" #b ", %%zmm" #b        \
  "\n\tvpxord %%zmm" #c ", %%zmm" #c ", %%zmm" #c "\n\t"
#define STORE_ROW(a, b, c)                                                                         \
  "vmovdqu64 %%zmm" #a ", " #a "*64(%[made])\n\tvmovdqu64 %%zmm" #b ", " #b "*64(%[made])\n\t"       \
  "vmovdqu64 %%zmm" #c ", " #c "*64(%[made])\n\t"
#define ALL_ROWS(EACH)                                                                             \
  EACH(0, 1, 2) EACH(3, 4, 5) EACH(6, 7, 8) EACH(9, 10, 11)                                        \
  EACH(12, 13, 14) EACH(15, 16, 17) EACH(18, 19, 20) EACH(21, 22, 23)
#define SUM_INT8(n)                                                                                \
  static void int8_##n(const void *x, int64_t step, const void *p, int64_t in, float *made)        \
  {                                                                                                \
    const char *y = (const char *)x + 12 * step, *z = y + 12 * step;                               \
    int64_t fours = (in + 3) / 4;                                                                  \
    __asm__ volatile(ALL_ROWS(CLEAR_ROW)                                                           \
      "1:\n\tvmovdqu64 (%[p]), %%zmm24\n\tvmovdqu64 64(%[p]), %%zmm25\n\t"                         \
      "vmovdqu64 128(%[p]), %%zmm26\n\t" SUMS_##n                                                  \
      "add $192, %[p]\n\tadd $4, %[x]\n\tadd $4, %[y]\n\tadd $4, %[z]\n\tdec %[fours]\n\tjnz 1b\n\t" \
      ALL_ROWS(STORE_ROW)                                                                          \
      : [x] "+r"(x), [y] "+r"(y), [z] "+r"(z), [p] "+r"(p), [fours] "+r"(fours)                    \
      : [step] "r"(4 * step), [made] "r"(made)                                                     \
      : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",     \
        "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18",   \
        "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27");          \
  }
SUM_INT8(1) SUM_INT8(2) SUM_INT8(3) SUM_INT8(4) SUM_INT8(5) SUM_INT8(6) SUM_INT8(7) SUM_INT8(8)
#endif

/* A function for each number of rows: GCC 12 keeps the sums in memory where they share one. */
typedef void Sums(const void *rows, int64_t step, const void *panel, int64_t in, float *made);
#define DEFINE(kind, n)                                                                            \
  static __attribute__((noinline)) void kind##_##n(const void *rows, int64_t step, const void *panel, \
                                                   int64_t in, float *made)                        \
  {                                                                                                \
    sum_##kind((n) > TILE ? TILE : (n), rows, step, panel, in, made);                              \
  }
#define FUNCTIONS(kind)                                                                            \
  DEFINE(kind, 1) DEFINE(kind, 2) DEFINE(kind, 3) DEFINE(kind, 4)                                  \
  DEFINE(kind, 5) DEFINE(kind, 6) DEFINE(kind, 7) DEFINE(kind, 8)
#define NAMES(kind) {kind##_1, kind##_2, kind##_3, kind##_4, kind##_5, kind##_6, kind##_7, kind##_8}
FUNCTIONS(float32)
#if HAS_BFLOAT16
FUNCTIONS(bfloat16)
#endif
static Sums *const SUMS[3][8] = {
    NAMES(float32),
#if HAS_BFLOAT16
    [BFLOAT16] = NAMES(bfloat16),
#endif
#if HAS_INT8
    [INT8] = NAMES(int8),
#endif
};

/* One panel's outputs for n rows, [n, COLUMNS]. */
static void tile(int n, const Rows *rows, int64_t first, const Weight *w, int64_t panel, float *made)
{
  const int64_t column = panel * COLUMNS;
  const char *x = (const char *)rows->rows + first * rows->step;
  SUMS[w->precision][n - 1](x, rows->step / 4, (const char *)w->panels + panel * panel_bytes(w), w->in, made);
#if HAS_INT8
  for (int v = 0; w->precision == INT8 && v < PARTS; v++) {
    const vec scale = load(w->scale + column + v * LANES);
    for (int r = 0; r < n; r++) {
      float *at = made + r * COLUMNS + v * LANES;
      const __m512i sum = _mm512_loadu_si512(at), shift = _mm512_set1_epi32(rows->shift[first + r]);
      store(at, (vec)_mm512_cvtepi32_ps(_mm512_sub_epi32(sum, shift)) * rows->scale[first + r] * scale);
    }
  }
#endif
  for (int v = 0; w->bias && v < PARTS; v++) {
    const vec bias = load(w->bias + column + v * LANES);
    for (int r = 0; r < n; r++) {
      float *at = made + r * COLUMNS + v * LANES;
      store(at, load(at) + bias);
    }
  }
}

INLINE int64_t panels_of(const Weight *w) { return (w->out + COLUMNS - 1) / COLUMNS; }
#endif

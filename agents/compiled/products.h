/* Products of rows with a frozen weight, in float32, bfloat16 or int8.
 *
 * A weight [out, in] is laid out in panels of COLUMNS outputs, and in a panel input by input, so that
 * it is read once from its first number to its last. Inputs that one instruction takes together (two
 * of bfloat16, AT_ONCE of int8) stand side by side. Each output is one sum over the inputs in their order,
 * whatever rows are multiplied with it: a row's result does not depend on the others.
 */
#ifndef POPULORA_PRODUCTS
#define POPULORA_PRODUCTS
#include "vectors.h"

#if LANES >= 8
#include <immintrin.h>
#endif
#if LANES == 16
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
#include "integers.h"
#include "matrices.h"

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#define HAS_BFLOAT16 1
#else
#define HAS_BFLOAT16 0
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
  return precision == FLOAT32 ? in * 4 : precision == BFLOAT16 ? (in + 31) / 32 * 64
                              : (in + 63) / 64 * 64 * INT8_BYTES;
}

INLINE int64_t panel_bytes(const Weight *w)
{
  return w->precision == FLOAT32    ? w->in * COLUMNS * 4
         : w->precision == BFLOAT16 ? (w->in + 1) / 2 * COLUMNS * 4
                                    : (w->in + AT_ONCE - 1) / AT_ONCE * COLUMNS * AT_ONCE;
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
  if (precision == INT8) prepare_int8(x, in, row, scale, shift);
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
    [INT8] = {int8_1, int8_2, int8_3, int8_4, int8_5, int8_6,
#if LANES == 16
              int8_7, int8_8,
#endif
    },
#endif
};

#define MOST (HAS_MATRICES ? 32 : TILE) /* rows that are multiplied with a panel at once */

/* Whether a product goes by AMX, which takes 64 bytes of its inputs at once. In bfloat16, whose sums have
 * another order there, it does so for any number of rows. */
INLINE int by_matrices(int64_t in, int precision)
{
  return populora_matrices && ((precision == INT8 && in % 64 == 0) || (precision == BFLOAT16 && in % 32 == 0));
}

/* One panel's outputs for n rows, at most MOST by matrices and TILE otherwise, [n, COLUMNS]. Room for
 * [MOST, COLUMNS]; by matrices, whole sixteens of rows are read, and the thread has begun them. */
static void tile(int n, const Rows *rows, int64_t first, const Weight *w, int64_t panel, int matrices,
                 float *made)
{
  const int64_t column = panel * COLUMNS;
  const char *x = (const char *)rows->rows + first * rows->step;
  const char *p = (const char *)w->panels + panel * panel_bytes(w);
#if HAS_MATRICES
  if (matrices && w->precision == BFLOAT16)
    matrices_bfloat16(n, x, rows->step, p, w->in / 32, made);
  else if (matrices && n > FEW)
    matrices_int8(n, x, rows->step, p, w->in / 64, made);
  else
#endif
    for (int r = 0; r < n; r += TILE)
      SUMS[w->precision][(n - r < TILE ? n - r : TILE) - 1](x + r * rows->step, rows->step / 4, p, w->in,
                                                            made + r * COLUMNS);
  (void)matrices;
#if HAS_INT8
  for (int v = 0; w->precision == INT8 && v < PARTS; v++) {
    const vec scale = load(w->scale + column + v * LANES);
    for (int r = 0; r < n; r++) {
      float *at = made + r * COLUMNS + v * LANES;
      const ivec sum = (ivec)load(at) - rows->shift[first + r];
      store(at, __builtin_convertvector(sum, vec) * rows->scale[first + r] * scale);
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

/* The gradient of a product's input: what comes back, times the weight as `products.h` lays it out.
 *
 * The sums are over the outputs, which stand in panels, so a panel of COLUMNS inputs is made of them, in
 * bfloat16, where int8 is exact, and left again once all rows are multiplied with it: there is no second
 * copy of the weight. A row's result does not depend on the others, nor on the threads.
 */
#ifndef POPULORA_GRADIENTS
#define POPULORA_GRADIENTS
#include "products.h"

#define HAS_GRADIENT (HAS_INT8 && HAS_BFLOAT16)
#define DEEP 20    /* panels of outputs whose share is added up at once: what is made of them is cached */
#define TALL 512   /* rows that a thread takes at once */
#define ROUND 32   /* outputs that are added up at once */

/* Bytes of a row of what comes back: bfloat16, for whole panels of outputs and whole rounds. */
static int64_t gradient_bytes(const Weight *w)
{
  const int64_t whole = (w->out + COLUMNS - 1) / COLUMNS * COLUMNS;
  return (whole + ROUND - 1) / ROUND * ROUND * 2;
}

#if HAS_GRADIENT
/* What came back for a row, times the weight's scales. */
static void scaled(const Weight *w, const float *y, uint16_t *row)
{
  const int64_t whole = gradient_bytes(w) / 2;
  for (int64_t i = 0; i < whole; i += 16) {
    const int64_t left = w->out - i;
    const __mmask16 there = left >= 16 ? 0xFFFF : left > 0 ? (1u << left) - 1 : 0;
    const __m512 scale = _mm512_maskz_loadu_ps(there, w->scale + i);
    const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(there, y + i), scale);
    _mm256_storeu_si256((__m256i *)(row + i), (__m256i)_mm512_cvtneps_pbh(v));
  }
}

/* Panels of outputs from `first` to `past` as a panel of inputs: pairs of outputs, [pairs, COLUMNS, 2],
 * filled up to a whole round. */
static void turned_over(const Weight *w, int64_t first, int64_t past, int64_t inputs, uint16_t *made)
{
  const int64_t fours = (w->in + 3) / 4, begin = inputs * COLUMNS / 4;
  const int64_t there = fours - begin < COLUMNS / 4 ? fours - begin : COLUMNS / 4;
  const __m128i pairs = _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
  const __m512i offset = _mm512_set1_epi32(128);
  if (there < COLUMNS / 4) memset(made, 0, (past - first) * COLUMNS * COLUMNS * 2);
  for (int64_t p = first; p < past; p++, made += COLUMNS * COLUMNS) {
    const uint8_t *from = (const uint8_t *)w->panels + p * panel_bytes(w) + begin * COLUMNS * 4;
    for (int64_t o = 0; o < COLUMNS; o += 4) /* four outputs of four inputs at a time */
      for (int64_t g = 0; g < there; g++) {
        const __m128i four = _mm_loadu_si128((const __m128i *)(from + (g * COLUMNS + o) * 4));
        const __m512i whole = _mm512_cvtepu8_epi32(_mm_shuffle_epi8(four, pairs));
        const __m512 exact = _mm512_cvtepi32_ps(_mm512_sub_epi32(whole, offset));
        const __m256i half = _mm512_cvtepi32_epi16(_mm512_srli_epi32((__m512i)exact, 16));
        uint16_t *to = made + o * COLUMNS + g * 8;
        _mm_storeu_si128((__m128i *)to, _mm256_castsi256_si128(half));
        _mm_storeu_si128((__m128i *)(to + 2 * COLUMNS), _mm256_extracti128_si256(half, 1));
      }
  }
  if ((past - first) * COLUMNS % ROUND) memset(made, 0, (ROUND - COLUMNS % ROUND) * COLUMNS * 2);
}

/* Add the share of some panels of outputs to a panel of inputs of `count` rows, x [count, in]. With AMX
 * whole sixteens of rows are read. */
static void add_share(const Weight *w, const void *rows, int64_t step, int64_t count, const uint16_t *panel,
                      int64_t outputs, int64_t inputs, int fresh, float *x)
{
  float made[MOST * COLUMNS];
  const int64_t column = inputs * COLUMNS, wide = w->in - column < COLUMNS ? w->in - column : COLUMNS;
  const int most = populora_matrices ? MOST : TILE;
  for (int64_t r = 0; r < count; r += most) {
    const int n = count - r < most ? count - r : most;
    const char *some = (const char *)rows + r * step;
#if HAS_MATRICES
    if (populora_matrices)
      matrices_bfloat16(n, some, step, panel, (outputs + ROUND - 1) / ROUND, made);
    else
#endif
      SUMS[BFLOAT16][n - 1](some, step / 4, panel, outputs, made);
    for (int i = 0; i < n; i++) {
      float *to = x + (r + i) * w->in + column;
      for (int64_t c = 0; c < wide; c++) to[c] = fresh ? made[i * COLUMNS + c] : to[c] + made[i * COLUMNS + c];
    }
  }
}

/* x [count, in] = y [count, out] W, turned where the product turns its inputs, by all threads.
 * Room for rows of gradient_bytes: `count`, filled up to whole sixteens. */
void populora_gradient(const Weight *w, const float *y, int64_t count, float *x, void *room, int32_t wanted)
{
  const int64_t step = gradient_bytes(w), panels = panels_of(w), blocks = (w->in + COLUMNS - 1) / COLUMNS;
#pragma omp parallel num_threads(wanted)
  {
    uint16_t panel[(DEEP * COLUMNS + ROUND) * COLUMNS] __attribute__((aligned(64)));
    if (populora_matrices) begin_matrices();
#pragma omp for schedule(static)
    for (int64_t r = 0; r < count; r++) scaled(w, y + r * w->out, (uint16_t *)((char *)room + r * step));
#pragma omp for schedule(dynamic) collapse(2)
    for (int64_t from = 0; from < count; from += TALL)
      for (int64_t block = 0; block < blocks; block++)
        for (int64_t first = 0; first < panels; first += DEEP) {
          const int64_t past = panels - first < DEEP ? panels : first + DEEP;
          turned_over(w, first, past, block, panel);
          add_share(w, (const char *)room + from * step + first * COLUMNS * 2, step,
                    count - from < TALL ? count - from : TALL, panel, (past - first) * COLUMNS, block,
                    first == 0, x + from * w->in);
        }
    if (populora_matrices) end_matrices();
    if (w->in % 64 == 0) {
#pragma omp for schedule(static)
      for (int64_t i = 0; i < count * w->in; i += 64) {
        __m512 v[4];
        for (int q = 0; q < 4; q++) v[q] = _mm512_loadu_ps(x + i + 16 * q);
        spin(v);
        for (int q = 0; q < 4; q++) _mm512_storeu_ps(x + i + 16 * q, v[q]);
      }
    }
  }
}
#else
void populora_gradient(const Weight *w, const float *y, int64_t count, float *x, void *room, int32_t wanted)
{
  (void)w, (void)y, (void)count, (void)x, (void)room, (void)wanted;
}
#endif
const int32_t populora_has_gradient = HAS_GRADIENT;
#endif

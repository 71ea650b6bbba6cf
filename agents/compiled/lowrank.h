/* Products with the factors of adapters, for up to BLOCK rows of one agent. */
#ifndef POPULORA_LOWRANK
#define POPULORA_LOWRANK
#include "vectors.h"

#define BLOCK 8   /* most rows of a task */
#define WIDTH 768 /* most rows of A: their ranks together */
#define TOGETHER (LANES == 16 ? 3 : 1) /* registers of outputs of a row */

/* Keep a number in a register: GCC would read it from memory with each product, and run out of reads. */
#if defined(__x86_64__)
#define HOLD(value) __asm__("" : "+v"(value))
#else
#define HOLD(value)
#endif

/* down[r][k] = scale * x[r] . A[k], for n rows and `width` rows of A. */
INLINE void project(int n, const float *const *x, const float *A, int64_t in, int width, float scale,
                    float *down, int64_t down_step)
{
  const int at_once = LANES / n < 1 ? 1 : LANES / n > 4 ? 4 : LANES / n; /* rows of A */
  const int64_t whole = in - in % LANES;
  for (int k = 0; k < width; k += at_once) {
    const float *f[4];
    vec a[LANES > BLOCK * 4 ? LANES : BLOCK * 4];
    for (int q = 0; q < at_once; q++) f[q] = A + (k + q < width ? k + q : k) * in;
    for (int i = 0; i < at_once * n; i++) a[i] = (vec){0};
    for (int64_t i = 0; i < whole; i += LANES) {
      vec g[4];
      for (int q = 0; q < at_once; q++) {
        g[q] = load(f[q] + i);
        HOLD(g[q]);
      }
      for (int r = 0; r < n; r++) {
        vec v = load(x[r] + i);
        HOLD(v);
        for (int q = 0; q < at_once; q++) a[q * n + r] += v * g[q];
      }
    }
    float made[LANES];
    if (at_once * n <= LANES) {
      for (int i = at_once * n; i < LANES; i++) a[i] = (vec){0};
      store(made, sums(a));
    } else
      for (int i = 0; i < at_once * n; i++) made[i] = total(a[i]);
    for (int q = 0; q < at_once && k + q < width; q++)
      for (int r = 0; r < n; r++) {
        float sum = made[q * n + r];
        for (int64_t i = whole; i < in; i++) sum += x[r][i] * f[q][i];
        down[r * down_step + k + q] = scale * sum;
      }
  }
}

/* y[r] += down[r] B, for n rows and columns [0, out) of B. */
INLINE void expand(int n, float *const *y, const float *B, int64_t B_row, int64_t out, int rank,
                   const float *down, int64_t down_step)
{
  int64_t j = 0;
  for (; j + TOGETHER * LANES <= out; j += TOGETHER * LANES) {
    vec a[BLOCK][TOGETHER];
    for (int r = 0; r < n; r++)
      for (int v = 0; v < TOGETHER; v++) a[r][v] = load(y[r] + j + v * LANES);
    for (int k = 0; k < rank; k++) {
      vec f[TOGETHER];
      for (int v = 0; v < TOGETHER; v++) {
        f[v] = load(B + k * B_row + j + v * LANES);
        HOLD(f[v]);
      }
      for (int r = 0; r < n; r++) {
        vec d = all(down[r * down_step + k]);
        HOLD(d);
        for (int v = 0; v < TOGETHER; v++) a[r][v] += d * f[v];
      }
    }
    for (int r = 0; r < n; r++)
      for (int v = 0; v < TOGETHER; v++) store(y[r] + j + v * LANES, a[r][v]);
  }
  for (; j + LANES <= out; j += LANES) {
    vec a[BLOCK];
    for (int r = 0; r < n; r++) a[r] = load(y[r] + j);
    for (int k = 0; k < rank; k++) {
      vec f = load(B + k * B_row + j);
      for (int r = 0; r < n; r++) a[r] += down[r * down_step + k] * f;
    }
    for (int r = 0; r < n; r++) store(y[r] + j, a[r]);
  }
  for (; j < out; j++)
    for (int r = 0; r < n; r++) {
      float sum = y[r][j];
      for (int k = 0; k < rank; k++) sum += down[r * down_step + k] * B[k * B_row + j];
      y[r][j] = sum;
    }
}
#endif

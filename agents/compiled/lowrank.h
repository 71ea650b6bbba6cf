/* Products with the factors of adapters, for up to BLOCK rows of one agent. */
#ifndef POPULORA_LOWRANK
#define POPULORA_LOWRANK
#include "vectors.h"

#define BLOCK 8   /* most rows of a task */
#define WIDTH 768 /* most rows of A: their ranks together */

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
      for (int q = 0; q < at_once; q++) g[q] = load(f[q] + i);
      for (int r = 0; r < n; r++) {
        const vec v = load(x[r] + i);
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
  for (; j + 2 * LANES <= out; j += 2 * LANES) {
    vec a[BLOCK], b[BLOCK];
    for (int r = 0; r < n; r++) {
      a[r] = load(y[r] + j);
      b[r] = load(y[r] + j + LANES);
    }
    for (int k = 0; k < rank; k++) {
      vec f = load(B + k * B_row + j), g = load(B + k * B_row + j + LANES);
      for (int r = 0; r < n; r++) {
        float d = down[r * down_step + k];
        a[r] += d * f;
        b[r] += d * g;
      }
    }
    for (int r = 0; r < n; r++) {
      store(y[r] + j, a[r]);
      store(y[r] + j + LANES, b[r]);
    }
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

/* Products of low-rank factors on a CPU. Float32, row-major.
 *
 * `agents/compiled/native.py` compiles this file and describes the arguments.
 */
#include "lowrank.h"

#if LANES == 8
#define SIDE 3 /* of a tile of sums that stay in registers */
#else
#define SIDE 4
#endif
#define LAYERS 3 /* most layers that read one input */

typedef struct {
  const float *A; /* [N, layers * rank, in] */
  int64_t A_step, in;
  const float *B[LAYERS]; /* each [N, rank, out] */
  int64_t B_step[LAYERS], out[LAYERS];
  int32_t layers, rank;
} Group;

typedef struct {
  const int32_t *tasks; /* agent, first place, rows */
  const int32_t *order; /* row at each place */
  const float *scale;   /* of each agent */
  int32_t count, threads;
} Plan;

const int32_t populora_block = BLOCK, populora_layers = LAYERS, populora_width = WIDTH;

/* y += scale * B A x, each row by its agent, for all layers that read x.
 *
 * Rows are taken up to BLOCK at a time, and every factor is read once for each block. What is computed
 * for a row does not depend on which rows are computed with it.
 */
void populora_update(const Group *group, const Plan *plan, const float *x, float *y0, float *y1,
                     float *y2)
{
  float *const outputs[LAYERS] = {y0, y1, y2};
  const int rank = group->rank, width = group->layers * rank;
#pragma omp parallel for schedule(static) num_threads(plan->threads)
  for (int t = 0; t < plan->count; t++) {
    const int32_t *task = plan->tasks + 3 * t, *places = plan->order + task[1];
    const int64_t agent = task[0];
    const float scale = plan->scale[agent], *A = group->A + agent * group->A_step;
    const float *rows[BLOCK];
    float down[BLOCK * WIDTH];
    for (int r = 0; r < task[2]; r++) rows[r] = x + places[r] * group->in;
#define CALL(n) project(n, rows, A, group->in, width, scale, down, width)
    FOR_ROWS(task[2], CALL)
#undef CALL
    for (int layer = 0; layer < group->layers; layer++) {
      const float *B = group->B[layer] + agent * group->B_step[layer];
      const int64_t out = group->out[layer];
      float *sums[BLOCK];
      for (int r = 0; r < task[2]; r++) sums[r] = outputs[layer] + places[r] * out;
#define CALL(n) expand(n, sums, B, out, out, rank, down + layer * rank, width)
      FOR_ROWS(task[2], CALL)
#undef CALL
    }
  }
}

typedef double wide __attribute__((vector_size(LANES * 4)));
typedef float narrow __attribute__((vector_size(LANES * 2), aligned(4), may_alias));

/* out[m] = rows[m] rows[m]^T in float64, of count matrices [k, n] given by the addresses of rows. */
void populora_gram(const float *const *rows, double *out, int64_t count, int64_t k, int64_t n,
                   int32_t threads)
{
  const int64_t step = LANES / 2, whole = n - n % step;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t m = 0; m < count; m++) {
    const float *const *const matrix = rows + m * k;
    double *const gram = out + m * k * k;
    for (int64_t i = 0; i < k; i += SIDE)
      for (int64_t j = i; j < k; j += SIDE) {
        const float *left[SIDE], *right[SIDE];
        for (int a = 0; a < SIDE; a++) { /* past the end: the last row again, not stored */
          left[a] = matrix[i + a < k ? i + a : k - 1];
          right[a] = matrix[j + a < k ? j + a : k - 1];
        }
        wide sums[SIDE][SIDE];
        for (int a = 0; a < SIDE; a++)
          for (int b = 0; b < SIDE; b++) sums[a][b] = (wide){0};
        for (int64_t p = 0; p < whole; p += step) {
          wide x[SIDE];
          for (int a = 0; a < SIDE; a++)
            x[a] = __builtin_convertvector(*(const narrow *)(left[a] + p), wide);
          for (int b = 0; b < SIDE; b++) {
            wide y = __builtin_convertvector(*(const narrow *)(right[b] + p), wide);
            for (int a = 0; a < SIDE; a++) sums[a][b] += x[a] * y;
          }
        }
        for (int a = 0; a < SIDE && i + a < k; a++)
          for (int b = 0; b < SIDE && j + b < k; b++) {
            double sum = 0;
            for (int64_t p = whole; p < n; p++) sum += (double)left[a][p] * right[b][p];
            for (int64_t p = 0; p < step; p++) sum += sums[a][b][p];
            gram[(i + a) * k + j + b] = gram[(j + b) * k + i + a] = sum;
          }
      }
  }
}

/* made[q] = sum over p of weights[q][p] rows[p], for c rows of length n. */
static inline __attribute__((always_inline)) void combine(
    int c, const float *const *rows, const float *weights, int64_t k, int64_t n, float *made)
{
  int64_t j = 0;
  for (; j + 2 * LANES <= n; j += 2 * LANES) {
    vec a[BLOCK], b[BLOCK];
    for (int q = 0; q < c; q++) a[q] = b[q] = (vec){0};
    for (int64_t p = 0; p < k; p++) {
      vec f = load(rows[p] + j), g = load(rows[p] + j + LANES);
      for (int q = 0; q < c; q++) {
        float d = weights[q * k + p];
        a[q] += d * f;
        b[q] += d * g;
      }
    }
    for (int q = 0; q < c; q++) {
      store(made + q * n + j, a[q]);
      store(made + q * n + j + LANES, b[q]);
    }
  }
  for (; j < n; j++)
    for (int q = 0; q < c; q++) {
      float sum = 0;
      for (int64_t p = 0; p < k; p++) sum += weights[q * k + p] * rows[p][j];
      made[q * n + j] = sum;
    }
}

/* out[m] = weights[m] [r, k] rows[m] [k, n], of sets of `each` matrices, given by addresses. What a set
 * reads may be what it writes: it is written when all of the set is made, in room [each, r, n]. */
void populora_mix(const float *const *rows, const float *weights, float *const *out, int64_t sets,
                  int64_t each, int64_t r, int64_t k, int64_t n, float *room)
{
  for (int64_t set = 0; set < sets; set++) {
    for (int64_t c = 0; c < each; c++) {
      const int64_t m = set * each + c;
      for (int64_t q = 0; q < r; q += BLOCK) {
        const float *const some = weights + (m * r + q) * k;
        float *const made = room + (c * r + q) * n;
#define CALL(c) combine(c, rows + m * k, some, k, n, made)
        FOR_ROWS(r - q, CALL)
#undef CALL
      }
    }
    for (int64_t c = 0; c < each; c++)
      memcpy(out[set * each + c], room + c * r * n, sizeof(float) * r * n);
  }
}

/* out[i] = table[16 bits of draw i], four to a number of SplitMix64 (Steele et al., 2014) whose state
 * began at seed and was advanced `first` times. */
void populora_look_up(float *out, int64_t count, uint64_t seed, uint64_t first, const float *table)
{
  for (int64_t i = 0; i < count; i += 4) {
    uint64_t z = seed + (first + i / 4 + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    if (i + 4 <= count) {
      out[i] = table[z & 0xFFFF];
      out[i + 1] = table[z >> 16 & 0xFFFF];
      out[i + 2] = table[z >> 32 & 0xFFFF];
      out[i + 3] = table[z >> 48];
    } else
      for (int q = 0; i + q < count; q++) out[i + q] = table[z >> 16 * q & 0xFFFF];
  }
}

/* Attention of single tokens to the keys of their rows, several query heads of one key head at a time.
 *
 * Keys stand in blocks of LANES: in a block, what one dimension of all its keys is stands together, so
 * that a block's scores are sums with a key in each lane. In bfloat16 two dimensions stand side by side,
 * and so do the values of two keys, as the instruction takes them.
 */
#ifndef POPULORA_ATTENTION
#define POPULORA_ATTENTION
#include "products.h"

#define HEADS (LANES == 16 ? 4 : 2) /* query heads at a time */
#define SPAN 4                      /* registers of values at a time */

typedef struct {
  int64_t width;   /* of a head, a multiple of LANES */
  int64_t heads;   /* of queries that share a key */
  int32_t halved;  /* whether keys and values are bfloat16; never without HAS_BFLOAT16 */
} Shape;

#define FOR_HEADS(n, CALL)                                                                         \
  switch (n) {                                                                                     \
    case 1: CALL(1); break;                                                                        \
    case 2: CALL(2); break;                                                                        \
    case 3: CALL(3 > HEADS ? HEADS : 3); break;                                                    \
    default: CALL(HEADS);                                                                          \
  }

static inline uint16_t halve(float x)
{
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return bits >> 16 | 0x40;
  return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

/* Keep a token's key and value, each `width` numbers. `last`: whether its row has no later token yet. */
static void keep(const Shape *s, const float *key, const float *value, void *keys, void *values,
                 int64_t position, int last)
{
  const int64_t block = position / LANES * LANES * s->width, lane = position % LANES;
  if (!s->halved) {
    for (int64_t d = 0; d < s->width; d++) ((float *)keys)[block + d * LANES + lane] = key[d];
    memcpy((float *)values + position * s->width, value, s->width * sizeof(float));
    return;
  }
  uint16_t *to = (uint16_t *)keys + block + 2 * lane;
  for (int64_t d = 0; d < s->width; d += 2) {
    to[d * LANES] = halve(key[d]);
    to[d * LANES + 1] = halve(key[d + 1]);
  }
  to = (uint16_t *)values + position / 2 * 2 * s->width + position % 2;
  for (int64_t d = 0; d < s->width; d++) {
    to[2 * d] = halve(value[d]);
    if (last && position % 2 == 0) to[2 * d + 1] = 0; /* what stood there is multiplied by 0 */
  }
}

/* scores[h][j] = queries[h] . key j, for two blocks at a time. */
INLINE void score_float32(int n, const Shape *s, const float *queries, const float *keys, int64_t blocks,
                          int64_t ahead, float *scores, int64_t step)
{
  const int64_t w = s->width;
  for (int64_t b = 0; b < blocks; b += 2, keys += 2 * LANES * w) {
    vec one[HEADS], two[HEADS];
    for (int h = 0; h < n; h++) one[h] = two[h] = (vec){0};
    for (int64_t d = 0; d < w; d++) {
      const vec f = load(keys + d * LANES), g = load(keys + (w + d) * LANES);
      FETCH_LATER((const char *)(keys + d * LANES) + ahead);
      FETCH_LATER((const char *)(keys + (w + d) * LANES) + ahead);
      for (int h = 0; h < n; h++) {
        one[h] += queries[h * w + d] * f;
        two[h] += queries[h * w + d] * g;
      }
    }
    for (int h = 0; h < n; h++) {
      store(scores + h * step + b * LANES, one[h]);
      store(scores + h * step + (b + 1) * LANES, two[h]);
    }
  }
}

/* out[h] = sum over count keys of shares[h][j] value j. */
INLINE void gather_float32(int n, const Shape *s, const float *shares, int64_t step, const float *values,
                           int64_t count, int64_t ahead, float *out)
{
  for (int64_t d = 0; d < s->width; d += SPAN * LANES) {
    const int wide = s->width - d < SPAN * LANES ? (s->width - d) / LANES : SPAN;
    vec a[HEADS][SPAN];
    for (int h = 0; h < n; h++)
      for (int v = 0; v < SPAN; v++) a[h][v] = (vec){0};
    const float *from = values + d;
    for (int64_t j = 0; j < count; j++, from += s->width) {
      vec f[SPAN];
      for (int v = 0; v < SPAN; v++) {
        f[v] = v < wide ? load(from + v * LANES) : (vec){0};
        FETCH_LATER((const char *)(from + v * LANES) + ahead);
      }
      for (int h = 0; h < n; h++)
        for (int v = 0; v < SPAN; v++) a[h][v] += shares[h * step + j] * f[v];
    }
    for (int h = 0; h < n; h++)
      for (int v = 0; v < wide; v++) store(out + h * s->width + d + v * LANES, a[h][v]);
  }
}

#if HAS_BFLOAT16
INLINE void score_bfloat16(int n, const Shape *s, const float *queries, const uint16_t *keys,
                           int64_t blocks, int64_t ahead, float *scores, int64_t step)
{
  const int64_t w = s->width;
  int32_t pairs[HEADS * 128];
  for (int i = 0; i < n * w; i += 16)
    _mm256_storeu_si256((__m256i *)((uint16_t *)pairs + i),
                        (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(queries + i)));
  for (int64_t b = 0; b < blocks; b += 2, keys += 32 * w) {
    __m512 one[HEADS], two[HEADS];
    for (int h = 0; h < n; h++) one[h] = two[h] = _mm512_setzero_ps();
    for (int64_t d = 0; d < w / 2; d++) {
      const __m512bh f = (__m512bh)_mm512_loadu_si512(keys + d * 32);
      const __m512bh g = (__m512bh)_mm512_loadu_si512(keys + (w / 2 + d) * 32);
      FETCH_LATER((const char *)(keys + d * 32) + ahead);
      FETCH_LATER((const char *)(keys + (w / 2 + d) * 32) + ahead);
      for (int h = 0; h < n; h++) {
        const __m512bh q = (__m512bh)_mm512_set1_epi32(pairs[h * w / 2 + d]);
        one[h] = _mm512_dpbf16_ps(one[h], f, q);
        two[h] = _mm512_dpbf16_ps(two[h], g, q);
      }
    }
    for (int h = 0; h < n; h++) {
      _mm512_storeu_ps(scores + h * step + b * 16, one[h]);
      _mm512_storeu_ps(scores + h * step + b * 16 + 16, two[h]);
    }
  }
}

INLINE void gather_bfloat16(int n, const Shape *s, float *shares, int64_t step, const uint16_t *values,
                            int64_t count, int64_t ahead, float *out)
{
  for (int h = 0; h < n; h++) /* in place: the halves are written behind where they are read */
    for (int64_t j = 0; j < count; j += 16)
      _mm256_storeu_si256((__m256i *)((uint16_t *)(shares + h * step) + j),
                          (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(shares + h * step + j)));
  for (int64_t d = 0; d < s->width; d += SPAN * 16) {
    const int wide = s->width - d < SPAN * 16 ? (s->width - d) / 16 : SPAN;
    __m512 a[HEADS][SPAN];
    for (int h = 0; h < n; h++)
      for (int v = 0; v < SPAN; v++) a[h][v] = _mm512_setzero_ps();
    const uint16_t *from = values + 2 * d;
    for (int64_t j = 0; j < count; j += 2, from += 2 * s->width) {
      __m512bh f[SPAN];
      for (int v = 0; v < SPAN; v++) {
        f[v] = (__m512bh)(v < wide ? _mm512_loadu_si512(from + v * 32) : _mm512_setzero_si512());
        FETCH_LATER((const char *)(from + v * 32) + ahead);
      }
      for (int h = 0; h < n; h++) {
        const __m512bh p = (__m512bh)_mm512_set1_epi32(((const int32_t *)(shares + h * step))[j / 2]);
        for (int v = 0; v < SPAN; v++) a[h][v] = _mm512_dpbf16_ps(a[h][v], f[v], p);
      }
    }
    for (int h = 0; h < n; h++)
      for (int v = 0; v < wide; v++) _mm512_storeu_ps(out + h * s->width + d + v * 16, a[h][v]);
  }
}
#endif

/* Scores become shares that sum to 1; those of keys past `count` become 0. */
static void soften(float *scores, int64_t count)
{
  vec lanes;
  for (int i = 0; i < LANES; i++) lanes[i] = i;
  const int64_t end = (count + 2 * LANES - 1) / (2 * LANES) * 2 * LANES;
  for (int64_t j = count - count % LANES; j < end; j += LANES) {
    const ivec in = lanes < all((float)(count - j));
    store(scores + j, (vec)(((ivec)load(scores + j) & in) | ((ivec)all(-3.4e38f) & ~in)));
  }
  share_out(scores, end);
}

/* One token's attention: `heads` queries [heads, width], already scaled, to the first `count` keys.
 * What is read next, so many bytes further, is fetched meanwhile. */
static void attend(const Shape *s, const float *queries, const void *keys, const void *values,
                   int64_t count, int64_t ahead, float *scores, int64_t step, float *out)
{
  const int64_t blocks = (count + LANES - 1) / LANES;
  for (int64_t first = 0; first < s->heads; first += HEADS) {
    const int n = s->heads - first < HEADS ? s->heads - first : HEADS;
    const float *q = queries + first * s->width;
    float *made = out + first * s->width;
#define CALL(n) score_float32(n, s, q, keys, blocks, ahead, scores, step)
    if (!s->halved) FOR_HEADS(n, CALL)
#undef CALL
#if HAS_BFLOAT16
#define CALL(n) score_bfloat16(n, s, q, keys, blocks, ahead, scores, step)
    if (s->halved) FOR_HEADS(n, CALL)
#undef CALL
#endif
    for (int h = 0; h < n; h++) soften(scores + h * step, count);
#define CALL(n) gather_float32(n, s, scores, step, values, count, ahead, made)
    if (!s->halved) FOR_HEADS(n, CALL)
#undef CALL
#if HAS_BFLOAT16
#define CALL(n) gather_bfloat16(n, s, scores, step, values, count, ahead, made)
    if (s->halved) FOR_HEADS(n, CALL)
#undef CALL
#endif
  }
}
#endif

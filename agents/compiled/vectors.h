/* Vectors of float32 as wide as this processor's registers, and what is done with them. */
#ifndef POPULORA_VECTORS
#define POPULORA_VECTORS
#include <stdint.h>
#include <string.h>

/* Ask for memory that is read next, or a little later; any address may be asked for. */
#define FETCH(address) __builtin_prefetch(address, 0, 3)
#define FETCH_LATER(address) __builtin_prefetch(address, 0, 2)
#define LINE 64 /* bytes that are fetched at once */

#define INLINE static inline __attribute__((always_inline))

/* What two vectors of groups of partial sums are added up by: LOW takes the first half of each of their
 * groups, HIGH the second. A sum of lanes is the same whether one vector is added up or many at once. */
#if defined(__AVX512F__)
#define LANES 16 /* numbers in a register */
#define LOW_1 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
#define HIGH_1 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31
#define LOW_2 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27
#define HIGH_2 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31
#define LOW_3 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29
#define HIGH_3 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31
#define LOW_4 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define HIGH_4 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#elif defined(__AVX__)
#define LANES 8
#define LOW_1 0, 1, 2, 3, 8, 9, 10, 11
#define HIGH_1 4, 5, 6, 7, 12, 13, 14, 15
#define LOW_2 0, 1, 4, 5, 8, 9, 12, 13
#define HIGH_2 2, 3, 6, 7, 10, 11, 14, 15
#define LOW_3 0, 2, 4, 6, 8, 10, 12, 14
#define HIGH_3 1, 3, 5, 7, 9, 11, 13, 15
#else
#define LANES 4
#define LOW_1 0, 1, 4, 5
#define HIGH_1 2, 3, 6, 7
#define LOW_2 0, 2, 4, 6
#define HIGH_2 1, 3, 5, 7
#endif

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef int32_t ivec __attribute__((vector_size(LANES * 4)));
typedef float unaligned __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

INLINE vec load(const float *from) { return (vec) * (const unaligned *)from; }

INLINE void store(float *to, vec value) { *(unaligned *)to = (unaligned)value; }

INLINE vec all(float value) { return value - (vec){0}; }

INLINE vec larger(vec a, vec b)
{
  const ivec first = a > b;
  return (vec)(((ivec)a & first) | ((ivec)b & ~first));
}

#define LOWER(a, b, step) __builtin_shuffle(a, b, (ivec){LOW_##step})
#define HIGHER(a, b, step) __builtin_shuffle(a, b, (ivec){HIGH_##step})
#define SUM(a, b, step) (LOWER(a, b, step) + HIGHER(a, b, step))
#define LARGER(a, step) larger(LOWER(a, a, step), HIGHER(a, a, step))

/* The sums of each of LANES vectors. */
INLINE vec sums(vec *a)
{
  for (int i = 0; i < LANES / 2; i++) a[i] = SUM(a[2 * i], a[2 * i + 1], 1);
  for (int i = 0; i < LANES / 4; i++) a[i] = SUM(a[2 * i], a[2 * i + 1], 2);
#if LANES > 4
  for (int i = 0; i < LANES / 8; i++) a[i] = SUM(a[2 * i], a[2 * i + 1], 3);
#endif
#if LANES > 8
  a[0] = SUM(a[0], a[1], 4);
#endif
  return a[0];
}

INLINE float total(vec a)
{
  a = SUM(a, a, 1);
  a = SUM(a, a, 2);
#if LANES > 4
  a = SUM(a, a, 3);
#endif
#if LANES > 8
  a = SUM(a, a, 4);
#endif
  return a[0];
}

INLINE float largest(vec a)
{
  a = LARGER(a, 1);
  a = LARGER(a, 2);
#if LANES > 4
  a = LARGER(a, 3);
#endif
#if LANES > 8
  a = LARGER(a, 4);
#endif
  return a[0];
}

/* e to the power of each, to a unit in the last place; 0 below -87, the value at 88 above it. */
INLINE vec exponential(vec x)
{
  const vec magic = all(12582912.0f); /* 1.5 * 2^23: what is added to it is rounded to a whole number */
  const ivec under = x < all(-87.0f);
  x = -larger(-larger(x, all(-87.0f)), all(-88.0f));
  const vec turned = x * 1.44269504f + magic, n = turned - magic;
  vec r = x - n * 0.693145752f; /* ln 2 in two parts */
  r = r - n * 1.42860677e-6f;
  vec p = all(1.98756915e-4f);
  p = p * r + 1.39819994e-3f;
  p = p * r + 8.33345205e-3f;
  p = p * r + 4.16657962e-2f;
  p = p * r + 0.166666655f;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.0f;
  const ivec power = ((ivec)turned - (ivec)magic + 127) << 23;
  return (vec)((ivec)(p * (vec)power) & ~under);
}

/* Scores up to `end`, a multiple of LANES, become shares that sum to 1. */
static inline void share_out(float *scores, int64_t end)
{
  vec most = all(-3.4e38f), sum = {0};
  for (int64_t j = 0; j < end; j += LANES) most = larger(load(scores + j), most);
  most = all(largest(most));
  for (int64_t j = 0; j < end; j += LANES) {
    const vec share = exponential(load(scores + j) - most);
    sum += share;
    store(scores + j, share);
  }
  const vec times = all(1.0f / total(sum));
  for (int64_t j = 0; j < end; j += LANES) store(scores + j, load(scores + j) * times);
}

/* A constant number of rows keeps their sums in registers. */
#define FOR_ROWS(n, CALL)                                                                          \
  switch (n) {                                                                                     \
    case 1: CALL(1); break;                                                                        \
    case 2: CALL(2); break;                                                                        \
    case 3: CALL(3); break;                                                                        \
    case 4: CALL(4); break;                                                                        \
    case 5: CALL(5); break;                                                                        \
    case 6: CALL(6); break;                                                                        \
    case 7: CALL(7); break;                                                                        \
    default: CALL(8);                                                                              \
  }
#endif

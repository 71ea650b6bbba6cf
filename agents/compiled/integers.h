/* Products of rows with a frozen weight in int8: the row's integers, and exact sums in 32 bits.
 *
 * AVX-512 VNNI takes four inputs at once. AVX2 takes two, as integers of 16 bits: its instruction for 8
 * adds pairs in 16, where large products are cut off. The sums are the same integers.
 */
#ifndef POPULORA_INTEGERS
#define POPULORA_INTEGERS

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define HAS_INT8 1
#define AT_ONCE 4   /* inputs that one instruction takes */
#define INT8_BYTES 1 /* of a row's number */
#elif LANES == 8 && defined(__AVX2__)
#define HAS_INT8 1
#define AT_ONCE 2
#define INT8_BYTES 2
#else
#define HAS_INT8 0
#define AT_ONCE 4
#define INT8_BYTES 1
#endif

#if HAS_INT8 && LANES == 16
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

static void prepare_int8(const float *x, int64_t in, void *row, float *scale, int32_t *shift)
{
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

#if HAS_INT8 && LANES == 8
/* Add each number to the one `apart` lanes on, and take it from that. */
#define APART(v, from, signs) (__builtin_shuffle(v, (ivec)from) + (vec)((ivec)(v) ^ ((ivec)signs << 31)))
#define LIST(...) {__VA_ARGS__}
/* As above, on eight registers. */
INLINE void spin(vec *v)
{
  for (int q = 0; q < 8; q++) {
    v[q] = APART(v[q], LIST(1, 0, 3, 2, 5, 4, 7, 6), LIST(0, 1, 0, 1, 0, 1, 0, 1));
    v[q] = APART(v[q], LIST(2, 3, 0, 1, 6, 7, 4, 5), LIST(0, 0, 1, 1, 0, 0, 1, 1));
    v[q] = APART(v[q], LIST(4, 5, 6, 7, 0, 1, 2, 3), LIST(0, 0, 0, 0, 1, 1, 1, 1));
  }
  for (int apart = 1; apart < 8; apart *= 2)
    for (int q = 0; q < 8; q++)
      if (!(q & apart)) {
        const vec one = v[q], other = v[q + apart];
        v[q] = one + other, v[q + apart] = one - other;
      }
}

static void prepare_int8(const float *x, int64_t in, void *row, float *scale, int32_t *shift)
{
  const int64_t whole = (in + 63) / 64 * 64;
  float spun[whole];
  memcpy(spun, x, in * sizeof(float));
  memset(spun + in, 0, (whole - in) * sizeof(float));
  vec most = {0}, bad = {0};
  for (int64_t i = 0; i < whole; i += 64) {
    vec v[8];
    for (int q = 0; q < 8; q++) v[q] = load(spun + i + 8 * q);
    if (in % 64 == 0) spin(v);
    for (int q = 0; q < 8; q++) {
      most = larger((vec)((ivec)v[q] & 0x7FFFFFFF), most);
      bad += v[q] * 0.0f; /* NaN if one is not finite */
      store(spun + i + 8 * q, v[q]);
    }
  }
  const float m = largest(most), none = total(bad);
  const vec times = all(m > 0x1p-100f && none == 0 ? 127.0f / m : 0.0f);
  ivec sum = {0};
  for (int64_t i = 0; i < whole; i += 16) {
    const __m256i a = _mm256_cvtps_epi32((__m256)(load(spun + i) * times));
    const __m256i b = _mm256_cvtps_epi32((__m256)(load(spun + i + 8) * times));
    sum += (ivec)a + (ivec)b;
    const __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xD8);
    _mm256_storeu_si256((__m256i *)((int16_t *)row + i), both);
  }
  *scale = m / 127.0f + none;
  *shift = 0;
  for (int i = 0; i < 8; i++) *shift += 128 * sum[i];
}

/* Written out as above: ymm0 to 11 hold the sums. */
#define SUMS_OF_ROW(from, a, b)                                                                    \
  "vpbroadcastd " from ", %%ymm14\n\tvpmaddwd %%ymm12, %%ymm14, %%ymm15\n\t"                        \
  "vpmaddwd %%ymm13, %%ymm14, %%ymm14\n\tvpaddd %%ymm15, %%ymm" #a ", %%ymm" #a                      \
  "\n\tvpaddd %%ymm14, %%ymm" #b ", %%ymm" #b "\n\t"
#define SUMS_1 SUMS_OF_ROW("(%[x])", 0, 1)
#define SUMS_2 SUMS_1 SUMS_OF_ROW("(%[x],%[step])", 2, 3)
#define SUMS_3 SUMS_2 SUMS_OF_ROW("(%[x],%[step],2)", 4, 5)
#define SUMS_4 SUMS_3 SUMS_OF_ROW("(%[y])", 6, 7)
#define SUMS_5 SUMS_4 SUMS_OF_ROW("(%[y],%[step])", 8, 9)
#define SUMS_6 SUMS_5 SUMS_OF_ROW("(%[y],%[step],2)", 10, 11)
#define CLEAR_ROW(a, b)                                                                            \
  "vpxor %%ymm" #a ", %%ymm" #a ", %%ymm" #a "\n\tvpxor %%ymm" #b ", %%ymm" #b ", %%ymm" #b "\n\t"
#define STORE_ROW(a, b)                                                                            \
  "vmovdqu %%ymm" #a ", " #a "*32(%[made])\n\tvmovdqu %%ymm" #b ", " #b "*32(%[made])\n\t"
#define ALL_ROWS(EACH) EACH(0, 1) EACH(2, 3) EACH(4, 5) EACH(6, 7) EACH(8, 9) EACH(10, 11)
#define SUM_INT8(n)                                                                                \
  static void int8_##n(const void *x, int64_t step, const void *p, int64_t in, float *made)        \
  {                                                                                                \
    const char *y = (const char *)x + 12 * step;                                                   \
    int64_t twos = (in + 1) / 2;                                                                   \
    __asm__ volatile(ALL_ROWS(CLEAR_ROW)                                                           \
      "1:\n\tvpmovzxbw (%[p]), %%ymm12\n\tvpmovzxbw 16(%[p]), %%ymm13\n\t" SUMS_##n                  \
      "add $32, %[p]\n\tadd $4, %[x]\n\tadd $4, %[y]\n\tdec %[twos]\n\tjnz 1b\n\t"                   \
      ALL_ROWS(STORE_ROW)                                                                          \
      : [x] "+r"(x), [y] "+r"(y), [p] "+r"(p), [twos] "+r"(twos)                                   \
      : [step] "r"(4 * step), [made] "r"(made)                                                     \
      : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",     \
        "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");                             \
  }
SUM_INT8(1) SUM_INT8(2) SUM_INT8(3) SUM_INT8(4) SUM_INT8(5) SUM_INT8(6)
#endif
#endif

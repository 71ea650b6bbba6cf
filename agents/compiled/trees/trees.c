/* Attention, and its gradients, in rows whose places form a tree: a place looks at its ancestors alone.
 *
 * A row is cut into segments: places that follow each other and see, besides one another, the same
 * ancestors. Those stand in a few spans of the row. So a segment's attention is a few small products
 * with keys and values where they stand, and nothing is computed that a mask would hide. A place's
 * numbers depend on its ancestors alone, to the last bit: not on the rest of the row, nor on the threads.
 */
#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "../vectors.h"

#if LANES == 16
#define WIDE 4 /* registers of a row's sums */
#else
#define WIDE 2
#endif
#define TALL 6   /* rows whose sums stay in registers */
#define TOKENS 48 /* of a segment that are taken at once */

typedef struct {
  int64_t rows, places, heads, key_heads, width;
  const int32_t *firsts;   /* of each row: its first segment, [rows + 1] */
  const int32_t *segments; /* first and past place, [segments, 2] */
  const int32_t *begins;   /* of each segment: its first span, [segments + 1] */
  const int32_t *spans;    /* of ancestors: first and past place, in their order, [spans, 2] */
  float scale;
  int32_t threads;
} Tree;

/* [row, head, place, width] as it lies in memory; the last is dense. */
typedef struct {
  float *data;
  int64_t row, head, place;
} Heads;

INLINE float *at(const Heads *h, int64_t row, int64_t head, int64_t place)
{
  return h->data + row * h->row + head * h->head + place * h->place;
}

/* n rows of c (+)= a b, w registers of them; a's entries are a_row and a_deep apart. */
INLINE void tile(int n, int w, const float *a, int64_t a_row, int64_t a_deep, const float *b, int64_t b_row,
                 int64_t deep, int add, float *c, int64_t c_row)
{
  vec sums[TALL][WIDE];
  for (int r = 0; r < n; r++)
    for (int v = 0; v < w; v++) sums[r][v] = add ? load(c + r * c_row + v * LANES) : (vec){0};
  for (int64_t k = 0; k < deep; k++) {
    vec f[WIDE];
    for (int v = 0; v < w; v++) f[v] = load(b + k * b_row + v * LANES);
    for (int r = 0; r < n; r++)
      for (int v = 0; v < w; v++) sums[r][v] += a[r * a_row + k * a_deep] * f[v];
  }
  for (int r = 0; r < n; r++)
    for (int v = 0; v < w; v++) store(c + r * c_row + v * LANES, sums[r][v]);
}

#define TILES(w)                                                                                   \
  switch (n) {                                                                                     \
    case 1: tile(1, w, x, a_row, a_deep, y, b_row, deep, add, z, c_row); break;                    \
    case 2: tile(2, w, x, a_row, a_deep, y, b_row, deep, add, z, c_row); break;                    \
    case 3: tile(3, w, x, a_row, a_deep, y, b_row, deep, add, z, c_row); break;                    \
    case 4: tile(4, w, x, a_row, a_deep, y, b_row, deep, add, z, c_row); break;                    \
    case 5: tile(5, w, x, a_row, a_deep, y, b_row, deep, add, z, c_row); break;                    \
    default: tile(6, w, x, a_row, a_deep, y, b_row, deep, add, z, c_row);                          \
  }

/* c [tall, wide] (+)= a [tall, deep] b [deep, wide]; whole registers are read and written. */
static void multiply(int64_t tall, int64_t wide, int64_t deep, const float *a, int64_t a_row, int64_t a_deep,
                     const float *b, int64_t b_row, int add, float *c, int64_t c_row)
{
  for (int64_t i = 0; i < tall; i += TALL) {
    const int n = tall - i < TALL ? tall - i : TALL;
    for (int64_t j = 0; j < wide; j += WIDE * LANES) {
      const float *x = a + i * a_row, *y = b + j;
      float *z = c + i * c_row + j;
      const int64_t left = (wide - j + LANES - 1) / LANES;
      switch (left < WIDE ? left : WIDE) {
        case 1: TILES(1) break;
#if WIDE == 4
        case 2: TILES(2) break;
        case 3: TILES(3) break;
#endif
        default: TILES(WIDE)
      }
    }
  }
}

/* to [width, places] = from [places, width]. */
static void turn(const Heads *from, int64_t row, int64_t head, int64_t places, int64_t width, float *to,
                 int64_t step)
{
  for (int64_t first = 0; first < places; first += LANES) { /* a line of `to` at a time */
    const int64_t past = first + LANES < places ? first + LANES : places;
    for (int64_t d = 0; d < width; d++)
      for (int64_t t = first; t < past; t++) to[d * step + t] = at(from, row, head, t)[d];
  }
}

/* Scores become shares: those of the first `count` sum to 1, the rest up to `end` are 0. */
static void soften(float *scores, int64_t count, int64_t end)
{
  const int64_t whole = (count + LANES - 1) / LANES * LANES;
  for (int64_t j = count; j < whole; j++) scores[j] = -INFINITY;
  share_out(scores, whole);
  for (int64_t j = whole; j < end; j += LANES) store(scores + j, (vec){0});
}

/* Tokens of a segment that are taken at once, and the keys they look at: spans in order, the last of
 * which they stand in themselves. */
typedef struct {
  int64_t first, count, spans, keys, step;
} Block;

/* The i-th span of a block: of ancestors, or its segment up to its own end. */
INLINE void span_of(const Tree *t, int64_t segment, const Block *b, int64_t i, int64_t *first, int64_t *past)
{
  const int32_t *span = t->spans + 2 * (t->begins[segment] + i);
  const int own = i == b->spans - 1;
  *first = own ? t->segments[2 * segment] : span[0];
  *past = own ? b->first + b->count : span[1];
}

/* made [count, keys] = q keysᵀ, `turned` being the keys [width, places]. */
static void look(const Tree *t, int64_t segment, const Block *b, const float *q, const float *turned,
                 int64_t turned_step, float *made)
{
  for (int64_t i = 0, from = 0, first, past; i < b->spans; i++, from += past - first) {
    span_of(t, segment, b, i, &first, &past);
    multiply(b->count, past - first, t->width, q, t->width, 1, turned + first, turned_step, 0, made + from,
             b->step);
  }
}

/* c [count, width] = shares [count, keys] · what stands at the keys' places. */
static void gather(const Tree *t, int64_t segment, const Block *b, const float *shares, const Heads *from,
                   int64_t row, int64_t head, float *c, int64_t c_row)
{
  for (int64_t i = 0, skip = 0, first, past; i < b->spans; i++, skip += past - first) {
    span_of(t, segment, b, i, &first, &past);
    multiply(b->count, t->width, past - first, shares + skip, b->step, 1, at(from, row, head, first),
             from->place, i > 0, c, c_row);
  }
}

/* Add sharesᵀ · x to what stands at the keys' places. */
static void scatter(const Tree *t, int64_t segment, const Block *b, const float *shares, const float *x,
                    int64_t x_row, const Heads *to, int64_t row, int64_t head)
{
  for (int64_t i = 0, skip = 0, first, past; i < b->spans; i++, skip += past - first) {
    span_of(t, segment, b, i, &first, &past);
    multiply(past - first, t->width, b->count, shares + skip, 1, b->step, x, x_row, 1,
             at(to, row, head, first), to->place);
  }
}

/* The shares of a block's tokens in their keys, [count, keys]; q: their queries, scaled. */
static void share(const Tree *t, int64_t segment, const Block *b, const float *q, const float *keys,
                  int64_t step, float *made)
{
  look(t, segment, b, q, keys, step, made);
  for (int64_t i = 0; i < b->count; i++)
    soften(made + i * b->step, b->keys - b->count + i + 1, b->step);
}

static void scaled(const Tree *t, const Heads *q, int64_t row, int64_t head, const Block *b, float *made)
{
  for (int64_t i = 0; i < b->count; i++)
    for (int64_t d = 0; d < t->width; d++)
      made[i * t->width + d] = at(q, row, head, b->first + i)[d] * t->scale;
}

/* What a thread needs: turned keys and values of a row, shares and their gradients of a block. */
static int64_t room(const Tree *t)
{
  const int64_t step = t->places + 2 * WIDE * LANES;
  return 2 * t->width * step + 2 * TOKENS * (step + t->width);
}

#define FOR_BLOCKS(row)                                                                            \
  for (int64_t s = t->firsts[row]; s < t->firsts[row + 1]; s++)                                    \
    for (int64_t from = t->segments[2 * s]; from < t->segments[2 * s + 1]; from += TOKENS)

INLINE Block block_of(const Tree *t, int64_t segment, int64_t from)
{
  const int64_t past = t->segments[2 * segment + 1], left = past - from;
  Block b = {.first = from, .count = left < TOKENS ? left : TOKENS};
  b.spans = t->begins[segment + 1] - t->begins[segment] + 1;
  for (int64_t i = 0, first, end; i < b.spans; i++) {
    span_of(t, segment, &b, i, &first, &end);
    b.keys += end - first;
  }
  b.step = (b.keys + LANES - 1) / LANES * LANES + WIDE * LANES;
  return b;
}

/* out = attention of queries to keys and values. */
void populora_tree_forward(const Tree *t, const Heads *queries, const Heads *keys, const Heads *values,
                           const Heads *out, float *rooms)
{
  const int64_t step = t->places + 2 * WIDE * LANES, group = t->heads / t->key_heads;
#pragma omp parallel for schedule(dynamic) collapse(2) num_threads(t->threads)
  for (int64_t row = 0; row < t->rows; row++)
    for (int64_t head = 0; head < t->heads; head++) {
      float *turned = rooms + omp_get_thread_num() * room(t), *shares = turned + 2 * t->width * step;
      float *q = shares + 2 * TOKENS * step;
      turn(keys, row, head / group, t->places, t->width, turned, step);
      FOR_BLOCKS(row) {
        const Block b = block_of(t, s, from);
        scaled(t, queries, row, head, &b, q);
        share(t, s, &b, q, turned, step, shares);
        gather(t, s, &b, shares, values, row, head / group, at(out, row, head, from), out->place);
      }
    }
}

/* Gradients of queries, and of keys and values for each head of queries, from that of the output; the
 * latter two begin with zeros. */
void populora_tree_backward(const Tree *t, const Heads *queries, const Heads *keys, const Heads *values,
                            const Heads *up, const Heads *queries_up, const Heads *keys_up,
                            const Heads *values_up, float *rooms)
{
  const int64_t step = t->places + 2 * WIDE * LANES, group = t->heads / t->key_heads;
#pragma omp parallel for schedule(dynamic) collapse(2) num_threads(t->threads)
  for (int64_t row = 0; row < t->rows; row++)
    for (int64_t head = 0; head < t->heads; head++) {
      float *turned = rooms + omp_get_thread_num() * room(t), *turned_values = turned + t->width * step;
      float *shares = turned_values + t->width * step, *apart = shares + TOKENS * step;
      float *q = apart + TOKENS * step, *g = q + TOKENS * t->width;
      turn(keys, row, head / group, t->places, t->width, turned, step);
      turn(values, row, head / group, t->places, t->width, turned_values, step);
      FOR_BLOCKS(row) {
        const Block b = block_of(t, s, from);
        scaled(t, queries, row, head, &b, q);
        for (int64_t i = 0; i < b.count; i++)
          memcpy(g + i * t->width, at(up, row, head, from + i), t->width * sizeof(float));
        share(t, s, &b, q, turned, step, shares);
        scatter(t, s, &b, shares, g, t->width, values_up, row, head);
        look(t, s, &b, g, turned_values, step, apart);
        for (int64_t i = 0; i < b.count; i++) { /* of scores: share * (its gradient - their mean) */
          const float *p = shares + i * b.step;
          float *d = apart + i * b.step;
          const int64_t whole = (b.keys + LANES - 1) / LANES * LANES;
          vec sum = {0};
          for (int64_t j = b.keys; j < whole; j++) d[j] = 0;
          for (int64_t j = 0; j < whole; j += LANES) sum += load(p + j) * load(d + j);
          const vec mean = all(total(sum));
          for (int64_t j = 0; j < whole; j += LANES) store(d + j, load(p + j) * (load(d + j) - mean));
        }
        scatter(t, s, &b, apart, q, t->width, keys_up, row, head);
        gather(t, s, &b, apart, keys, row, head / group, at(queries_up, row, head, from),
               queries_up->place);
        for (int64_t i = 0; i < b.count; i++)
          for (int64_t d = 0; d < t->width; d++) at(queries_up, row, head, from + i)[d] *= t->scale;
      }
    }
}

int64_t populora_tree_room(const Tree *t) { return room(t); }
const int32_t populora_tree_lanes = LANES;

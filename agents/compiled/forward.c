/* A pass of a frozen language model of Llama's kind, with the adapters of all agents, on a CPU.
 *
 * Tokens of any rows are given in one line, those of an agent one after the other. What is computed for
 * a token depends on its row alone, to the last bit: not on the tokens beside it, nor on the threads.
 * `agents/compiled/forward.py` describes the arguments.
 */
#include <math.h>
#include <omp.h>

#include "attention.h"
#include "gradients.h"
#include "lowrank.h"

#define WAIT _Pragma("omp barrier")
#define MERGED 3  /* most weights that read one input */
#define CHUNK 256 /* tokens that are taken at once: what is between two products stays in the cache */

typedef struct {
  Weight weight;
  int64_t offset;       /* of its outputs in a row */
  const float *B;       /* [N, rank, out]; NULL: no adapters */
  int64_t B_step, rank_offset;
} Part;

typedef struct {
  Part part[MERGED];
  int64_t in;
  const float *A; /* [N, ranks, in]; NULL: no adapters */
  int64_t A_step;
  int32_t parts, ranks, rank;
} Product;

typedef struct {
  Product attention, output, expansion, contraction;
  const float *norm, *second_norm, *query_norm, *key_norm; /* the latter two may be NULL */
} Layer;

typedef struct {
  const Layer *layers;
  const float *embedding, *norm;
  Product head;
  int64_t count, width, inner, vocabulary, heads, key_heads, head_width;
  float epsilon;
  int32_t precision;
} Model;

typedef struct {
  int64_t count; /* of tokens */
  const int32_t *ids, *slots, *positions, *agents;
  const float *scales;     /* of each agent */
  const float *cos, *sin;  /* [positions, head_width] */
  void *keys, *values;     /* [layers, slots, key_heads, capacity, head_width] */
  int64_t slots_held, capacity;
  float *hidden, *normal, *wide, *down; /* [count, ...]: width; in of any product; out of any; WIDTH */
  int64_t normal_step, wide_step;
  void *rows;
  float *row_scale;
  int32_t *row_shift;
  float *scores; /* [threads, HEADS, capacity] */
  const int32_t *wanted; /* tokens whose last state is wanted */
  int64_t wanted_count;
  float *states, *logits; /* [wanted, width]; [wanted, vocabulary] or NULL */
  int32_t threads;
} Batch;

/* A thread's share of count things: all but the last share are multiples of `unit`. */
#define SHARE(count, unit)                                                                         \
  const int64_t units = ((count) + (unit) - 1) / (unit), begin = units * me / threads * (unit),    \
                past = units * (me + 1) / threads * (unit), end = past < (count) ? past : (count)

/* How many tokens from one on belong to its agent, up to most. */
static inline int alike(const int32_t *agents, int64_t from, int64_t past, int most)
{
  int n = 1;
  while (n < most && from + n < past && agents[from + n] == agents[from]) n++;
  return n;
}

static void normalise(const float *x, const float *weight, int64_t width, float epsilon, float *out)
{
  vec squares = {0};
  int64_t i = 0;
  for (; i + LANES <= width; i += LANES) squares += load(x + i) * load(x + i);
  float sum = total(squares);
  for (; i < width; i++) sum += x[i] * x[i];
  const float times = 1.0f / sqrtf(sum / width + epsilon);
  for (i = 0; i + LANES <= width; i += LANES) store(out + i, load(x + i) * times * load(weight + i));
  for (; i < width; i++) out[i] = x[i] * times * weight[i];
}

/* Make tokens [begin, end) of `normal` ready for a product, and multiply them with the factors A. */
static void ready(const Model *m, const Batch *b, const Product *p, int64_t begin, int64_t end)
{
  if (m->precision != FLOAT32)
    for (int64_t t = begin; t < end; t++)
      prepare(b->normal + t * b->normal_step, p->in, m->precision,
              (char *)b->rows + t * row_bytes(p->in, m->precision), b->row_scale + t, b->row_shift + t);
  if (!p->A) return;
  for (int64_t t = begin, n; t < end; t += n) {
    n = alike(b->agents, t, end, BLOCK);
    const int64_t agent = b->agents[t];
    const float *x[BLOCK];
    for (int r = 0; r < n; r++) x[r] = b->normal + (t + r) * b->normal_step;
#define CALL(n)                                                                                    \
  project(n, x, p->A + agent * p->A_step, p->in, p->ranks, b->scales[agent], b->down + t * WIDTH, WIDTH)
    FOR_ROWS(n, CALL)
#undef CALL
  }
}

/* What of the factors A is fetched while the product before theirs is computed. */
typedef struct {
  const Batch *batch;
  const Product *next;
  int64_t token, past, offset, each; /* each: bytes at a time */
} Ahead;

static Ahead ahead_of(const Batch *b, const Product *next, int64_t begin, int64_t end, int64_t times)
{
  Ahead a = {b, next, begin, next && next->A ? end : begin, 0, 0};
  if (a.token < a.past && times) {
    int64_t agents = 0;
    for (int64_t t = begin; t < end; t += alike(b->agents, t, end, end - t)) agents++;
    a.each = agents * next->ranks * next->in * 4 / times + LINE;
  }
  return a;
}

static inline void fetch(Ahead *a)
{
  for (int64_t bytes = 0; bytes < a->each && a->token < a->past; bytes += LINE) {
    FETCH_LATER((const char *)(a->next->A + a->batch->agents[a->token] * a->next->A_step) + a->offset);
    a->offset += LINE;
    if (a->offset < a->next->ranks * a->next->in * 4) continue;
    a->token += alike(a->batch->agents, a->token, a->past, a->past - a->token);
    a->offset = 0;
  }
}

static inline void give(const float *made, int64_t columns, float *to, int add)
{
  if (columns == COLUMNS)
    for (int v = 0; v < COLUMNS; v += LANES)
      store(to + v, add ? load(to + v) + load(made + v) : load(made + v));
  else
    for (int64_t j = 0; j < columns; j++) to[j] = add ? to[j] + made[j] : made[j];
}

/* This thread's share of a product's panels, for all tokens that are ready. */
static void multiply(const Model *m, const Batch *b, const Product *p, int64_t count, float *to,
                     int64_t step, int add, const Product *next, int64_t own, int64_t own_past, int me,
                     int threads)
{
  const Rows rows = {m->precision == FLOAT32 ? (const void *)b->normal : b->rows,
                     m->precision == FLOAT32 ? b->normal_step * 4 : row_bytes(p->in, m->precision),
                     b->row_scale, b->row_shift};
  int64_t panels = 0;
  for (int i = 0; i < p->parts; i++) panels += panels_of(&p->part[i].weight);
  SHARE(panels, 1);
  const int matrices = by_matrices(p->in, m->precision), most = matrices ? MOST : TILE;
  Ahead ahead = ahead_of(b, next, own, own_past, (end - begin) * ((count + most - 1) / most));
  if (matrices) begin_matrices();
  for (int64_t each = begin; each < end; each++) {
    int64_t panel = each, i = 0;
    while (panel >= panels_of(&p->part[i].weight)) panel -= panels_of(&p->part[i++].weight);
    const Part *part = &p->part[i];
    const int64_t column = panel * COLUMNS, left = part->weight.out - column;
    const int64_t columns = left < COLUMNS ? left : COLUMNS;
    for (int64_t t = 0; t < count; t += most) {
      const int n = count - t < most ? count - t : most;
      float made[MOST * COLUMNS];
      for (int64_t u = 0, some; part->B && u < n; u += some) { /* fetched while the base is multiplied */
        some = alike(b->agents, t + u, t + n, TILE);
        const float *B = part->B + b->agents[t + u] * part->B_step + column;
        for (int k = 0; k < p->rank; k++)
          for (int v = 0; v < PARTS; v++) FETCH_LATER(B + k * part->weight.out + v * LANES);
      }
      fetch(&ahead);
      tile(n, &rows, t, &part->weight, panel, matrices, made);
      for (int64_t u = 0, some; part->B && u < n; u += some) {
        some = alike(b->agents, t + u, t + n, TILE);
        const float *B = part->B + b->agents[t + u] * part->B_step + column;
        const float *down = b->down + (t + u) * WIDTH + part->rank_offset;
        float *y[BLOCK];
        for (int r = 0; r < some; r++) y[r] = made + (u + r) * COLUMNS;
#define CALL(n) expand(n, y, B, part->weight.out, columns, p->rank, down, WIDTH)
        FOR_ROWS(some, CALL)
#undef CALL
      }
      for (int r = 0; r < n; r++)
        give(made + r * COLUMNS, columns, to + (t + r) * step + part->offset + column, add);
    }
  }
  if (matrices) end_matrices();
}

/* Turn a head by its position (Su et al., 2021), and scale it. */
static void turn(float *x, const float *cos, const float *sin, int64_t width, float scale)
{
  const int64_t half = width / 2;
  for (int64_t i = 0; i < half; i++) {
    const float a = x[i], b = x[i + half];
    x[i] = (a * cos[i] - b * sin[i]) * scale;
    x[i + half] = (b * cos[i + half] + a * sin[i + half]) * scale;
  }
}

static void activate(const float *gate, const float *up, int64_t width, float *out)
{
  int64_t i = 0;
  for (; i + LANES <= width; i += LANES) {
    const vec g = load(gate + i);
    store(out + i, g / (1.0f + exponential(-g)) * load(up + i));
  }
  for (; i < width; i++) out[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

/* Keep keys and values of these tokens; turn their queries. */
static void remember(const Model *m, const Batch *b, const Layer *l, const Shape *s, char *keys,
                     char *values, int64_t head_bytes, int64_t begin, int64_t end)
{
  const int64_t w = m->head_width, all_heads = m->heads + m->key_heads;
  const float scale = 1.0f / sqrtf(w);
  for (int64_t t = begin; t < end; t++) {
    float *q = b->wide + t * b->wide_step, *k = q + m->heads * w, *v = k + m->key_heads * w;
    const float *cos = b->cos + b->positions[t] * w, *sin = b->sin + b->positions[t] * w;
    for (int64_t h = 0; h < all_heads; h++) {
      const float *norm = h < m->heads ? l->query_norm : l->key_norm;
      if (norm) normalise(q + h * w, norm, w, m->epsilon, q + h * w);
      turn(q + h * w, cos, sin, w, h < m->heads ? scale : 1.0f);
    }
    const int last = t + 1 == b->count || b->slots[t + 1] != b->slots[t];
    for (int64_t h = 0; h < m->key_heads; h++) {
      const int64_t at = (b->slots[t] * m->key_heads + h) * head_bytes;
      keep(s, k + h * w, v + h * w, keys + at, values + at, b->positions[t], last);
    }
  }
}

static void look(const Model *m, const Batch *b, const Shape *s, char *keys, char *values,
                 int64_t head_bytes, int64_t begin, int64_t end, int me)
{
  const int64_t w = m->head_width;
  float *scores = b->scores + me * HEADS * b->capacity;
  for (int64_t t = begin; t < end; t++)
    for (int64_t h = 0; h < m->key_heads; h++) {
      const int64_t at = (b->slots[t] * m->key_heads + h) * head_bytes;
      const int64_t next = h + 1 < m->key_heads ? at + head_bytes
                           : t + 1 < end        ? b->slots[t + 1] * m->key_heads * head_bytes
                                                : at;
      attend(s, b->wide + t * b->wide_step + h * s->heads * w, keys + at, values + at,
             b->positions[t] + 1, next - at, scores, b->capacity, b->normal + t * b->normal_step + h * s->heads * w);
    }
}


void populora_forward(const Model *m, const Batch *b)
{
  const Shape s = {m->head_width, m->heads / m->key_heads, HAS_BFLOAT16 && m->precision != FLOAT32};
  const int64_t head_bytes = b->capacity * m->head_width * (s.halved ? 2 : 4);
  const int64_t layer_bytes = b->slots_held * m->key_heads * head_bytes;
#pragma omp parallel num_threads(b->threads)
  {
    const int me = omp_get_thread_num(), threads = omp_get_num_threads();
    SHARE(b->count, BLOCK);
    int several = 0; /* whether a row has several tokens, some of which another thread may keep */
    for (int64_t t = 1; t < b->count; t++) several |= b->slots[t] == b->slots[t - 1];
    for (int64_t t = begin; t < end; t++)
      memcpy(b->hidden + t * m->width, m->embedding + b->ids[t] * m->width, m->width * sizeof(float));
    for (int64_t i = 0; i < m->count; i++) {
      const Layer *l = m->layers + i;
      const Product *next = i + 1 < m->count ? &l[1].attention : NULL;
      char *keys = (char *)b->keys + i * layer_bytes, *values = (char *)b->values + i * layer_bytes;
      for (int64_t t = begin; t < end; t++)
        normalise(b->hidden + t * m->width, l->norm, m->width, m->epsilon, b->normal + t * b->normal_step);
      ready(m, b, &l->attention, begin, end);
      WAIT;
      multiply(m, b, &l->attention, b->count, b->wide, b->wide_step, 0, &l->output, begin, end, me, threads);
      WAIT;
      remember(m, b, l, &s, keys, values, head_bytes, begin, end);
      if (several) { WAIT; }
      look(m, b, &s, keys, values, head_bytes, begin, end, me);
      ready(m, b, &l->output, begin, end);
      WAIT;
      multiply(m, b, &l->output, b->count, b->hidden, m->width, 1, &l->expansion, begin, end, me, threads);
      WAIT;
      for (int64_t t = begin; t < end; t++)
        normalise(b->hidden + t * m->width, l->second_norm, m->width, m->epsilon,
                  b->normal + t * b->normal_step);
      ready(m, b, &l->expansion, begin, end);
      WAIT;
      multiply(m, b, &l->expansion, b->count, b->wide, b->wide_step, 0, &l->contraction, begin, end, me, threads);
      WAIT;
      for (int64_t t = begin; t < end; t++)
        activate(b->wide + t * b->wide_step, b->wide + t * b->wide_step + m->inner, m->inner,
                 b->normal + t * b->normal_step);
      ready(m, b, &l->contraction, begin, end);
      WAIT;
      multiply(m, b, &l->contraction, b->count, b->hidden, m->width, 1, next, begin, end, me, threads);
      WAIT;
    }
    {
      SHARE(b->wanted_count, 1);
      for (int64_t t = begin; t < end; t++) {
        normalise(b->hidden + b->wanted[t] * m->width, m->norm, m->width, m->epsilon,
                  b->states + t * m->width);
        memcpy(b->normal + t * b->normal_step, b->states + t * m->width, m->width * sizeof(float));
      }
      if (b->logits) ready(m, b, &m->head, begin, end);
    }
    if (b->logits) {
      WAIT;
      multiply(m, b, &m->head, b->wanted_count, b->logits, m->vocabulary, 0, NULL, 0, 0, me, threads);
    }
  }
}

/* y [count, out] = x [count, in] W^T + b, by all threads. Room for CHUNK rows: row_bytes, a float and an
 * int for each. */
void populora_product(const Weight *w, const float *x, int64_t count, float *y, void *room, float *scales,
                      int32_t *shifts, int32_t wanted)
{
  const Product p = {.part = {{.weight = *w}}, .in = w->in, .parts = 1};
  const Model m = {.precision = w->precision};
#pragma omp parallel num_threads(wanted)
  {
    const int me = omp_get_thread_num(), threads = omp_get_num_threads();
    for (int64_t from = 0; from < count; from += CHUNK) { /* so many rows stay in the cache */
      const int64_t n = count - from < CHUNK ? count - from : CHUNK;
      const Batch b = {.normal = (float *)x + from * w->in, .normal_step = w->in, .rows = room,
                       .row_scale = scales, .row_shift = shifts};
      SHARE(n, 1);
      ready(&m, &b, &p, begin, end);
      WAIT;
      multiply(&m, &b, &p, n, y + from * w->out, w->out, 0, NULL, 0, 0, me, threads);
      WAIT;
    }
  }
}

#define STRIDE 256 /* numbers whose sum is kept while a token is drawn */

/* The likeliest of `size` tokens, or one drawn by inverting the cumulative distribution at `uniform`. */
static int64_t choose(const float *logits, int64_t size, double uniform, float temperature)
{
  double sums[size / STRIDE + 1];
  vec most = all(-INFINITY);
  int64_t i = 0;
  for (; i + LANES <= size; i += LANES) most = larger(load(logits + i), most);
  float top = largest(most);
  for (; i < size; i++) top = logits[i] > top ? logits[i] : top;
  if (temperature == 0) {
    for (i = 0; i < size - 1 && !(logits[i] == top); i++) {}
    return i;
  }
  const float times = 1.0f / temperature;
  double whole = 0;
  for (int64_t s = 0; s * STRIDE < size; s++) {
    const int64_t past = (s + 1) * STRIDE < size ? (s + 1) * STRIDE : size;
    vec sum = {0};
    float rest = 0;
    for (i = s * STRIDE; i + LANES <= past; i += LANES)
      sum += exponential((load(logits + i) - top) * times);
    for (; i < past; i++) rest += exponential(all((logits[i] - top) * times))[0];
    sums[s] = (double)total(sum) + rest;
    whole += sums[s];
  }
  double left = uniform * whole;
  int64_t s = 0, last = 0;
  while ((s + 1) * STRIDE < size && left >= sums[s]) left -= sums[s++];
  for (i = s * STRIDE; i < size; i++) {
    const float share = exponential(all((logits[i] - top) * times))[0];
    if (share > 0) last = i;
    if (left < share) return i;
    left -= share;
  }
  return last;
}

/* One token for each of count rows. */
void populora_choose(const float *logits, int64_t count, int64_t size, const double *uniforms,
                     const float *temperatures, int64_t *chosen, int32_t threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t r = 0; r < count; r++)
    chosen[r] = choose(logits + r * size, size, uniforms[r], temperatures[r]);
}

const int32_t populora_columns = COLUMNS, populora_lanes = LANES, populora_width = WIDTH;
const int32_t populora_chunk = CHUNK, populora_heads = HEADS, populora_keys = 2 * LANES;
const int32_t populora_together = AT_ONCE;
const int32_t populora_precisions = 1 + 2 * HAS_BFLOAT16 + 4 * HAS_INT8;

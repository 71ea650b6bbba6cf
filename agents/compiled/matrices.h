/* Sums of rows and a panel by AMX, sixteen rows and sixteen columns at once.
 *
 * A register holds 16 lines of 64 bytes: of a panel 16 columns, of rows 16 rows, in depth 64 numbers of
 * int8 or 32 of bfloat16, as they stand. In int8 the sums are the integers of `integers.h`, exact. The
 * system must allow a process to use the registers, and each thread says how large they are.
 */
#ifndef POPULORA_MATRICES
#define POPULORA_MATRICES

#if HAS_INT8 && LANES == 16 && defined(__AMX_INT8__) && defined(__AMX_BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#define HAS_MATRICES 1
#define FEW 2 /* rows of int8 that are faster one by one */

/* Whether they are used; may be set to 0, and back if it was 1. */
int32_t populora_matrices = 0;

static __attribute__((constructor)) void ask(void)
{
  const int request = 0x1023, registers = 18; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
  populora_matrices = syscall(SYS_arch_prctl, request, registers) == 0;
}

static void begin_matrices(void)
{
  const struct {
    uint8_t palette, start, unused[14];
    uint16_t bytes[16];
    uint8_t lines[16];
  } size = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
  __asm__ volatile("ldtilecfg %0" : : "m"(size));
}

static void end_matrices(void) { __asm__ volatile("tilerelease"); }

/* Registers 0 to 2 hold the sums of sixteen rows, 3 to 5 those of sixteen more. */
#define CLEAR(a, b, c) "tilezero %%tmm" #a "\n\ttilezero %%tmm" #b "\n\ttilezero %%tmm" #c "\n\t"
#define SUM(sum, at, a) "tileloadd " at "(%[p],%[line],1), %%tmm7\n\t" sum " %%tmm7, %%tmm6, %%tmm" #a "\n\t"
#define SIXTEEN(sum, x, a, b, c)                                                                   \
  "tileloadd (" x ",%[step],1), %%tmm6\n\t" SUM(sum, "", a) SUM(sum, "64", b) SUM(sum, "128", c)
#define DEEPER "add $3072, %[p]\n\tadd $64, %[x]\n\tadd $64, %[y]\n\tdec %[deep]\n\tjnz 1b\n\t"
#define KEEP(to, a, b, c)                                                                          \
  "tilestored %%tmm" #a ", (" to ",%[line],1)\n\ttilestored %%tmm" #b ", 64(" to ",%[line],1)\n\t"  \
  "tilestored %%tmm" #c ", 128(" to ",%[line],1)\n\t"
#define RUN(...)                                                                                   \
  __asm__ volatile(__VA_ARGS__                                                                     \
                   : [x] "+r"(x), [y] "+r"(y), [p] "+r"(p), [deep] "+r"(deep)                      \
                   : [step] "r"(step), [line] "r"(line), [made] "r"(made), [more] "r"(more)        \
                   : "memory", "cc")
/* [n, COLUMNS] for n of at most 32 rows; whole sixteens are read and written. Deep: in 64 bytes. */
#define DEFINE_MATRICES(name, sum)                                                                 \
  static void name(int n, const void *x, int64_t step, const void *p, int64_t deep, float *made)   \
  {                                                                                                \
    const char *y = (const char *)x + 16 * step;                                                   \
    const int64_t line = 4 * COLUMNS;                                                              \
    float *const more = made + 16 * COLUMNS;                                                       \
    if (n > 16)                                                                                    \
      RUN(CLEAR(0, 1, 2) CLEAR(3, 4, 5) "1:\n\t" SIXTEEN(sum, "%[x]", 0, 1, 2)                     \
            SIXTEEN(sum, "%[y]", 3, 4, 5) DEEPER KEEP("%[made]", 0, 1, 2) KEEP("%[more]", 3, 4, 5)); \
    else                                                                                           \
      RUN(CLEAR(0, 1, 2) "1:\n\t" SIXTEEN(sum, "%[x]", 0, 1, 2) DEEPER KEEP("%[made]", 0, 1, 2));  \
  }
DEFINE_MATRICES(matrices_int8, "tdpbsud")
DEFINE_MATRICES(matrices_bfloat16, "tdpbf16ps")
#else
#define HAS_MATRICES 0
int32_t populora_matrices = 0;
static void begin_matrices(void) {}
static void end_matrices(void) {}
#endif
#endif

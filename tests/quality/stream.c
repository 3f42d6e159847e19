/* Dropout's random numbers as 32-bit words on standard output, without end, for batteries of statistical tests.
 *
 *   stream SEED SOURCE [NUMBER]         sources: see the table at the end
 *
 * The seed is the key of Philox. A block of 4096 draws has 16 lanes. Philox4x32-10 gives each lane its initial state,
 * and JSF32 (Jenkins, 2007, "A small noncryptographic PRNG") 128 words of two draws each. This file shares no code
 * with csrc/. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = 16, STEPS = 128, DRAWS = 2 * LANES * STEPS, SEEDS = 4, CHUNK = 16384 };

typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint64_t u64x16 __attribute__((vector_size(128)));
typedef struct {
    u32x16 a, b, c, d;
} state;

/* Words 0 to 3 of the counters (n + lane, stream, 0). n of a block is a multiple of LANES: n + lane does not carry. */
static state philox(uint64_t seed, uint64_t n, uint32_t stream)
{
    const u32x16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, zero = {0};
    uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)(seed >> 32);
    state w = {lane + (uint32_t)n, zero + (uint32_t)(n >> 32), zero + stream, zero};
    for (int round = 0; round < 10; round++, key0 += 0x9E3779B9u, key1 += 0xBB67AE85u) {
        const u64x16 p0 = __builtin_convertvector(w.a, u64x16) * 0xD2511F53u;
        const u64x16 p1 = __builtin_convertvector(w.c, u64x16) * 0xCD9E8D57u;
        w.a = __builtin_convertvector(p1 >> 32, u32x16) ^ w.b ^ key0;
        w.c = __builtin_convertvector(p0 >> 32, u32x16) ^ w.d ^ key1;
        w.b = __builtin_convertvector(p1, u32x16);
        w.d = __builtin_convertvector(p0, u32x16);
    }
    return w;
}

static state first_state(uint64_t seed, uint64_t block) { return philox(seed, LANES * block, 0); }

static u32x16 jsf32(state *s)
{
    const u32x16 e = s->a - (s->b << 27 | s->b >> 5);
    s->a = s->b ^ (s->c << 17 | s->c >> 15);
    s->b = s->c + s->d;
    s->c = s->d + e;
    s->d = e + s->a;
    return s->d;
}

static void block_words(uint64_t seed, uint64_t block, u32x16 word[STEPS])
{
    state s = first_state(seed, block);
    for (int i = 0; i < STEPS; i++) word[i] = jsf32(&s);
}

static uint32_t chunk[CHUNK];
static size_t filled;

static void put(uint32_t word)
{
    chunk[filled++] = word;
    if (filled < CHUNK) return;
    if (fwrite(chunk, sizeof chunk, 1, stdout) != 1) exit(0); /* nobody reads on */
    filled = 0;
}

static void put_step(u32x16 word)
{
    for (int lane = 0; lane < LANES; lane++) put(word[lane]);
}

static void words(uint64_t seed, uint64_t block, double unused)
{
    u32x16 word[STEPS];
    (void)unused;
    block_words(seed, block, word);
    for (int i = 0; i < STEPS; i++) put_step(word[i]);
}

static void lanes(uint64_t seed, uint64_t block, double steps)
{
    u32x16 word[STEPS];
    block_words(seed, block, word);
    for (int lane = 0; lane < LANES; lane++)
        for (int i = 0; i < (int)steps; i++) put(word[i][lane]);
}

static void lane(uint64_t seed, uint64_t block, double number)
{
    u32x16 word[STEPS];
    block_words(seed, block, word);
    for (int i = 0; i < STEPS; i++) put(word[i][(int)number]);
}

static void starts(uint64_t seed, uint64_t block, double unused)
{
    state s = first_state(seed, block);
    (void)unused;
    put_step(jsf32(&s));
}

static void apart(uint64_t seed, uint64_t block, double distance)
{
    state s = first_state(seed, block * (uint64_t)distance);
    put(jsf32(&s)[0]);
}

static void seeds(uint64_t seed, uint64_t block, double count)
{
    u32x16 word[SEEDS][STEPS];
    for (int k = 0; k < SEEDS; k++) block_words(seed + (uint64_t)k, block, word[k]);
    (void)count;
    for (int i = 0; i < STEPS; i++)
        for (int lane = 0; lane < LANES; lane++)
            for (int k = 0; k < SEEDS; k++) put(word[k][i][lane]);
}

/* Arithmetic coding: the distribution function of a sequence of decisions is uniform in [0, 1), so its binary digits
 * are fair bits. Each decision narrows the interval [low, high]. Where both ends agree in 16 digits, these are known.
 * Rounding changes p by less than 2^-40 of it. */
static void code(int dropped, uint64_t p48)
{
    static uint64_t low = 0, high = UINT64_MAX;
    static uint32_t digits, halves;
    const uint64_t width = (uint64_t)((unsigned __int128)(high - low) * p48 >> 48), kept = (uint64_t)dropped - 1;
    high -= (high - low - width) & ~kept; /* without branches: nobody predicts a decision */
    low += (width + 1) & kept;
    if ((low ^ high) >> 48) return;
    digits = digits << 16 | (uint32_t)(low >> 48);
    low <<= 16;
    high = high << 16 | 0xFFFF;
    if (++halves % 2 == 0) put(digits);
}

static void decisions(uint64_t seed, uint64_t block, double p)
{
    const uint64_t p48 = (uint64_t)rint(p * 0x1p48);
    const int threshold = (int)floor(p * 0x1p16) - 0x8000;
    u32x16 word[STEPS];
    block_words(seed, block, word);
    for (int i = 0; i < STEPS; i++)
        for (int element = 0; element < 2 * LANES; element++) {
            const uint32_t both = word[i][element % LANES];
            const int16_t draw = (int16_t)(element < LANES ? both : both >> 16);
            const uint64_t position = DRAWS * block + (uint64_t)(2 * LANES * i + element);
            int dropped = draw < threshold;
            if (draw == threshold) dropped = philox(seed, position, 1).a[0] < (uint32_t)p48;
            code(dropped, p48);
        }
}

static const struct {
    const char *name;
    void (*put_block)(uint64_t seed, uint64_t block, double number);
    double number; /* default */
} sources[] = {
    {"words", words, 0},           /* as in memory: step after step, of all lanes */
    {"lanes", lanes, STEPS},       /* the first NUMBER steps of a lane, then those of the next */
    {"lane", lane, 0},             /* lane NUMBER alone */
    {"starts", starts, 0},         /* the first step of each block */
    {"apart", apart, 1},           /* the first word of blocks NUMBER apart */
    {"seeds", seeds, SEEDS},       /* the words of neighbouring seeds in turn */
    {"decisions", decisions, 0.5}, /* keep or drop with p = NUMBER, as fair bits */
};

int main(int argc, char **argv)
{
    if (argc < 3) return 2;
    const uint64_t seed = strtoull(argv[1], NULL, 10);
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        const double number = argc > 3 ? atof(argv[3]) : sources[i].number;
        if (strcmp(argv[2], sources[i].name)) continue;
        for (uint64_t block = 0;; block++) sources[i].put_block(seed, block, number);
    }
    return 2;
}

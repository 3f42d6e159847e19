/* Runs a test of TestU01 on dropout's random numbers, and prints the p-value and the name of each of its statistics.
 *
 *   testu01 BATTERY TEST SEED SOURCE [NUMBER]         see the tables of batteries and sources at the end
 *
 * Each test starts at the first block of the seed. */
#include "../../csrc/cregkit.h"
#define CREG_TABLE(type) creg_kernels_scalar_##type
#include "../../csrc/simd_scalar.h"

#include "../../csrc/dropout.h"

#include <stdio.h>
#include <stdlib.h>
#include <testu01/bbattery.h>
#include <testu01/swrite.h>
#include <unistd.h>

enum { SEEDS = 4, MOST_TESTS = 106 };

typedef uint32_t step_words[DRAW_LANES];

/* The words of the first `steps` steps of a block. */
static void block_words(uint64_t seed, uint64_t block, int steps, step_words words[])
{
    draws random;
    start_draws(&random, (uint32_t[]){(uint32_t)seed, (uint32_t)(seed >> 32)});
    for (int i = 0; i < steps; i++) {
        draw_step(&random, block * BLOCK_STEPS + (uint64_t)i);
        memcpy(words[i], random.state.d, sizeof *words);
    }
}

/* Words that a source has put and the test has not read. */
static uint32_t ahead[SEEDS * DRAW_LANES * BLOCK_STEPS];
static size_t count, next;

static void put(uint32_t word) { ahead[count++] = word; }

static void words(uint64_t seed, uint64_t block, double steps)
{
    step_words word[BLOCK_STEPS];
    block_words(seed, block, (int)steps, word);
    for (int i = 0; i < (int)steps; i++)
        for (int lane = 0; lane < DRAW_LANES; lane++) put(word[i][lane]);
}

static void lanes(uint64_t seed, uint64_t block, double steps)
{
    step_words word[BLOCK_STEPS];
    block_words(seed, block, (int)steps, word);
    for (int lane = 0; lane < DRAW_LANES; lane++)
        for (int i = 0; i < (int)steps; i++) put(word[i][lane]);
}

static void lane(uint64_t seed, uint64_t block, double number)
{
    step_words word[BLOCK_STEPS];
    block_words(seed, block, BLOCK_STEPS, word);
    for (int i = 0; i < BLOCK_STEPS; i++) put(word[i][(int)number]);
}

static void apart(uint64_t seed, uint64_t block, double distance)
{
    step_words word[1];
    block_words(seed, block * (uint64_t)distance, 1, word);
    put(word[0][0]);
}

static void seeds(uint64_t seed, uint64_t block, double unused)
{
    step_words word[SEEDS][BLOCK_STEPS];
    (void)unused;
    for (int k = 0; k < SEEDS; k++) block_words(seed + (uint64_t)k, block, BLOCK_STEPS, word[k]);
    for (int i = 0; i < BLOCK_STEPS; i++)
        for (int lane = 0; lane < DRAW_LANES; lane++)
            for (int k = 0; k < SEEDS; k++) put(word[k][i][lane]);
}

enum { CODED = 8, CODES = 1 << CODED };

/* Arithmetic coding: the distribution function of a sequence of decisions is uniform in [0, 1), so its binary digits
 * are fair bits. The next decisions, dropped before kept, narrow the interval [low, low + width), a share of
 * 2^-63 * [ends[k], ends[k + 1]) for decisions k. Where all of it agrees in 16 digits, these are known. Each word
 * starts anew, so that a wrong probability shows in its first digits. Rounding changes a probability by less than
 * 2^-40. */
static void code(int k, const uint64_t ends[])
{
    static uint64_t low = 0, width = UINT64_MAX;
    static uint32_t digits, halves;
    const uint64_t below = (uint64_t)((unsigned __int128)width * ends[k] >> 63);
    width = (uint64_t)((unsigned __int128)width * ends[k + 1] >> 63) - below;
    low += below;
    while (!((low ^ (low + width - 1)) >> 48)) {
        digits = digits << 16 | (uint32_t)(low >> 48);
        low <<= 16;
        width <<= 16;
        if (++halves % 2) continue;
        put(digits);
        low = 0;
        width = UINT64_MAX;
    }
}

/* For each sequence of CODED decisions, in the order of their codes, where the distribution function starts. */
static void fill_ends(uint64_t ends[], double p)
{
    for (int k = 0; k < CODES; k++) {
        long double start = 0, share = 0x1p63L;
        for (int bit = CODES / 2; bit; bit /= 2) {
            if (k & bit) start += share * p;
            share *= k & bit ? 1 - (long double)p : (long double)p;
        }
        ends[k] = (uint64_t)start;
    }
    ends[CODES] = (uint64_t)1 << 63;
}

static void decisions(uint64_t seed, uint64_t block, double p)
{
    static uint64_t ends[CODES + 1];
    const double p48 = rint(p * 0x1p48);
    const creg_dropout dropout = {.key = {(uint32_t)seed, (uint32_t)(seed >> 32)},
                                  .threshold = (int16_t)((int)((uint64_t)p48 >> 32) - 0x8000),
                                  .tie = (uint32_t)(uint64_t)p48};
    if (!ends[CODES]) fill_ends(ends, p48 * 0x1p-48);
    unsigned char keep[CREG_DRAWS_BLOCK];
    draws random;
    start_draws(&random, dropout.key);
    draw_keep(keep, block * CREG_DRAWS_BLOCK, CREG_DRAWS_BLOCK, &dropout, &random);
    for (int i = 0; i < CREG_DRAWS_BLOCK; i += CODED) {
        int k = 0;
        for (int j = 0; j < CODED; j++) k = 2 * k + keep[i + j];
        code(k, ends);
    }
}

static const struct source {
    const char *name;
    void (*put_block)(uint64_t seed, uint64_t block, double number);
    double number; /* default */
} sources[] = {
    {"words", words, BLOCK_STEPS}, /* as in memory: step after step, of all lanes */
    {"lanes", lanes, BLOCK_STEPS}, /* the first NUMBER steps of a lane, then those of the next */
    {"lane", lane, 0},             /* lane NUMBER alone */
    {"apart", apart, 1},           /* the first word of blocks NUMBER apart */
    {"seeds", seeds, 0},           /* the words of neighbouring seeds in turn */
    {"decisions", decisions, 0.5}, /* keep or drop with p = NUMBER, as fair bits */
    {0},
};
static const struct source *source = sources;
static uint64_t seed;
static double number;

static unsigned int next_word(void)
{
    static uint64_t block;
    if (next == count)
        for (next = count = 0; count == 0; block++) source->put_block(seed, block, number);
    return ahead[next++];
}

static unsigned int next_reversed(void)
{
    unsigned int word = next_word(), reversed = 0;
    for (int bit = 0; bit < 32; bit++, word >>= 1) reversed = reversed << 1 | (word & 1);
    return reversed;
}

static const struct battery {
    const char *name;
    void (*run)(unif01_Gen *, int repetitions[]);
    unsigned int (*word)(void);
} batteries[] = {
    {"small", bbattery_RepeatSmallCrush, next_word},
    {"reversed", bbattery_RepeatSmallCrush, next_reversed}, /* the bits of each word in reverse order */
    {"crush", bbattery_RepeatCrush, next_word},
    {"big", bbattery_RepeatBigCrush, next_word},
    {0},
};

int main(int argc, char **argv)
{
    if (argc < 5) return 2;
    const struct battery *battery = batteries;
    while (battery->name && strcmp(battery->name, argv[1])) battery++;
    while (source->name && strcmp(source->name, argv[4])) source++;
    const int test = atoi(argv[2]);
    if (!battery->name || !source->name || test < 1 || test > MOST_TESTS) return 2;
    seed = strtoull(argv[3], NULL, 10);
    number = argc > 5 ? atof(argv[5]) : source->number;

    FILE *results = fdopen(dup(STDOUT_FILENO), "w");
    if (!freopen("/dev/null", "w", stdout)) return 1; /* TestU01's report */
    swrite_Basic = FALSE;
    int repetitions[1 + MOST_TESTS] = {0};
    repetitions[test] = 1;
    battery->run(unif01_CreateExternGenBits(argv[4], battery->word), repetitions);
    for (int i = 0; i < bbattery_NTests; i++) fprintf(results, "%.12g %s\n", bbattery_pVal[i], bbattery_TestNames[i]);
    return fclose(results) != 0;
}

/* Builds the table of one instruction set and type of tensors from the op headers. An isa_<name>.c sets the compiler's
 * target, includes cregkit.h and its simd_<name>.h, defines CREG_ISA and CREG_TABLE, and includes this. */
#include "batch_norm.h"
#include "channel_norm.h"
#include "drop_block.h"
#include "dropout.h"
#include "group_norm.h"
#include "wide_rows.h"

extern const creg_kernels CREG_TABLE(float16), CREG_TABLE(bfloat16);

#define CREG_KERNEL(result, name, arguments) .name = creg_##name,
#if defined CREG_FLOAT16_STORED
#define CREG_FLOAT32_KERNEL(result, name, arguments)
const creg_kernels CREG_TABLE(float16) = {
#elif defined CREG_BFLOAT16_STORED
#define CREG_FLOAT32_KERNEL(result, name, arguments)
const creg_kernels CREG_TABLE(bfloat16) = {
#else
#include "images.h"
#include "jitter.h"
#include "noise.h"
#include "optimizer.h"
#define CREG_FLOAT32_KERNEL CREG_KERNEL
const creg_kernels CREG_TABLE(float32) = {
#endif
    .isa = CREG_ISA,
    .stored = {&CREG_TABLE(float32), &CREG_TABLE(float16), &CREG_TABLE(bfloat16)},
#include "kernels.def"
};
#undef CREG_KERNEL
#undef CREG_FLOAT32_KERNEL

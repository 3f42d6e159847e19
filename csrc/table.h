/* Builds one instruction set's table from the op headers. An isa_<name>.c sets the compiler's target, includes
 * cregkit.h and its simd_<name>.h, defines CREG_TABLE and includes this. */
#include "batch_norm.h"
#include "channel_norm.h"
#include "drop_block.h"
#include "dropout.h"
#include "group_norm.h"
#include "images.h"
#include "jitter.h"
#include "noise.h"
#include "optimizer.h"
#include "wide_rows.h"

#define CREG_KERNEL(result, name, arguments) .name = creg_##name,
const creg_kernels CREG_TABLE = {
    .isa = CREG_ISA,
#include "kernels.def"
};
#undef CREG_KERNEL

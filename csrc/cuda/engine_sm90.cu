// The sm90a search's kernels, compiled for sm_90a alone; engine.cu launches them.
#include "cuda/engine_sm90.hpp"

#include "cuda/search_sm90.cuh"

namespace fastspade::cuda {

namespace {

template <class Operand>
const void* kernel_of(int tile_rows) {
    return tile_rows == 96 ? reinterpret_cast<const void*>(search_sm90_kernel<Operand, 3>)
                           : reinterpret_cast<const void*>(search_sm90_kernel<Operand, 4>);
}

}  // namespace

const void* search_sm90_kernel_of(bool bfloat16, int tile_rows) {
    return bfloat16 ? kernel_of<BFloat16Operand>(tile_rows) : kernel_of<HalfOperand>(tile_rows);
}

}  // namespace fastspade::cuda

// The sm90a search's kernels, compiled for sm_90a alone; engine.cu launches them.
#include "cuda/engine_sm90.hpp"

#include "cuda/search_sm90.cuh"

namespace fastspade::cuda {

const void* search_sm90_kernel_of(bool bfloat16) {
    return bfloat16 ? reinterpret_cast<const void*>(search_sm90_kernel<BFloat16Operand>)
                    : reinterpret_cast<const void*>(search_sm90_kernel<HalfOperand>);
}

}  // namespace fastspade::cuda

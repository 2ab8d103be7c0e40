// What engine.cu knows of engine_sm90.cu, which is only there in builds with code for sm_90a (FASTSPADE_WITH_SM90A).
#pragma once

#include <functional>
#include <string>

#include "cuda/tensor_map.hpp"

namespace fastspade::cuda {

constexpr int sm90_block_threads = 384;

// A kernel of one Sm90Parameters, for cudaLaunchKernel, with tiles of 128 or 96 queries.
const void* search_sm90_kernel_of(bool bfloat16, int tile_rows);

// By the driver's encoder, found through the runtime: nothing is linked against the driver. Host work alone. Throws
// CudaError, whose text ends with what `where` says.
TensorMap encode_tensor_map(const TensorBox& box, const std::function<std::string()>& where);

}  // namespace fastspade::cuda

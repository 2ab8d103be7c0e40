// What engine.cu knows of engine_sm90.cu, which is only there in builds with code for sm_90a (FASTSPADE_WITH_SM90A).
#pragma once

namespace fastspade::cuda {

constexpr int sm90_block_threads = 384;

// A kernel of one Sm90Parameters, for cudaLaunchKernel.
const void* search_sm90_kernel_of(bool bfloat16);

}  // namespace fastspade::cuda

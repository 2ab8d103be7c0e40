// What only the sm90a search has: its kernels, compiled for sm_90a alone, and the tensor maps that they read through, which
// toolkits before 12 do not know. engine.cu launches them.
#include "cuda/engine_sm90.hpp"

#include <cuda.h>

#include <cstring>

#include "cuda/engine.hpp"
#include "cuda/search_sm90.cuh"

namespace fastspade::cuda {

namespace {

template <class Operand>
const void* kernel_of(int tile_rows) {
    return tile_rows == 96 ? reinterpret_cast<const void*>(search_sm90_kernel<Operand, 3>)
                           : reinterpret_cast<const void*>(search_sm90_kernel<Operand, 4>);
}

void* driver_function(const char* name) {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    const cudaError_t status = cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found);
#else
    const cudaError_t status = cudaGetDriverEntryPoint(name, &function, cudaEnableDefault, &found);
#endif
    if (status != cudaSuccess || found != cudaDriverEntryPointSuccess || !function)
        throw CudaError(std::string("the driver has no ") + name + ": " + cudaGetErrorString(status));
    return function;
}

}  // namespace

const void* search_sm90_kernel_of(bool bfloat16, int tile_rows) {
    return bfloat16 ? kernel_of<BFloat16Operand>(tile_rows) : kernel_of<HalfOperand>(tile_rows);
}

TensorMap encode_tensor_map(const TensorBox& box, const std::function<std::string()>& where) {
    static_assert(sizeof(TensorMap) == sizeof(CUtensorMap) && alignof(TensorMap) >= alignof(CUtensorMap));
    static const auto encode = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(driver_function("cuTensorMapEncodeTiled"));
    cuuint64_t size[tensor_map_dimensions], stride[tensor_map_dimensions];
    cuuint32_t sides[tensor_map_dimensions], steps[tensor_map_dimensions];
    for (int d = 0; d < box.dimensions; ++d) {
        size[d] = static_cast<cuuint64_t>(box.size[d]);
        if (d > 0) stride[d - 1] = static_cast<cuuint64_t>(box.stride[d] * 2);
        sides[d] = static_cast<cuuint32_t>(box.box[d]);
        steps[d] = 1;
    }
    CUtensorMap map;
    const CUresult status = encode(&map, box.bfloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                                   static_cast<cuuint32_t>(box.dimensions), const_cast<void*>(box.data), size, stride, sides,
                                   steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                   CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (status != CUDA_SUCCESS)
        throw CudaError("cuTensorMapEncodeTiled failed: error " + std::to_string(static_cast<int>(status)) + where());
    TensorMap result;
    std::memcpy(&result, &map, sizeof(map));
    return result;
}

}  // namespace fastspade::cuda

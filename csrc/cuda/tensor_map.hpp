// Tensor maps: what a bulk tensor copy is told about the array it reads from. Made on the host, passed to kernels by value.
// Pure C++: the driver's encoder (engine_sm90.cu) and the host emulation's fill them in, each in its own form.
#pragma once

#include <cstdint>

namespace fastspade::cuda {

constexpr int tensor_map_dimensions = 4;

// As large and as aligned as the driver's CUtensorMap, whose content is private to it.
struct alignas(128) TensorMap {
    uint64_t word[16];
};

// An array of 16-bit floats and the box of it that one copy brings, fastest dimension first. Boxes are 64 elements wide:
// their rows of 128 bytes land swizzled. What a box has outside the array is zeros.
struct TensorBox {
    const void* data;
    bool bfloat16;
    int dimensions;
    int64_t size[tensor_map_dimensions];
    int64_t stride[tensor_map_dimensions];  // elements; the first is 1
    int box[tensor_map_dimensions];
};

}  // namespace fastspade::cuda

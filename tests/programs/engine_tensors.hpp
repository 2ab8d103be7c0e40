// Tensors of every element type and layout, made of the same few values, each filling its memory to the byte.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>

#include "core/tensor_view.hpp"

namespace fastspade {

struct Level {
    int64_t channels, height, width;
};

// one_image: every image is the same memory; one_pixel: every pixel of every image. Both make crowds of ties.
enum class Layout { planes, vectors, padded, transposed, one_image, one_pixel };
constexpr Layout layouts[] = {Layout::planes,     Layout::vectors,   Layout::padded,
                              Layout::transposed, Layout::one_image, Layout::one_pixel};
inline bool repeats(Layout layout) { return layout == Layout::one_image || layout == Layout::one_pixel; }

// Values that bfloat16 and float16 hold exactly, so that the element type changes nothing.
inline float value_of(uint64_t seed, int64_t i) {
    uint64_t x = (seed * 0x9e3779b97f4a7c15ull + static_cast<uint64_t>(i)) * 0xbf58476d1ce4e5b9ull;
    x ^= x >> 31;
    return static_cast<float>(static_cast<int64_t>(x * 0x94d049bb133111ebull >> 57) - 64) / 16.0f;
}

inline uint16_t half_of(float value) {  // exact for the values above
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffffu) == 0) return static_cast<uint16_t>(bits >> 16);
    return static_cast<uint16_t>((bits >> 16 & 0x8000u) | (((bits >> 23 & 0xff) - 112) << 10) | (bits >> 13 & 0x3ffu));
}

inline void write(char* to, DType dtype, float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const uint16_t narrow = dtype == DType::float16 ? half_of(value) : static_cast<uint16_t>(bits >> 16);
    if (dtype == DType::float32)
        std::memcpy(to, &value, 4);
    else
        std::memcpy(to, &narrow, 2);
}

struct Tensor {
    std::unique_ptr<char[]> memory;
    TensorView view;
};

// What lies between the elements of `padded` is NaN: no result may see it. Every second tensor begins one element into its
// memory, so that its vectors are aligned to nothing.
inline Tensor tensor(uint64_t seed, int64_t images, const Level& level, DType dtype, Layout layout) {
    const auto [c, h, w] = level;
    int64_t stride[4] = {c * h * w, h * w, w, 1};
    if (layout == Layout::vectors) stride[0] = c * h * w, stride[1] = 1, stride[2] = w * c, stride[3] = c;
    if (layout == Layout::padded)
        stride[3] = 3, stride[2] = 3 * w + 1, stride[1] = h * stride[2] + 5, stride[0] = c * stride[1] + 7;
    if (layout == Layout::transposed) stride[2] = 1, stride[3] = h;
    if (repeats(layout)) stride[0] = 0;
    if (layout == Layout::one_pixel) stride[1] = 1, stride[2] = stride[3] = 0;
    const int64_t shape[4] = {images, c, h, w}, element = dtype == DType::float32 ? 4 : 2;
    int64_t last = 0;
    for (int axis = 0; axis < 4; ++axis) last += (shape[axis] - 1) * stride[axis];
    const int64_t shift = (seed / 2 + static_cast<uint64_t>(layout)) % 2 ? element : 0;
    const size_t bytes = static_cast<size_t>(shift + (last + 1) * element);
    Tensor result;
    result.memory = std::make_unique<char[]>(bytes);
    std::memset(result.memory.get(), 0xff, bytes);
    char* const data = result.memory.get() + shift;
    for (int64_t n = 0; n < images; ++n)
        for (int64_t i = 0; i < c; ++i)
            for (int64_t y = 0; y < h; ++y)
                for (int64_t x = 0; x < w; ++x)
                    write(data + (n * stride[0] + i * stride[1] + y * stride[2] + x * stride[3]) * element, dtype,
                          layout == Layout::one_pixel ? value_of(seed, i)
                                                      : value_of(seed, (((repeats(layout) ? 0 : n) * c + i) * h + y) * w + x));
    result.view.data = data;
    result.view.dtype = dtype;
    std::copy(shape, shape + 4, result.view.shape);
    std::copy(stride, stride + 4, result.view.stride);
    return result;
}

}  // namespace fastspade

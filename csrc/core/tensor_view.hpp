// A borrowed view of one pyramid level: address, shape, strides and element type. Owns nothing.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace fastspade {

enum class DType : int { float32 = 0, float16 = 1, bfloat16 = 2 };

// (images, channels, height, width); strides are in elements and may be anything, zero included.
struct TensorView {
    const void* data = nullptr;
    DType dtype = DType::float32;
    int64_t shape[4] = {0, 0, 0, 0};
    int64_t stride[4] = {0, 0, 0, 0};

    int64_t images() const { return shape[0]; }
    int64_t channels() const { return shape[1]; }
    int64_t height() const { return shape[2]; }
    int64_t width() const { return shape[3]; }
    int64_t pixels() const { return shape[2] * shape[3]; }
    int64_t offset(int64_t image, int64_t channel, int64_t y, int64_t x) const {
        return image * stride[0] + channel * stride[1] + y * stride[2] + x * stride[3];
    }
    // The step from one pixel to the next where it is the same for all of an image; 0 where it is not.
    int64_t pixel_step() const {
        if (width() == 1) return stride[2];
        return height() == 1 || stride[2] == width() * stride[3] ? stride[3] : 0;
    }
    // Whether each pixel's channels lie side by side as float32, at one step from pixel to pixel.
    bool holds_vectors() const { return dtype == DType::float32 && stride[1] == 1 && pixel_step() != 0; }
};

// Half to float without hardware support: shift into place, then let one multiplication rebias the exponent, which
// also normalises subnormals. Infinities and NaNs keep a full exponent.
inline float half_to_float(uint16_t half) {
    uint32_t magnitude = static_cast<uint32_t>(half & 0x7fffu) << 13;
    float value;
    std::memcpy(&value, &magnitude, 4);
    value *= 0x1p112f;
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if ((half & 0x7c00u) == 0x7c00u) bits |= 0x7f800000u;
    bits |= static_cast<uint32_t>(half & 0x8000u) << 16;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline float bfloat16_to_float(uint16_t half) {
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// The element types as C++ types, so that a loop can be compiled once for each.
struct Float32 {
    using Storage = float;
    static float load(Storage value) { return value; }
};
struct Float16 {
    using Storage = uint16_t;
    static float load(Storage value) { return half_to_float(value); }
};
struct BFloat16 {
    using Storage = uint16_t;
    static float load(Storage value) { return bfloat16_to_float(value); }
};

// Calls body(Element{}) with the element type of dtype.
template <class Body>
auto with_element(DType dtype, Body&& body) {
    switch (dtype) {
        case DType::float16:
            return body(Float16{});
        case DType::bfloat16:
            return body(BFloat16{});
        default:
            return body(Float32{});
    }
}

inline bool finite_at(const TensorView& view, int64_t image, int64_t pixel) {
    return with_element(view.dtype, [&](auto element) {
        using Element = decltype(element);
        const auto* from = static_cast<const typename Element::Storage*>(view.data) +
                           view.offset(image, 0, pixel / view.width(), pixel % view.width());
        for (int64_t c = 0; c < view.channels(); ++c)
            if (!std::isfinite(Element::load(from[c * view.stride[1]]))) return false;
        return true;
    });
}

}  // namespace fastspade

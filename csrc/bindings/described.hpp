// How Python describes tensors to the engines.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <tuple>
#include <vector>

#include "core/tensor_view.hpp"

namespace fastspade {

// (address, dtype code, shape, strides in elements), as fastspade.search.cpu.describe makes them.
using Described = std::tuple<uintptr_t, int, std::array<int64_t, 4>, std::array<int64_t, 4>>;

inline std::vector<TensorView> views(const std::vector<Described>& levels) {
    std::vector<TensorView> result;
    for (const auto& [address, dtype, shape, stride] : levels) {
        TensorView view;
        view.data = reinterpret_cast<const void*>(address);
        view.dtype = static_cast<DType>(dtype);
        std::copy(shape.begin(), shape.end(), view.shape);
        std::copy(stride.begin(), stride.end(), view.stride);
        result.push_back(view);
    }
    return result;
}

}  // namespace fastspade

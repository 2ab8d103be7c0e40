// How Python describes tensors to the engines, and the checks that no description can make an engine read or write
// outside the memory it was given, as far as numbers can tell. What is wrong is named; Python sees a ValueError.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "core/tensor_view.hpp"

namespace fastspade {

// (address, dtype code, shape, strides in elements), as fastspade.search.cpu.describe makes them.
using Described = std::tuple<uintptr_t, int, std::array<int64_t, 4>, std::array<int64_t, 4>>;

// The text is only put together where it is needed.
template <class... Parts>
void require(bool holds, const Parts&... parts) {
    if (!holds) throw std::invalid_argument((std::string() + ... + parts));
}

// The product, or an exception where it passes 2^62.
inline int64_t checked_product(std::initializer_list<int64_t> factors, const std::string& what) {
    int64_t product = 1;
    for (int64_t factor : factors)
        require(!__builtin_mul_overflow(product, factor, &product) && product < (int64_t{1} << 62), what, " is too large");
    return product;
}

inline TensorView checked_view(const Described& described, const std::string& name) {
    const auto& [address, dtype, shape, stride] = described;
    require(dtype >= 0 && dtype <= 2, name, " has no known element type");
    const int64_t element = dtype == static_cast<int>(DType::float32) ? 4 : 2;
    require(address != 0, name, " has no memory");
    require(address % static_cast<uintptr_t>(element) == 0, name, " is not aligned to its elements");
    int64_t reach = element;
    for (size_t axis = 0; axis < 4; ++axis) {
        require(shape[axis] >= 1, name, " must not be empty");
        require(stride[axis] >= 0, name, " has a negative stride");
        const int64_t span = checked_product({shape[axis] - 1, stride[axis], element}, name);
        require(span < (int64_t{1} << 62) - reach, name, " is too large");
        reach += span;
    }
    // Positions along an axis are kept in 32 bits.
    for (size_t axis = 1; axis < 4; ++axis)
        require(shape[axis] <= std::numeric_limits<int32_t>::max(), name, " is too large along one axis");
    require(address <= std::numeric_limits<uintptr_t>::max() - static_cast<uintptr_t>(reach), name, " is too large");
    TensorView view;
    view.data = reinterpret_cast<const void*>(address);
    view.dtype = static_cast<DType>(dtype);
    std::copy(shape.begin(), shape.end(), view.shape);
    std::copy(stride.begin(), stride.end(), view.stride);
    return view;
}

// Levels of one pyramid, finest first, all of the same images.
inline std::vector<TensorView> checked_pyramid(const std::vector<Described>& levels, const std::string& name) {
    require(!levels.empty(), name, " must hold at least one level");
    std::vector<TensorView> result;
    for (const Described& level : levels) {
        const std::string here = name + "[" + std::to_string(result.size()) + "]";
        result.push_back(checked_view(level, here));
        const TensorView &view = result.back(), &before = result[result.size() < 2 ? 0 : result.size() - 2];
        require(view.images() == result[0].images(), here, " holds another number of images");
        require(view.height() <= before.height() && view.width() <= before.width(), name, " must be ordered finest first");
    }
    return result;
}

inline void check_pair(const std::vector<TensorView>& query, const std::vector<TensorView>& gallery) {
    require(query.size() == gallery.size(), "query and gallery need the same number of levels");
    for (size_t l = 0; l < query.size(); ++l)
        require(query[l].channels() == gallery[l].channels(), "query and gallery need the same channels at every level");
}

// What the results of one search take, and that kappa pairs are there for every query pixel.
inline void check_outputs(const std::vector<TensorView>& query, const std::vector<TensorView>& gallery, int64_t gallery_count,
                          int64_t kappa, uintptr_t distances, uintptr_t indices) {
    require(gallery_count >= 1 && gallery_count <= std::numeric_limits<int32_t>::max(), "gallery_count must be at least 1");
    const int64_t pairs = checked_product({gallery_count, gallery[0].pixels()}, "the gallery");
    require(kappa >= 1 && kappa <= pairs, "kappa must be between 1 and the number of gallery pixels searched");
    checked_product({query[0].images(), query[0].pixels(), kappa, 8}, "the output");
    checked_product({gallery[0].images(), gallery[0].pixels()}, "the gallery");
    require(distances != 0 && distances % alignof(float) == 0, "distances has no aligned memory");
    require(indices != 0 && indices % alignof(int64_t) == 0, "indices has no aligned memory");
}

inline void check_choice(int value, int choices, const char* name) {
    require(value >= 0 && value < choices, name, " is none of the known codes");
}

}  // namespace fastspade

// A few gallery pixels, spread evenly over a few of the images that the search will visit: always the same ones for the
// same problem. Positions are on the finest grid.
#pragma once

#include <algorithm>
#include <cstdint>
#include <set>
#include <vector>

#include "core/problem.hpp"

namespace fastspade {

struct SampledPixel {
    int64_t image, y, x;
};

inline std::vector<SampledPixel> sample_gallery(const Problem& problem, int64_t wanted) {
    std::set<int64_t> used;
    const int64_t slots = problem.gallery_index ? problem.query[0].images() * problem.gallery_count : problem.gallery_count;
    for (int64_t slot = 0; slot < std::min<int64_t>(slots, 4096); ++slot)
        used.insert(problem.gallery_index ? problem.gallery_index[slot] : slot);
    const std::vector<int64_t> images(used.begin(), used.end());
    const TensorView& fine = problem.gallery[0];
    const int64_t found = static_cast<int64_t>(images.size()), taken = std::min<int64_t>(8, found);
    const int64_t per_image = std::min(fine.pixels(), (wanted + taken - 1) / taken);
    std::vector<SampledPixel> pixels;
    for (int64_t i = 0; i < taken; ++i)
        for (int64_t p = 0; p < per_image; ++p) {
            const int64_t pixel = p * fine.pixels() / per_image;
            pixels.push_back({images[static_cast<size_t>(i * found / taken)], pixel / fine.width(), pixel % fine.width()});
        }
    return pixels;
}

}  // namespace fastspade

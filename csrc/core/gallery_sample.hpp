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

inline std::vector<int64_t> sample_images(const Problem& problem, int64_t wanted) {
    std::vector<int64_t> images;
    if (problem.gallery_index) {
        const int64_t total = problem.query[0].images() * problem.gallery_count;
        const std::set<int64_t> used(problem.gallery_index, problem.gallery_index + std::min<int64_t>(total, 4096));
        images.assign(used.begin(), used.end());
    } else {
        for (int64_t i = 0; i < problem.gallery_count; ++i) images.push_back(i);
    }
    const int64_t found = static_cast<int64_t>(images.size()), taken = std::min(wanted, found);
    for (int64_t i = 0; i < taken; ++i) images[static_cast<size_t>(i)] = images[static_cast<size_t>(i * found / taken)];
    images.resize(static_cast<size_t>(taken));
    return images;
}

inline std::vector<SampledPixel> sample_gallery(const Problem& problem, int64_t wanted) {
    const std::vector<int64_t> images = sample_images(problem, 8);
    const TensorView& fine = problem.gallery[0];
    const int64_t taken = static_cast<int64_t>(images.size());
    const int64_t per_image = std::min(fine.pixels(), (wanted + taken - 1) / taken);
    std::vector<SampledPixel> pixels;
    for (int64_t image : images)
        for (int64_t p = 0; p < per_image; ++p) {
            const int64_t pixel = p * fine.pixels() / per_image;
            pixels.push_back({image, pixel / fine.width(), pixel % fine.width()});
        }
    return pixels;
}

}  // namespace fastspade

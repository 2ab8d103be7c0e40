// What every part of one search reads and none changes: the problem, its levels, the kernels, and what a few pixels of the
// gallery tell of the rest.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <set>
#include <vector>

#include "core/candidates.hpp"
#include "core/exact.hpp"
#include "core/problem.hpp"
#include "cpu/kernels.hpp"
#include "cpu/projection.hpp"

namespace fastspade::cpu {

// A few gallery pixels, spread evenly over a few of the images that the search will visit: always the same ones for the
// same problem. Positions are on the finest grid.
inline std::vector<SampledPixel> sample_gallery(const Problem& problem) {
    constexpr int64_t wanted = 256;
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

struct Setting {
    // Any centre is correct; one near the gallery's mean makes the rounding bound tight. A few hundred pixels spread over a few
    // images find it well enough.
    explicit Setting(const Problem& problem) : problem(problem), groups(group_levels(problem)) {
        const std::vector<SampledPixel> pixels = sample_gallery(problem);
        const TensorView& fine = problem.gallery[0];
        double largest = 0.0;
        for (const LevelGroup& group : groups) {
            const TensorView& view = group.gallery[0];
            const size_t channels = static_cast<size_t>(group.channels);
            std::vector<double> sum(channels, 0.0);
            std::vector<float> value(channels), low(channels, infinity), high(channels, -infinity), centres;
            for (const SampledPixel& pixel : pixels) {
                const int64_t at[1][2] = {{pixel.y * view.height() / fine.height(), pixel.x * view.width() / fine.width()}};
                read_vectors(group, Side::gallery, pixel.image, at, 1, value.data());
                for (size_t c = 0; c < channels; ++c) {
                    sum[c] += static_cast<double>(value[c]);
                    low[c] = std::min(low[c], value[c]), high[c] = std::max(high[c], value[c]);
                }
            }
            for (size_t c = 0; c < channels; ++c) {
                const float centre = static_cast<float>(sum[c] / static_cast<double>(pixels.size()));
                centres.push_back(std::isfinite(centre) ? centre : 0.0f);
                for (float extreme : {low[c], high[c]}) {
                    const double reach = std::abs(static_cast<double>(extreme) - static_cast<double>(centres[c]));
                    if (std::isfinite(reach)) largest = std::max(largest, reach);
                }
            }
            mean.push_back(std::move(centres));
        }
        if (largest > 0.0) scale = static_cast<float>(std::ldexp(1.0, std::clamp(-std::ilogb(largest), -120, 120)));
        if (several() && problem.prune) projection.fit(groups[0], pixels, mean[0], scale, problem.kappa, kernels);
    }

    bool several() const { return groups.size() > 1; }  // levels

    const Problem& problem;
    const Kernels& kernels = cpu::kernels();
    const std::vector<LevelGroup> groups;
    // One number per channel that is subtracted from both sides, and a power of two that brings values near one. Neither
    // changes which pairs are nearest: distances do not see a common shift, and the scale is common to all.
    std::vector<std::vector<float>> mean;  // [group][channel]
    float scale = 1.0f;
    Projection projection;  // of the finest level, where there are several
};

}  // namespace fastspade::cpu

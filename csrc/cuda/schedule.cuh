// The order in which a gallery image's Gram tiles are computed: the tiles of the finest group in turn, each preceded by the
// coarse tiles whose rows it interpolates from and that no earlier tile needed. One list serves all images. Here it is decided
// whether the finest group's projections are multiplied in its place.
#pragma once

#include "cuda/device.cuh"
#include "cuda/tiling.hpp"

namespace fastspade::cuda {

FASTSPADE_KERNEL(search_threads, 1) schedule_kernel(const ScheduleParameters p) {
    const auto needed = [&](int tile, int g) {
        return coarse_tiles_needed(p.tiling, tile, {p.group_height[g], p.group_width[g], p.group_stride[g]}, p.upsample);
    };
    const bool projecting = p.told && tells(p.told);
    for (int tile = thread_index(); tile < p.tiles; tile += search_threads) {
        int place = tile;
        for (int g = 1; g < p.group_count; ++g) place += needed(tile - 1, g);
        for (int g = 1; g < p.group_count; ++g) {
            const int done = needed(tile - 1, g), due = needed(tile, g);
            for (int i = done; i < due; ++i) p.jobs[place++] = static_cast<uint32_t>(g) << 28 | static_cast<uint32_t>(i);
        }
        p.jobs[place] = (projecting ? static_cast<uint32_t>(projected_group) << 28 : 0u) | static_cast<uint32_t>(tile);
    }
    const int axes = p.tiling.width + p.tiling.height;
    for (int i = thread_index(); i < axes * (p.group_count - 1); i += search_threads) {
        const int g = i / axes + 1, at = i % axes;
        const Tap tap = at < p.tiling.width ? axis_tap(at, p.group_width[g], p.tiling.width, p.upsample)
                                            : axis_tap(at - p.tiling.width, p.group_height[g], p.tiling.height, p.upsample);
        // A tap without weight is not read: it could hold a value that is not finite.
        p.taps[i] = {tap.low, tap.high_weight > 0.0 ? tap.high : tap.low, static_cast<float>(tap.low_weight),
                     static_cast<float>(tap.high_weight)};
    }
}

}  // namespace fastspade::cuda

// The order in which a gallery image's Gram tiles are computed: the tiles of the finest group in turn, each preceded by the
// coarse tiles whose rows it interpolates from and that no earlier tile needed. One list serves all images.
#pragma once

#include "cuda/device.cuh"
#include "cuda/parameters.hpp"

namespace fastspade::cuda {

// Coarse pixels (whole rows) that finest tiles 0 .. tile need, as a count of tiles. None where tile is -1.
FASTSPADE_HOST_DEVICE inline int coarse_tiles_needed(int tile, int width, int height, int group_height, int group_width,
                                                     Upsample mode) {
    if (tile < 0) return 0;
    const int64_t end = static_cast<int64_t>(tile + 1) * tile_columns, pixels = static_cast<int64_t>(width) * height;
    const int64_t last_row = ((end < pixels ? end : pixels) - 1) / width;
    const int64_t needed = (static_cast<int64_t>(axis_tap(last_row, group_height, height, mode).high) + 1) * group_width;
    return static_cast<int>((needed + tile_columns - 1) / tile_columns);
}

FASTSPADE_KERNEL(search_threads, 1) schedule_kernel(const ScheduleParameters p) {
    for (int tile = thread_index(); tile < p.tiles; tile += search_threads) {
        int place = tile;
        for (int g = 1; g < p.group_count; ++g)
            place += coarse_tiles_needed(tile - 1, p.width, p.height, p.group_height[g], p.group_width[g], p.upsample);
        for (int g = 1; g < p.group_count; ++g) {
            const int done = coarse_tiles_needed(tile - 1, p.width, p.height, p.group_height[g], p.group_width[g], p.upsample);
            const int due = coarse_tiles_needed(tile, p.width, p.height, p.group_height[g], p.group_width[g], p.upsample);
            for (int i = done; i < due; ++i) p.jobs[place++] = static_cast<uint32_t>(g) << 28 | static_cast<uint32_t>(i);
        }
        p.jobs[place] = static_cast<uint32_t>(tile);
    }
}

}  // namespace fastspade::cuda

// Which rows of the finest grid a tile covers, and so which coarse rows it needs. Host and device.
#pragma once

#include "cuda/parameters.hpp"

namespace fastspade::cuda {

FASTSPADE_HOST_DEVICE inline int patches_across(const Tiling& t) { return (t.width + patch_width - 1) / patch_width; }

FASTSPADE_HOST_DEVICE inline int64_t finest_tiles(const Tiling& t) {
    const int64_t pixels = t.patched ? static_cast<int64_t>(patches_across(t)) * ((t.height + patch_height - 1) / patch_height) *
                                           (patch_width * patch_height)
                                     : static_cast<int64_t>(t.width) * t.height;
    return (pixels + tile_columns - 1) / tile_columns;
}

FASTSPADE_HOST_DEVICE inline int64_t first_row(const Tiling& t, int64_t tile) {
    if (!t.patched) return tile * tile_columns / t.width;
    return tile * (tile_columns / (patch_width * patch_height)) / patches_across(t) * patch_height;
}

FASTSPADE_HOST_DEVICE inline int64_t last_row(const Tiling& t, int64_t tile) {
    const int64_t end = (tile + 1) * tile_columns, pixels = static_cast<int64_t>(t.width) * t.height;
    if (!t.patched) return ((end < pixels ? end : pixels) - 1) / t.width;
    const int64_t last =
        ((tile + 1) * (tile_columns / (patch_width * patch_height)) - 1) / patches_across(t) * patch_height + patch_height - 1;
    return last < t.height ? last : t.height - 1;
}

// A coarse group's grid and how its pixels are cut into tiles: `stride` pixels each, of the tile_columns that are multiplied.
struct CoarseGrid {
    int height, width, stride;
};

// Coarse pixels (whole rows) that finest tiles 0 .. tile need, as a count of tiles. None where tile is -1.
FASTSPADE_HOST_DEVICE inline int coarse_tiles_needed(const Tiling& t, int64_t tile, const CoarseGrid& grid, Upsample mode) {
    if (tile < 0) return 0;
    const int64_t needed = (static_cast<int64_t>(axis_tap(last_row(t, tile), grid.height, t.height, mode).high) + 1) * grid.width;
    return static_cast<int>((needed + grid.stride - 1) / grid.stride);
}

// Gram columns of a coarse group that must be on chip at once: from the first that a finest tile reads to the last computed
// by then, rounded up to four.
inline int ring_length(const Tiling& t, const CoarseGrid& grid, Upsample mode) {
    const int64_t own = static_cast<int64_t>(grid.height) * grid.width;
    int64_t longest = 1;
    for (int64_t tile = 0; tile < finest_tiles(t); ++tile) {
        const int64_t first = static_cast<int64_t>(axis_tap(first_row(t, tile), grid.height, t.height, mode).low) * grid.width;
        const int64_t done = static_cast<int64_t>(coarse_tiles_needed(t, tile, grid, mode)) * grid.stride;
        longest = longest > (done < own ? done : own) - first ? longest : (done < own ? done : own) - first;
    }
    return static_cast<int>((longest + 3) / 4 * 4);
}

// The stride with the shortest ring among those that need no more tiles than tile_columns do: tiles of whole rows leave
// less computed ahead of its use. A few are tried.
inline int coarse_stride(const Tiling& t, int height, int width, Upsample mode) {
    const auto tiles = [&](int stride) { return (static_cast<int64_t>(height) * width + stride - 1) / stride; };
    int best = tile_columns, shortest = ring_length(t, {height, width, best}, mode);
    for (int rows = tile_columns / width, tries = 4; rows > 0 && tries > 0 && tiles(rows * width) == tiles(tile_columns);
         --rows, --tries) {
        const int ring = ring_length(t, {height, width, rows * width}, mode);
        if (ring >= shortest) continue;
        best = rows * width;
        shortest = ring;
    }
    return best;
}

}  // namespace fastspade::cuda

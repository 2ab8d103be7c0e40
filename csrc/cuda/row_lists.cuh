// A block's query rows in shared memory: each row's terms, its limit, and its list of candidates, which is in shared memory
// or, where it is long, in the workspace. Lists are cut back by whole warps when they are full.
#pragma once

#include "cuda/candidates.cuh"
#include "cuda/parameters.hpp"

namespace fastspade::cuda {

struct alignas(16) Row {
    float norm, first, second, limit;
};

constexpr uint32_t no_place = ~0u;  // of columns without a pixel; beyond the 2^32 - 1 pairs that a search numbers

// Whether a gallery pixel equals kappa pixels before it (repeats.cuh).
FASTSPADE_DEVICE bool repeats(const SearchParameters& p, int query_image, int slot, int pixel) {
    const int64_t line = p.gallery_index ? static_cast<int64_t>(query_image) * p.slots + slot : slot;
    return p.repeats[line * p.repeat_words + (pixel >> 5)] >> (pixel & 31) & 1u;
}

// Which rows a block works on.
struct RowRange {
    int query_image, first_query, valid;  // rows beyond `valid` belong to no pixel
    int64_t query_base;                   // first row among all query images' pixels
    int64_t local_row;                    // first row of `kept` and `limits`
    int split;
};

FASTSPADE_DEVICE RowRange row_range(const SearchParameters& p, int rows) {
    RowRange range;
    range.split = block_index() % p.splits;
    const int local_tile = block_index() / p.splits, tile = p.first_tile + local_tile;
    range.query_image = tile / p.query_tiles;
    range.first_query = (tile - range.query_image * p.query_tiles) * rows;
    range.valid = p.query_pixels - range.first_query < rows ? p.query_pixels - range.first_query : rows;
    range.query_base = static_cast<int64_t>(range.query_image) * p.query_pixels + range.first_query;
    range.local_row = static_cast<int64_t>(local_tile) * rows;
    return range;
}

struct RowLists {
    Row* terms;
    int* counts;
    uint64_t* lists;

    FASTSPADE_DEVICE RowLists(const SearchParameters& p, char* shared, int rows)
        : terms(reinterpret_cast<Row*>(shared + p.row_offset)),
          counts(reinterpret_cast<int*>(terms + rows)),
          lists(p.lists ? p.lists + static_cast<int64_t>(block_index()) * rows * p.capacity
                        : reinterpret_cast<uint64_t*>(shared + p.list_offset)) {}

    FASTSPADE_DEVICE void open(const SearchParameters& p, const RowRange& range, int row) {
        Row row_terms{0.0f, 0.0f, 0.0f, -bits_float(0x7f800000u)};  // rows beyond the image keep nothing
        if (row < range.valid) {
            const Terms stored = p.query_terms[range.query_base + row];
            row_terms = Row{stored.norm, stored.first, stored.second, bits_float(0x7f7fffffu)};
        }
        terms[row] = row_terms;
        counts[row] = 0;
    }

    FASTSPADE_DEVICE void lower_limit(int row, float limit) {
        if (limit < terms[row].limit) terms[row].limit = limit;
    }

    // False where the list is full: cut back, then try again.
    FASTSPADE_DEVICE bool append(const SearchParameters& p, int row, float value, uint32_t place) {
        const int at = atomic_add(counts + row, 1);
        if (at >= p.capacity) return false;
        lists[static_cast<int64_t>(row) * p.capacity + at] = make_key(value, place);
        return true;
    }

    // Every `warps`-th row from the `warp`-th on: its `keep` smallest, and the limit they set. A barrier must lie between
    // this and appending, before and after.
    FASTSPADE_DEVICE void cut_back(const SearchParameters& p, const RowRange& range, int rows, int warp, int warps, int lane) {
        for (int row = warp; row < rows; row += warps) {
            const int count = counts[row] < p.capacity ? counts[row] : p.capacity;
            if (count <= p.keep) continue;
            const uint64_t last = keep_nearest(lists + static_cast<int64_t>(row) * p.capacity, count, p.keep, lane);
            if (lane == 0) {
                counts[row] = p.keep;
                const float reached = key_value(last);
                lower_limit(row, reached);
                if (p.splits > 1) atomic_min(p.limits + range.local_row + row, static_cast<uint32_t>(last >> 32));
            }
        }
    }

    // Hands the candidates over to finish.cuh.
    FASTSPADE_DEVICE void write(const SearchParameters& p, const RowRange& range, int warp, int warps, int lane) {
        for (int row = warp; row < range.valid; row += warps) {
            uint64_t* const list = lists + static_cast<int64_t>(row) * p.capacity;
            const int count = counts[row] < p.capacity ? counts[row] : p.capacity;
            keep_nearest(list, count, p.keep, lane);
            uint64_t* const kept = p.kept + ((range.local_row + row) * (p.splits + 1) + range.split) * p.keep;
            for (int i = lane; i < p.keep; i += 32) kept[i] = i < count ? list[i] : no_candidate;
        }
    }
};

}  // namespace fastspade::cuda

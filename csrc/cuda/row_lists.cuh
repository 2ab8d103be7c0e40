// A block's query rows in shared memory: each row's terms, its limit, and its list of candidates, which is in shared memory
// or, where it is long, in the workspace. Lists are cut back by whole warps when they are full.
#pragma once

#include "cuda/candidates.cuh"
#include "cuda/cursor.cuh"
#include "cuda/products.cuh"

namespace fastspade::cuda {

struct alignas(16) Row {
    float norm, operand, error, limit;  // the first three as Terms'
};

struct alignas(8) Tally {
    int count;
    float margin;  // how far bounds may lie below distances, of the candidates refined so far; -1: none is
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
    Tally* tallies;
    uint64_t* lists;

    FASTSPADE_DEVICE RowLists(const SearchParameters& p, char* shared, int rows)
        : terms(reinterpret_cast<Row*>(shared + p.row_offset)),
          tallies(reinterpret_cast<Tally*>(terms + rows)),
          lists(p.lists ? p.lists + static_cast<int64_t>(block_index()) * rows * p.capacity
                        : reinterpret_cast<uint64_t*>(shared + p.list_offset)) {}

    FASTSPADE_DEVICE void open(const SearchParameters& p, const RowRange& range, int row) {
        Row row_terms{0.0f, 0.0f, 0.0f, -bits_float(0x7f800000u)};  // rows beyond the image keep nothing
        if (row < range.valid) {
            const Terms stored = p.query_terms[projecting(p)][range.query_base + row];
            row_terms = Row{stored.norm, stored.operand, stored.error, bits_float(0x7f7fffffu)};
        }
        terms[row] = row_terms;
        tallies[row] = {0, -1.0f};
    }

    FASTSPADE_DEVICE void lower_limit(int row, float limit) {
        if (limit < terms[row].limit) terms[row].limit = limit;
    }

    // False where the list is full: cut back, then try again. Rows beyond the image keep nothing; a bound that is no number gets
    // past their limit.
    FASTSPADE_DEVICE bool append(const SearchParameters& p, const RowRange& range, int row, float value, uint32_t place) {
        if (row >= range.valid) return true;
        const int at = atomic_add(&tallies[row].count, 1);
        if (at >= p.capacity) return false;
        lists[static_cast<int64_t>(row) * p.capacity + at] = make_key(value, place);
        return true;
    }

    // Bounds by projections become bounds by all the finest channels, of those of a row's `count` candidates that are not such
    // yet: what was multiplied in their place is multiplied again and taken off.
    FASTSPADE_DEVICE void refine(const SearchParameters& p, const RowRange& range, int rows, int row, uint64_t* list, int count,
                                 int lane) {
        const int tile =
            p.first_tile + static_cast<int>(range.local_row / rows);  // the range's first query would take a register
        const int64_t query_row = static_cast<int64_t>(range.query_image) * p.query_pixels +
                                  static_cast<int64_t>(tile - range.query_image * p.query_tiles) * rows + row;
        const Terms query = p.query_terms[0][query_row];
        const Row by_projections = terms[row];
        const uint32_t pixels = static_cast<uint32_t>(p.height * p.width);
        float margin = tallies[row].margin < 0.0f ? 0.0f : tallies[row].margin;
        const int begin = tallies[row].margin < 0.0f ? 0 : p.keep;
#pragma unroll 1
        for (int first = begin; first < count; first += 4) {
            const int i = first + lane / 8;
            const uint64_t key = list[i < count ? i : first];
            const int slot = static_cast<int>(key_place(key) / pixels), pixel = static_cast<int>(key_place(key) % pixels);
            const int64_t image = image_of_slot(p, range.query_image, slot), at = image * pixels + pixel;
            const float ratio = p.query_scale[range.query_image] / p.gallery_scale[image];
            const Terms before = p.gallery_terms[1][at], gallery = p.gallery_terms[0][at];
            const Taps<1> tap{{pixel}, {1.0f}};
            const float slack = largest_product(0.0f, query, gallery);
            const float less = group_product(p, projected_group, query_row, image, tap, lane) -
                               group_product(p, 0, query_row, image, tap, lane) +
                               (largest_product(0.0f, by_projections, before) - slack);
            // The distance is at most this far above: the slack on the other side, what the norms were lessened by, and
            // roundings.
            const float norms =
                query.norm + query.operand * query.operand + ratio * ratio * (gallery.norm + gallery.operand * gallery.operand);
            const float above = 4.0f * ratio * slack + 0x1p-16f * norms + ratio * 0x1p-20f;
            warp_barrier();  // between reading these and writing them
            if (i < count) {
                if (lane % 8 == 0) list[i] = make_key(key_value(key) + 2.0f * ratio * less, key_place(key));
                margin = above > margin ? above : margin;
            }
        }
        for (int mask = 8; mask < 32; mask <<= 1) {
            const float other = warp_shuffle_xor(margin, mask);
            margin = other > margin ? other : margin;
        }
        if (lane == 0) {
            tallies[row].margin = margin;
            atomic_add(p.counters + fine_pairs, static_cast<int64_t>(count - begin));
        }
        warp_barrier();
    }

    // Every `warps`-th row from the `warp`-th on: its `keep` smallest, and the limit they set: the largest of them or, with
    // projections, what the kappa-th distance cannot exceed. A barrier must lie between this and appending, before and after.
    FASTSPADE_DEVICE void cut_back(const SearchParameters& p, const RowRange& range, int rows, int warp, int warps, int lane) {
        for (int row = warp; row < rows; row += warps) {
            const int count = tallies[row].count < p.capacity ? tallies[row].count : p.capacity;
            if (count <= p.keep) continue;
            uint64_t* const list = lists + static_cast<int64_t>(row) * p.capacity;
            if (projecting(p)) refine(p, range, rows, row, list, count, lane);
            float reached = key_value(keep_nearest(list, count, p.keep, lane));
            if (projecting(p) && count <= short_list) {  // sorted
                const float farthest = key_value(list[p.kappa - 1]) + tallies[row].margin;
                reached = farthest < reached ? farthest : reached;
            }
            if (lane == 0) {
                tallies[row].count = p.keep;
                lower_limit(row, reached);
                if (reached == reached) atomic_min(p.limits + range.local_row + row, ordered_bits(reached));
            }
        }
    }

    // Hands the candidates over to finish.cuh.
    FASTSPADE_DEVICE void write(const SearchParameters& p, const RowRange& range, int rows, int warp, int warps, int lane) {
        for (int row = warp; row < range.valid; row += warps) {
            uint64_t* const list = lists + static_cast<int64_t>(row) * p.capacity;
            const int count = tallies[row].count < p.capacity ? tallies[row].count : p.capacity;
            if (projecting(p)) refine(p, range, rows, row, list, count, lane);
            keep_nearest(list, count, p.keep, lane);
            uint64_t* const kept = p.kept + ((range.local_row + row) * (p.splits + 1) + range.split) * p.keep;
            for (int i = lane; i < p.keep; i += 32) kept[i] = i < count ? list[i] : no_candidate;
        }
    }
};

}  // namespace fastspade::cuda

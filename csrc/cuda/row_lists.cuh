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
    int count, refined;  // of which the first ones are
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
        tallies[row] = {0, 0};
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

    // First row of `rows` among all query images' pixels; the range's would take a register.
    static FASTSPADE_DEVICE int64_t query_row(const SearchParameters& p, const RowRange& range, int rows, int row) {
        const int tile = p.first_tile + static_cast<int>(range.local_row / rows);
        return static_cast<int64_t>(range.query_image) * p.query_pixels +
               static_cast<int64_t>(tile - range.query_image * p.query_tiles) * rows + row;
    }

    // A candidate's pixel, and how much larger the query's scale is than its.
    struct Candidate {
        int64_t image;
        int pixel;
        float ratio;
    };
    static FASTSPADE_DEVICE Candidate candidate(const SearchParameters& p, const RowRange& range, uint64_t key) {
        const uint32_t pixels = static_cast<uint32_t>(p.height * p.width);
        const int64_t image = image_of_slot(p, range.query_image, static_cast<int>(key_place(key) / pixels));
        return {image, static_cast<int>(key_place(key) % pixels), p.query_scale[range.query_image] / p.gallery_scale[image]};
    }

    // Bounds by the first directions become bounds by all, of those of a row's `count` candidates that are not such yet.
    FASTSPADE_DEVICE void refine(const SearchParameters& p, const RowRange& range, int rows, int row, uint64_t* list, int count,
                                 int lane) {
        const int64_t query = query_row(p, range, rows, row);
        const int begin = tallies[row].refined;
#pragma unroll 1
        for (int first = begin; first < count; first += 4) {
            const int i = first + lane / 8;
            const uint64_t key = list[i < count ? i : first];
            const Candidate at = candidate(p, range, key);
            const float product = group_product(p, refining_group, query, at.image, Taps<1>{{at.pixel}, {1.0f}}, lane);
            warp_barrier();  // between reading these and writing them
            if (i < count && lane % 8 == 0) list[i] = make_key(key_value(key) - 2.0f * at.ratio * product, key_place(key));
        }
        if (lane == 0) atomic_add(p.counters + fine_pairs, static_cast<int64_t>(count - begin));
        warp_barrier();
    }

    // What the kappa-th distance cannot exceed: the most that those of the kappa candidates with the least bounds can be, which
    // are first in the list.
    FASTSPADE_DEVICE float farthest(const SearchParameters& p, const RowRange& range, int rows, int row, const uint64_t* list,
                                    int lane) {
        const Terms query = p.query_terms[1][query_row(p, range, rows, row)];
        float most = -bits_float(0x7f800000u);
        for (int i = lane; i < p.kappa; i += 32) {
            const Candidate at = candidate(p, range, list[i]);
            const Terms gallery = p.gallery_terms[1][at.image * p.height * p.width + at.pixel];
            // Above its bound by the rests' product and the slack on both sides, what the norms were lessened by, and roundings.
            const float products = query.length * gallery.length + largest_product(0.0f, query, gallery);
            const float norms = query.norm + query.operand * query.operand +
                                at.ratio * at.ratio * (gallery.norm + gallery.operand * gallery.operand);
            const float distance = key_value(list[i]) + 4.0f * at.ratio * products + 0x1p-16f * norms + at.ratio * 0x1p-20f;
            most = distance <= most ? most : distance == distance ? distance : bits_float(0x7f800000u);
        }
        for (int mask = 1; mask < 32; mask <<= 1) {
            const float other = warp_shuffle_xor(most, mask);
            most = other > most ? other : most;
        }
        return most;
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
                const float distance = farthest(p, range, rows, row, list, lane);
                reached = distance < reached ? distance : reached;
            }
            if (lane == 0) {
                tallies[row] = {p.keep, p.keep};
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

// The search on sm_90a: what search.cuh computes, with bulk tensor copies and warpgroup products.
//
// One thread of the first warpgroup starts the copies of all steps in order. The two other warpgroups take the Gram tiles in
// turn, 128 gallery pixels by 128 or 96 queries each: while one multiplies, the other writes its coarse tile to the rings or
// turns its finest tile into lower bounds. Multiplications happen strictly in order, and so do the second halves, handed
// from one warpgroup to the other by mbarriers. The first keeps a warpgroup from mistaking an earlier phase of a stage for
// its own, of which only the parity tells; the second alone keeps rings, limits and lists consistent.
//
// Gallery pixels are the products' rows, so that a thread has few pixels and many queries. With several groups a tile's
// pixels are four patches, one per warp, 8 pixels wide and 4 high, and a thread owns a column of a patch: its four pixels
// share most of the coarse values that they interpolate from.
#pragma once

#include "cuda/cursor.cuh"
#include "cuda/device_sm90.cuh"
#include "cuda/engine_sm90.hpp"
#include "cuda/row_lists.cuh"
#include "cuda/tiling.hpp"

namespace fastspade::cuda {

constexpr int sm90_threads = sm90_block_threads;
constexpr int sm90_most_stages = 4;
constexpr int sm90_gallery_bytes = tile_columns * step_channels * 2;  // a step's
constexpr int own_pixels = 4, chunk_queries = 8;  // a thread's share of a tile: pixels, and queries of each chunk

// A thread's accumulators: two products of 64 pixels; its pixel v is in product v % 2, half v / 2. `Chunks` says how many
// queries a tile has: 32 each.
template <int Chunks>
struct Share {
    static constexpr int rows = 32 * Chunks;
    static constexpr int query_bytes = rows * step_channels * 2, stage_bytes = query_bytes + sm90_gallery_bytes;  // queries first
    static constexpr int ring_bytes = rows * 2;  // a coarse pixel's

    float value[2][16 * Chunks];

    FASTSPADE_DEVICE float& at(int v, int chunk, int i) {
        return value[v & 1][(chunk * 4 + (i >> 1)) * 4 + (v >> 1) * 2 + (i & 1)];
    }
};
// Row of a tile, and query, that belong to a thread's pixel v and to element i of a chunk.
FASTSPADE_DEVICE int share_row(int warp, int lane, int v) { return 32 * warp + 8 * v + (lane >> 2); }
FASTSPADE_DEVICE int share_query(int lane, int chunk, int i) { return (chunk * 4 + (i >> 1)) * 8 + (lane & 3) * 2 + (i & 1); }

// Where a coarse pixel's values for a chunk lie: 16 bytes; pixels side by side lie in different banks, with three chunks
// because of their 192 bytes.
template <int Chunks>
FASTSPADE_DEVICE int ring_place(int slot, int lane, int chunk) {
    const int swizzle = Chunks % 2 == 0 ? (slot & 1) << 2 : 0;
    return slot * Share<Chunks>::ring_bytes + (((chunk * 4 + (lane & 3)) ^ swizzle) << 4);
}
struct alignas(16) RingUnit {
    uint32_t word[4];
};

struct Sm90Barriers {
    uint64_t full[sm90_most_stages], empty[sm90_most_stages];
    uint64_t multiply[2], finish[2];  // handed to a consumer when the other one's tile before has done so
};

// A thread's finest pixels. One beyond the image, or that repeats others, has an infinite norm and is no candidate.
struct OwnPixels {
    struct {
        float norm, operand, error;
    } terms[own_pixels];
    uint32_t first, apart, candidates;  // place of the first, distance between places, and one bit per pixel
};

template <int Chunks>
FASTSPADE_DEVICE void sm90_load(const Sm90Parameters& p, const RowRange& range, char* shared, Sm90Barriers& barriers) {
    const SearchParameters& s = p.search;
    const Tiling tiling{s.width, s.height, p.patched};
    const int across = patches_across(tiling);
    for (int g = 0; g < s.group_count; ++g) {
        const int operands = g == 0 && projecting(s) ? projected_group : g;
        tensor_map_prefetch(p.query[operands]);
        tensor_map_prefetch(p.gallery[operands]);
    }
    Cursor c{};
    c.unit = range.split;
    int stage = 0;
    uint32_t parity = 0;
    for (open_unit(s, c, range.query_image); !c.done; advance(s, c, range.query_image)) {
        const SearchGroup& group = s.groups[c.group];
        char* const queries = shared + stage * Share<Chunks>::stage_bytes;
        char* const pixels = queries + Share<Chunks>::query_bytes;
        uint64_t* const full = barriers.full + stage;
        const int channel = c.step * step_channels;
        mbarrier_wait(barriers.empty + stage, parity ^ 1u);
        // What lies outside an array is filled in and counts. Rows beyond a coarse tile's are not copied: their products are not
        // used.
        mbarrier_arrive_expect(full, Share<Chunks>::query_bytes + group.stride * step_channels * 2);
        tensor_load(queries, p.query[c.group], full, channel, static_cast<int32_t>(range.query_base));
        if (c.finest() && p.patched) {
            const int patch = c.first / (patch_width * patch_height);
            for (int w = 0; w < 4; ++w)
                tensor_load(pixels + w * sm90_gallery_bytes / 4, p.gallery[c.group], full, channel,
                            (patch + w) % across * patch_width, (patch + w) / across * patch_height, c.image);
        } else {
            tensor_load(pixels, p.gallery[c.group], full, channel, c.image * group.height * group.width + c.first);
        }
        if (++stage == p.stages) {
            stage = 0;
            parity ^= 1u;
        }
    }
}

// Starts the products of one step: 64 channels.
template <class Operand, int Chunks>
FASTSPADE_DEVICE void sm90_multiply_step(char* shared, Sm90Barriers& barriers, int stage, uint32_t parity, bool accumulate,
                                         Share<Chunks>& share) {
    mbarrier_wait(barriers.full + stage, parity);
    const char* const queries = shared + stage * Share<Chunks>::stage_bytes;
    const char* const pixels = queries + Share<Chunks>::query_bytes;
    // Every other group of eight rows: a product's rows are a patch's even or odd ones.
    uint64_t even = operand_descriptor(pixels, 2048), odd = operand_descriptor(pixels + 1024, 2048);
    uint64_t query = operand_descriptor(queries, 1024);
    product_pin(share.value[0]);
    product_pin(share.value[1]);
    product_fence();
#pragma unroll
    for (int k = 0; k < step_channels / 16; ++k) {
        multiply_async(Operand{}, share.value[0], even, query, accumulate || k > 0);
        multiply_async(Operand{}, share.value[1], odd, query, accumulate || k > 0);
        even += operand_next_channels;
        odd += operand_next_channels;
        query += operand_next_channels;
    }
    product_commit();
}

// Products of one tile, over all its steps. `at` counts the steps before it, of both warpgroups; `other` is handed the
// multiplication once the last products are under way.
template <class Operand, int Chunks>
FASTSPADE_DEVICE void sm90_multiply(const Sm90Parameters& p, int steps, uint32_t at, char* shared, Sm90Barriers& barriers,
                                    int other, int lane, Share<Chunks>& share) {
    int stage = static_cast<int>(at % static_cast<uint32_t>(p.stages));
    uint32_t parity = at / static_cast<uint32_t>(p.stages) & 1u;
    sm90_multiply_step<Operand, Chunks>(shared, barriers, stage, parity, false, share);
    for (int step = 1; step < steps; ++step) {
        const int before = stage;
        if (++stage == p.stages) {
            stage = 0;
            parity ^= 1u;
        }
        sm90_multiply_step<Operand, Chunks>(shared, barriers, stage, parity, true, share);
        product_wait<1>();  // the step before has been read
        if (lane == 0) mbarrier_arrive(barriers.empty + before);
    }
    if (lane == 0) mbarrier_arrive(barriers.multiply + other);
    product_wait<0>();
    product_pin(share.value[0]);
    product_pin(share.value[1]);
    if (lane == 0) mbarrier_arrive(barriers.empty + stage);
}

// A coarse tile goes to its ring.
template <int Chunks>
FASTSPADE_DEVICE void sm90_store(const SearchGroup& group, int first, char* shared, int warp, int lane, Share<Chunks>& share) {
    char* const ring = shared + group.ring_offset;
    const int pixels = group.height * group.width, end = first + group.stride < pixels ? first + group.stride : pixels;
    const int start = first % group.ring;
#pragma unroll
    for (int v = 0; v < own_pixels; ++v) {
        const int at = share_row(warp, lane, v);
        if (first + at >= end) continue;
        const int slot = in_ring(start + at, group);
#pragma unroll
        for (int chunk = 0; chunk < Chunks; ++chunk) {
            RingUnit unit;
#pragma unroll
            for (int i = 0; i < 4; ++i) unit.word[i] = pack_halves(share.at(v, chunk, 2 * i), share.at(v, chunk, 2 * i + 1));
            *reinterpret_cast<RingUnit*>(ring + ring_place<Chunks>(slot, lane, chunk)) = unit;
        }
    }
}

// Adds the coarse groups' Gram values, interpolated at a patch's column: along the row first, once for its four pixels.
template <int Chunks>
FASTSPADE_DEVICE void sm90_interpolate(const Sm90Parameters& p, int x, int y, const char* shared, int lane,
                                       Share<Chunks>& share) {
    const SearchParameters& s = p.search;
    const int column = x < s.width ? x : s.width - 1, last = y + own_pixels <= s.height ? y + own_pixels - 1 : s.height - 1;
    const AxisTap* taps = s.taps;
    for (int g = 1; g < s.group_count; ++g, taps += s.width + s.height) {
        const SearchGroup& group = s.groups[g];
        const char* const ring = shared + group.ring_offset;
        const AxisTap across = taps[column];
        const int own_y = y + lane % own_pixels;  // a lane holds the tap of one row, for all
        const AxisTap down = taps[s.width + (own_y <= last ? own_y : last)];
        const int end = warp_shuffle(down.high, own_pixels - 1);
        for (int row = warp_shuffle(down.low, 0); row <= end; ++row) {
            const int start = row * group.width % group.ring;
            const int left = in_ring(start + across.low, group), right = in_ring(start + across.high, group);
            const float own_weight = row == down.low ? down.low_weight : row == down.high ? down.high_weight : 0.0f;
            float weight[own_pixels];
#pragma unroll
            for (int v = 0; v < own_pixels; ++v) weight[v] = warp_shuffle(own_weight, v);
#pragma unroll
            for (int chunk = 0; chunk < Chunks; ++chunk) {
                const RingUnit a = *reinterpret_cast<const RingUnit*>(ring + ring_place<Chunks>(left, lane, chunk));
                const RingUnit b = *reinterpret_cast<const RingUnit*>(ring + ring_place<Chunks>(right, lane, chunk));
                float between[chunk_queries];
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    float a0, a1, b0, b1;
                    unpack_halves(a.word[i], a0, a1);
                    unpack_halves(b.word[i], b0, b1);
                    between[2 * i] = across.low_weight * a0 + across.high_weight * b0;
                    between[2 * i + 1] = across.low_weight * a1 + across.high_weight * b1;
                }
#pragma unroll
                for (int v = 0; v < own_pixels; ++v)
                    if (weight[v] != 0.0f)
#pragma unroll
                        for (int i = 0; i < chunk_queries; ++i) share.at(v, chunk, i) += weight[v] * between[i];
            }
        }
    }
}

// A finest tile's sums become lower bounds, and those below their row's limit candidates.
template <int Chunks>
FASTSPADE_DEVICE void sm90_append(const SearchParameters& s, const RowRange& range, RowLists& list, const OwnPixels& own,
                                  float ratio, int group, int warp, int lane, Share<Chunks>& share) {
    bool survivors = false;
#pragma unroll
    for (int chunk = 0; chunk < Chunks; ++chunk)
#pragma unroll
        for (int i = 0; i < chunk_queries; ++i) {
            const Row row = list.terms[share_query(lane, chunk, i)];
#pragma unroll
            for (int v = 0; v < own_pixels; ++v) {
                float& value = share.at(v, chunk, i);
                value = row.norm + own.terms[v].norm - 2.0f * ratio * largest_product(value, row, own.terms[v]);
                survivors |= !(value > row.limit);
            }
        }
    // They are rare, so they are fetched one by one. When a list is full, cut it back and try again with what did not fit.
    while (group_any(group, 128, survivors)) {
        bool full = false;
        if (survivors) {
            survivors = false;
#pragma unroll
            for (int chunk = 0; chunk < Chunks; ++chunk) {
                uint32_t left = 0u;  // one bit per pair
#pragma unroll
                for (int i = 0; i < chunk_queries * own_pixels; ++i)
                    if (!(share.at(i % own_pixels, chunk, i / own_pixels) >
                          list.terms[share_query(lane, chunk, i / own_pixels)].limit))
                        left |= 1u << i;
                for (; left != 0u; left &= left - 1u) {
                    const int bit = lowest_bit(left);
                    const uint32_t v = static_cast<uint32_t>(bit % own_pixels);
                    float value = 0.0f;
#pragma unroll
                    for (int i = 0; i < chunk_queries * own_pixels; ++i)
                        if (i == bit) value = share.at(i % own_pixels, chunk, i / own_pixels);
                    // One that is no candidate is here because a query that is not finite makes every bound a NaN.
                    if (own.candidates >> v & 1u &&
                        !list.append(s, range, share_query(lane, chunk, bit / own_pixels), value, own.first + v * own.apart)) {
                        full = survivors = true;
                        continue;
                    }
#pragma unroll
                    for (int i = 0; i < chunk_queries * own_pixels; ++i)
                        if (i == bit) share.at(i % own_pixels, chunk, i / own_pixels) = bits_float(0x7f800000u);
                }
            }
        }
        if (!group_any(group, 128, full)) break;
        list.cut_back(s, range, Share<Chunks>::rows, warp, 4, lane);
        group_barrier(group, 128);
    }
}

template <class Operand, int Chunks>
FASTSPADE_DEVICE void sm90_consume(const Sm90Parameters& p, const RowRange& range, RowLists& list, char* shared,
                                   Sm90Barriers& barriers, int consumer, int thread) {
    const SearchParameters& s = p.search;
    const int lane = thread & 31, warp = thread >> 5, pixels = s.height * s.width;
    const Tiling tiling{s.width, s.height, p.patched};
    const int across = patches_across(tiling);
    Share<Chunks> share;
    Cursor c{};
    c.unit = range.split;
    open_unit(s, c, range.query_image);
    uint32_t at = 0, tile = 0;
    int group = -1;  // of the tile at hand
    for (; !c.done; advance_job(s, c, range.query_image), ++tile) {
        const uint32_t first_step = at;
        at += static_cast<uint32_t>(c.steps);
        const int before = group;  // of the other warpgroup's tile
        group = c.group;
        if (tile % 2 != static_cast<uint32_t>(consumer)) continue;
        // A parity; the first turn is the first warpgroup's, without a hand-over.
        const uint32_t turn = (tile + 1) / 2 % 2 ^ 1u;
        OwnPixels own{};
        float ratio = 1.0f, limit = bits_float(0x7f800000u);
        const auto column = [&] { return (c.first / (patch_width * patch_height) + warp) % across * patch_width + (lane >> 2); };
        const auto top_row = [&] { return (c.first / (patch_width * patch_height) + warp) / across * patch_height; };
        if (c.finest()) {  // fetched ahead of the products
            const int slot = c.unit / s.segments;
            const int64_t image = image_of_slot(s, range.query_image, slot);  // the cursor's would take a register
            ratio = s.query_scale[range.query_image] / s.gallery_scale[image];
            const int x = column(), y = top_row(), apart = p.patched ? s.width : share_row(0, 0, 1);
            const int first = p.patched ? y * s.width + x : c.first + share_row(warp, lane, 0);
            own.first = static_cast<uint32_t>(slot) * static_cast<uint32_t>(pixels) + static_cast<uint32_t>(first);
            own.apart = static_cast<uint32_t>(apart);
#pragma unroll
            for (int v = 0; v < own_pixels; ++v) {
                const int pixel = first + v * apart;
                own.terms[v] = {bits_float(0x7f800000u), 0.0f, 0.0f};
                if (p.patched ? x >= s.width || y + v >= s.height : pixel >= pixels) continue;
                if (repeats(s, range.query_image, slot, pixel)) continue;
                const Terms terms = s.gallery_terms[c.group == projected_group][image * pixels + pixel];
                own.terms[v] = {terms.norm * ratio * ratio, terms.operand, terms.error};
                own.candidates |= 1u << v;
            }
            if (s.splits > 1 && thread < range.valid)
                limit = from_ordered_bits(load_volatile(s.limits + range.local_row + thread));
        }
        mbarrier_wait(barriers.multiply + consumer, turn);
        sm90_multiply<Operand, Chunks>(p, c.steps, first_step, shared, barriers, 1 - consumer, lane, share);
        // Only coarse tiles write to the rings: after a finest one they hold what they held when this warpgroup last had its
        // turn.
        const bool ahead = c.finest() && before % max_groups == 0;
        // Waits spelt out twice: in a lambda they make the compiler spill.
        if (!ahead) mbarrier_wait(barriers.finish + consumer, turn);
        if (c.finest() && p.patched) {
            group_barrier(1 + consumer, 128);  // what this warpgroup's other warps wrote to the rings
                                               // Subnormal halves in the rings round by up to 2^-25: a bound must not suffer.
#pragma unroll
            for (int v = 0; v < own_pixels; ++v) own.terms[v].norm -= 2.0f * ratio * 0x1p-22f;
            if (const int y = top_row(); y < s.height) sm90_interpolate(p, column(), y, shared, lane, share);
        }
        if (ahead) mbarrier_wait(barriers.finish + consumer, turn);
        if (!c.finest()) {
            sm90_store(s.groups[c.group], c.first, shared, warp, lane, share);
        } else {
            if (thread < Share<Chunks>::rows) list.lower_limit(thread, limit);
            group_barrier(1 + consumer, 128);
            sm90_append(s, range, list, own, ratio, 1 + consumer, warp, lane, share);
        }
        warp_barrier();
        if (lane == 0) mbarrier_arrive(barriers.finish + 1 - consumer);
    }
    group_barrier(3, 256);
    list.write(s, range, Share<Chunks>::rows, consumer * 4 + warp, 8, lane);
}

template <class Operand, int Chunks>
FASTSPADE_KERNEL(sm90_threads, 1)
search_sm90_kernel(FASTSPADE_BY_REFERENCE Sm90Parameters p) {
    char* const shared = shared_memory_of_boxes();
    auto& barriers = *reinterpret_cast<Sm90Barriers*>(shared + p.barrier_offset);
    const int thread = thread_index();
    const RowRange range = row_range(p.search, Share<Chunks>::rows);
    RowLists list(p.search, shared, Share<Chunks>::rows);
    if (thread < Share<Chunks>::rows) list.open(p.search, range, thread);
    if (thread == 0) {
        for (int stage = 0; stage < p.stages; ++stage) {
            mbarrier_init(barriers.full + stage, 1);
            mbarrier_init(barriers.empty + stage, 4);  // a consumer's warps
        }
        for (int consumer = 0; consumer < 2; ++consumer) {
            mbarrier_init(barriers.multiply + consumer, 4);
            mbarrier_init(barriers.finish + consumer, 4);
        }
        mbarrier_init_fence();
    }
    block_barrier();
    // From one lane, so that the compiler knows that warps do not diverge here: products must not.
    const int warpgroup = warp_shuffle(thread >> 7, 0);
    if (warpgroup == 0) {
        registers_shrink<24>();
        if (thread == 0) sm90_load<Chunks>(p, range, shared, barriers);
    } else {
        registers_grow<240>();
        sm90_consume<Operand, Chunks>(p, range, list, shared, barriers, warpgroup - 1, thread & 127);
    }
}

}  // namespace fastspade::cuda

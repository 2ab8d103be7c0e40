// The search: a block holds one tile of query pixels against its share of the gallery, level by level on tensor cores, and
// keeps the candidates with the smallest lower bounds. Per-pair values never leave the chip; only surviving candidates do.
//
// Per gallery image the Gram tiles come in the order of schedule.cuh: coarse tiles go to rings in shared memory; a tile of
// the finest group is completed by the interpolated coarse values of its columns and turned into lower bounds
//   |q|^2 + |r|^2 - 2 (<q^, r^> + |q^| e(r) + |q - q^| |r|)   <=   |q - r|^2
// which are compared with the row's limit. The rare survivor is appended to the row's list. Full lists are cut back to the
// `keep` smallest, and the limit falls to the largest of those.
//
// Copies run ahead of the multiplication by two steps, across tiles and images.
#pragma once

#include "cuda/cursor.cuh"
#include "cuda/gram_ring.cuh"
#include "cuda/row_lists.cuh"
#include "cuda/tile.cuh"

namespace fastspade::cuda {

// One finest column of the tile at hand.
struct alignas(16) Column {
    float norm, operand, error;
    uint32_t place;  // slot * pixels + pixel, or no_place
};
struct alignas(8) ColumnSample {  // in one coarse ring
    float weight[4];
    uint16_t place[4];  // as GramRing's
};

template <class Operand, int RowTiles, int StepChannels>
FASTSPADE_KERNEL(search_threads, 1)
search_kernel(const SearchParameters p) {
    using Gram = Tile<RowTiles, StepChannels>;
    using Ring = GramRing<RowTiles>;
    constexpr int rows = Gram::rows, own = 2 * RowTiles;  // rows per thread
    char* const shared = shared_memory();
    auto* const columns = reinterpret_cast<Column*>(shared + p.column_offset);
    auto* const samples = reinterpret_cast<ColumnSample*>(columns + tile_columns);

    const int thread = thread_index(), lane = thread & 31, warp = thread >> 5;
    const int warp_row = (warp >> 2) * 16 * RowTiles, warp_column = (warp & 3) * 32;
    const int group_of_lane = lane >> 2, unit = (warp >> 2) * 8 + group_of_lane;
    const RowRange range = row_range(p, rows);
    const int query_image = range.query_image;
    const int pixels = p.height * p.width;
    RowLists list(p, shared, rows);
    for (int row = thread; row < rows; row += search_threads) list.open(p, range, row);
    const float query_scale = p.query_scale[query_image];

    Cursor load{}, use{};
    load.unit = use.unit = range.split;
    open_unit(p, load, query_image);
    open_unit(p, use, query_image);
    auto start_copy = [&](int stage) {
        if (!load.done) {
            const SearchGroup& group = p.groups[load.group];
            const int group_pixels = group.height * group.width;
            Gram::load(shared + stage * Gram::stage_bytes,
                       group.query + range.query_base * group.channels + load.step * StepChannels, range.valid,
                       group.gallery + (static_cast<int64_t>(load.image) * group_pixels + load.first) * group.channels +
                           load.step * StepChannels,
                       group.stride < group_pixels - load.first ? group.stride : group_pixels - load.first, group.channels,
                       group.channels - load.step * StepChannels, thread);
            advance(p, load, query_image);
        }
        copy_commit();  // empty groups keep the count of groups in step with the count of stages
    };
#pragma unroll
    for (int stage = 0; stage < pipeline_stages - 1; ++stage) start_copy(stage);

    Gram gram;
    int stage = 0;
    while (!use.done) {
        gram.clear();
        float ratio = 1.0f;
        const SearchGroup& group = p.groups[use.group];
        const int group_pixels = group.height * group.width;
        const int end = use.first + group.stride < group_pixels ? use.first + group.stride : group_pixels;
        for (int step = 0; step < use.steps; ++step) {
            copy_wait<pipeline_stages - 2>();
            // Every thread's copies of this step have landed, and every thread is done with the stage copied to next.
            block_barrier();
            start_copy(stage == 0 ? pipeline_stages - 1 : stage - 1);
            if (step == 0 && use.finest()) {
                ratio = query_scale / p.gallery_scale[use.image];
                if (thread < tile_columns) {
                    const int pixel = use.first + thread;
                    Column column{bits_float(0x7f800000u), 0.0f, 0.0f, no_place};  // beyond the image: never a candidate
                    if (pixel < pixels) {
                        const int slot = use.unit / p.segments;
                        if (!repeats(p, query_image, slot, pixel)) {
                            const Terms terms =
                                p.gallery_terms[use.group == projected_group][static_cast<int64_t>(use.image) * pixels + pixel];
                            column = Column{
                                terms.norm * ratio * ratio, terms.operand, terms.error,
                                static_cast<uint32_t>(slot) * static_cast<uint32_t>(pixels) + static_cast<uint32_t>(pixel)};
                            // Subnormal halves in the rings round by up to 2^-25: a bound must not suffer.
                            if (p.group_count > 1) column.norm -= 2.0f * ratio * 0x1p-22f;
                        }
                        const int y = pixel / p.width;
                        const AxisTap* taps = p.taps;
                        for (int g = 1; g < p.group_count; ++g, taps += p.width + p.height) {
                            const SearchGroup& coarse = p.groups[g];
                            const AxisTap right = taps[pixel - y * p.width], down = taps[p.width + y];
                            ColumnSample sample{};
                            const int start[2] = {down.low * coarse.width % coarse.ring, down.high * coarse.width % coarse.ring};
                            for (int i = 0; i < 4; ++i) {
                                const int at = in_ring(start[i / 2] + (i % 2 ? right.high : right.low), coarse);
                                sample.place[i] = static_cast<uint16_t>(Ring::place(coarse.ring_offset, at));
                                sample.weight[i] =
                                    (i < 2 ? down.low_weight : down.high_weight) * (i % 2 ? right.high_weight : right.low_weight);
                            }
                            samples[(g - 1) * tile_columns + thread] = sample;
                        }
                    }
                    columns[thread] = column;
                } else if (p.splits > 1 && thread - tile_columns < range.valid) {
                    const int row = thread - tile_columns;
                    list.lower_limit(row, from_ordered_bits(load_volatile(p.limits + range.local_row + row)));
                }
            }
            // A warp whose columns all lie beyond the image or the tile has nothing to multiply.
            if (use.first + warp_column < end)
                gram.template multiply_step<Operand>(shared + stage * Gram::stage_bytes, group.channels - step * StepChannels,
                                                     warp_row, warp_column, lane);
            stage = stage == pipeline_stages - 1 ? 0 : stage + 1;
        }

        if (!use.finest()) {
            const int start = use.first % group.ring;
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                const int at = warp_column + (j >> 1) * 8 + (lane & 3) * 2 + (j & 1);
                if (use.first + at >= end) continue;
                float values[own];
#pragma unroll
                for (int i = 0; i < own; ++i) values[i] = gram.value[i >> 1][j >> 1][(i & 1) * 2 + (j & 1)];
                Ring::write(shared, Ring::place(group.ring_offset, in_ring(start + at, group)) ^ unit, values);
            }
        } else {
            block_barrier();  // columns and rings are complete
            Row row[own];
#pragma unroll
            for (int i = 0; i < own; ++i) row[i] = list.terms[warp_row + i * 8 + group_of_lane];
            bool survivors = false;
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                const int at = warp_column + (j >> 1) * 8 + (lane & 3) * 2 + (j & 1);
                const Column column = columns[at];
                float sum[own];
#pragma unroll
                for (int i = 0; i < own; ++i) sum[i] = gram.value[i >> 1][j >> 1][(i & 1) * 2 + (j & 1)];
                if (use.first + at < pixels)
#pragma unroll 1
                    for (int g = 1; g < p.group_count; ++g) {
                        const ColumnSample sample = samples[(g - 1) * tile_columns + at];
                        Ring::add(shared, sample.place[0] ^ unit, sample.weight[0], sum);
                        if (sample.weight[0] == 1.0f) continue;
#pragma unroll
                        for (int k = 1; k < 4; ++k) Ring::add(shared, sample.place[k] ^ unit, sample.weight[k], sum);
                    }
#pragma unroll
                for (int i = 0; i < own; ++i) {
                    const float value = row[i].norm + column.norm - 2.0f * ratio * largest_product(sum[i], row[i], column);
                    gram.value[i >> 1][j >> 1][(i & 1) * 2 + (j & 1)] = value;
                    survivors |= !(value > row[i].limit);
                }
            }
            // Append survivors; when a list is full, cut it back and try again with what did not fit.
            while (block_any(survivors)) {
                bool full = false;
                if (survivors) {
                    survivors = false;
#pragma unroll
                    for (int j = 0; j < 8; ++j)
#pragma unroll
                        for (int i = 0; i < own; ++i) {
                            float& value = gram.value[i >> 1][j >> 1][(i & 1) * 2 + (j & 1)];
                            if (value > row[i].limit) continue;
                            const int at = warp_column + (j >> 1) * 8 + (lane & 3) * 2 + (j & 1);
                            // Without a place it is here because a query that is not finite makes every bound a NaN.
                            if (columns[at].place == no_place ||
                                list.append(p, range, warp_row + i * 8 + group_of_lane, value, columns[at].place))
                                value = bits_float(0x7f800000u);
                            else
                                full = survivors = true;
                        }
                }
                if (!block_any(full)) break;
                list.cut_back(p, range, rows, warp, search_threads / 32, lane);
                block_barrier();
#pragma unroll
                for (int i = 0; i < own; ++i) row[i].limit = list.terms[warp_row + i * 8 + group_of_lane].limit;
            }
        }
        // The consumer's cursor takes a whole tile at a time.
        advance_job(p, use, query_image);
    }
    copy_wait<0>();
    block_barrier();

    list.write(p, range, rows, warp, search_threads / 32, lane);
}

}  // namespace fastspade::cuda

// The coarse levels' part of the distances between one tile of queries and the chunk at hand: the Gram matrices, interpolated
// over the tile's pixels and then over as many of the gallery's as bounds on patches and cells leave. One object a thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "core/buffer.hpp"
#include "core/problem.hpp"
#include "cpu/cells.hpp"
#include "cpu/gram.hpp"
#include "cpu/kernels.hpp"
#include "cpu/region.hpp"

namespace fastspade::cpu {

constexpr int64_t many_cells = 3;    // above this share of a row's cells, the whole row is interpolated at once
constexpr int64_t worth_a_call = 4;  // panels

// Makes a range cover another one by `work` on what is missing at its ends.
template <class Work>
void widen(Range& done, Range wanted, Work&& work) {
    if (done.begin == done.end) done = {wanted.begin, wanted.begin};
    if (wanted.begin < done.begin) work(wanted.begin, done.begin);
    if (done.end < wanted.end) work(done.end, wanted.end);
    done = {std::min(done.begin, wanted.begin), std::max(done.end, wanted.end)};
}

class CoarseTile {
  public:
    CoarseTile(const Setting& setting, const GramMatrices& gram, const Cells& cells, const Region& queries, const Region& chunk)
        : groups_(setting.groups), kernels_(setting.kernels), gram_(gram), cells_(cells), queries_(queries), chunk_(chunk) {}

    // Which pixels of the chunk are wanted: rows, and cells of them; and which bounds the tile's limits are compared with first.
    struct Wanted {
        Range rows, cells;
        bool by_cells, by_patches;
    };
    // Where `ready` is given, it takes what is left as often as that is worth a call, and nobody asks for the smallest.
    using Ready = std::function<void()>;
    void compute(int64_t tile, const Wanted& wanted, const float* limit, const Ready& ready = {}) {
        clear();
        const int64_t lanes = kernels_.lanes;
        const size_t coarsest = groups_.size() - 1;
        const Range columns = cells_.columns(wanted.cells);
        values_.reserve((chunk_.pixels() + max_rows) * lanes);
        left_.resize(static_cast<size_t>(chunk_.pixels() + 1));
        for (size_t g = 1; g <= coarsest; ++g) {
            Level& level = levels_[g];
            const int64_t coarse_rows = chunk_.coarse(g).rows;
            level.nodes.reserve(Region::padded(chunk_.coarse(g).pixels, lanes) * lanes);
            level.least.reserve(coarse_rows * cells_.count() * lanes);
            level.spread.reserve(coarse_rows * width_ * lanes);
            for (auto* ranges : {&level.multiplied, &level.bounded, &level.is_spread})
                ranges->assign(static_cast<size_t>(coarse_rows), Range{0, 0});
            if (g == coarsest || !gram_.coarsest_alone()) interpolate_queries(g, tile, wanted.rows, columns);
        }
        for (size_t patch_row = 0; patch_row < cells_.patch_rows().size(); ++patch_row) {
            const Range all = cells_.patch_rows()[patch_row];
            const Range rows{std::max(all.begin, wanted.rows.begin), std::min(all.end, wanted.rows.end)};
            if (rows.begin >= rows.end) continue;
            Range cells = wanted.cells;
            if (wanted.by_patches) cells = cells_of_patches(patch_row, rows, cells, limit);
            if (cells.begin >= cells.end) continue;
            cells_by_coarsest += (rows.end - rows.begin) * (cells.end - cells.begin);
            if (gram_.coarsest_alone())
                for (size_t g = 1; g < coarsest; ++g) interpolate_queries(g, tile, rows, cells_.columns(cells));
            if (ready && left_count_ == 0) first_value_ = rows.begin * width_;  // in the cache, again and again
            for (int64_t row = rows.begin; row < rows.end; ++row) {
                const int64_t listed = wanted.by_cells ? bound_cells(row, cells, limit) : 0;
                if (wanted.by_cells && listed == 0) continue;
                const bool whole = !wanted.by_cells || listed * many_cells > cells.end - cells.begin;
                interpolate_row(row, whole, cells_.columns(cells), listed, limit, !ready);
            }
            if (ready && left_count_ >= worth_a_call * kernels_.rows) ready(), left_count_ = 0;
        }
        if (ready && left_count_) ready();
    }

    // One level alone: nothing is known.
    void clear() {
        left_count_ = first_value_ = 0;
        std::fill_n(smallest, max_lanes, infinity);
        std::fill_n(nearest, max_lanes, -1);
    }

    // [chunk pixel][lane], of pixels that no bound ruled out.
    const float* values() const { return values_.data() - first_value_ * kernels_.lanes; }
    // The chunk's pixels that some query of the tile is left with.
    const int32_t* left() const { return left_.data(); }
    int64_t left_count() const { return left_count_; }
    // Each lane's smallest value, and where it lies; -1 where there is none.
    float smallest[max_lanes];
    int32_t nearest[max_lanes];
    int64_t cells_by_coarsest = 0, cells_left = 0;  // since the chunk began

  private:
    struct Level {                    // of one coarse level
        Buffer<float> nodes;          // [gallery coarse pixel][lane]: the Gram matrix, interpolated over the tile's pixels
        Buffer<float> least, spread;  // its rows over the gallery's cells and columns, each [row][cell or column][lane]
        // Which nodes, cells and columns of each row these have.
        std::vector<Range> multiplied, bounded, is_spread;
    };

    // The nodes that the chunk's `rows` and `columns` read of a level's Gram matrix with the tile's queries in place of the
    // native ones: interpolated from the matrix, or computed for these nodes alone.
    void interpolate_queries(size_t group, int64_t tile, Range rows, Range columns) {
        const float zeros[max_lanes] = {}, *const norms = query_norms(group);
        const int64_t first = tile * kernels_.lanes, width = chunk_.coarse(group).width, channels = groups_[group].channels;
        const float* const bias = norms ? norms + first : zeros;
        const Range down = node_rows(group, rows), across = node_columns(group, columns);
        float* const nodes = levels_[group].nodes.data();
        const bool alone = gram_.coarsest_alone() && group + 1 < groups_.size(),
                   whole = !alone && across.end - across.begin == width;
        for (int64_t row = down.begin; row < (whole ? down.begin + 1 : down.end); ++row)
            if (alone)
                widen(levels_[group].multiplied[static_cast<size_t>(row)], across, [&](int64_t begin, int64_t end) {
                    kernels_.vector_products[1](gram_.panels(group) + first * channels, chunk_.coarse(group).panels.data(),
                                                channels, channels, row * width + begin, row * width + end, bias, nodes);
                });
            else
                kernels_.interpolate_lanes(gram_.data(group), gram_.stride(group), gram_.taps(group) + first,
                                           row * width + across.begin, whole ? down.end * width : row * width + across.end, bias,
                                           nodes);
    }

    // The cells, among `cells`, of the patches that the coarsest level leaves to some query of the tile in `rows` of a patch row.
    Range cells_of_patches(size_t patch_row, Range rows, Range cells, const float* limit) {
        const size_t coarsest = groups_.size() - 1;
        const Range down = node_rows(coarsest, rows);
        const int64_t width = chunk_.coarse(coarsest).width;
        const NodeRows level{nodes_of(coarsest, down.begin), down.end - down.begin, width, cells_.patch_nodes()};
        int64_t begin = 0, end = cells_.patches();
        while (cells_.cells_of_patch(begin).end <= cells.begin) ++begin;
        while (cells_.cells_of_patch(end - 1).begin >= cells.end) --end;
        kernels_.patches_left(level, cells_.patch_norms(patch_row), limit, patch_columns_.reserve(width * kernels_.lanes), &begin,
                              &end);
        if (begin == end) return {0, 0};
        return {std::max(cells.begin, cells_.cells_of_patch(begin).begin),
                std::min(cells.end, cells_.cells_of_patch(end - 1).end)};
    }

    // Lists those of a fine row's cells whose least value some limit leaves.
    int64_t bound_cells(int64_t row, Range cells, const float* limit) {
        pair_up(row, [&](size_t g, int64_t coarse) {
            Level& level = levels_[g];
            const Cells::Taps& taps = cells_.taps(g);
            float* const out = level.least.data() + coarse * cells_.count() * kernels_.lanes;
            widen(level.bounded[static_cast<size_t>(coarse)], cells, [&](int64_t begin, int64_t end) {
                kernels_.least_of_cells(nodes_of(g, coarse), taps.cells.data(), taps.a_cell, begin, end, out);
            });
            return out;
        });
        listed_cells_.resize(static_cast<size_t>(cells_.count() + 1));
        const int64_t listed = kernels_.cells_left(pairs_.data(), static_cast<int>(pairs_.size()), cells_.norms(row), cells.begin,
                                                   cells.end, limit, listed_cells_.data());
        cells_left += listed;
        return listed;
    }

    // The values of a fine row: of all `columns`, from rows that are spread over them, or of the listed cells, from the nodes.
    void interpolate_row(int64_t row, bool whole, Range columns, int64_t listed, const float* limit, bool find_smallest) {
        if (whole)
            pair_up(row, [&](size_t g, int64_t coarse) {
                Level& level = levels_[g];
                float* const out = level.spread.data() + coarse * width_ * kernels_.lanes;
                widen(level.is_spread[static_cast<size_t>(coarse)], columns, [&](int64_t begin, int64_t end) {
                    kernels_.least_of_cells(nodes_of(g, coarse), cells_.taps(g).columns.data(), 1, begin, end, out);
                });
                return out;
            });
        else
            pair_up(row, [&](size_t g, int64_t coarse) { return nodes_of(g, coarse); });
        const int32_t whole_row[] = {static_cast<int32_t>(columns.begin), static_cast<int32_t>(columns.end)}, one_cell[] = {0};
        left_count_ += kernels_.values_left[!whole](
            pairs_.data(), static_cast<int>(pairs_.size()), chunk_.coarse_norm() + row * width_,
            whole ? whole_row : cells_.first_columns(), whole ? one_cell : listed_cells_.data(), whole ? 1 : listed,
            static_cast<int32_t>(row * width_), limit, values_.data() + (row * width_ - first_value_) * kernels_.lanes,
            find_smallest ? smallest : nullptr, nearest, left_.data() + left_count_);
    }

    // A level's nodes, relative to the chunk's, that pixels in `rows` and `columns` read.
    Range node_rows(size_t group, Range rows) const {
        const NodeTap* const taps = cells_.taps(group).rows.data() + chunk_.first_row();
        const int64_t top = chunk_.coarse(group).first_row;
        return {taps[rows.begin].low - top, taps[rows.end - 1].high + 1 - top};
    }

    Range node_columns(size_t group, Range columns) const {
        const NodeTap* const taps = cells_.taps(group).columns.data();
        return {taps[columns.begin].low, taps[columns.end - 1].high + 1};
    }

    // Interpolation weights sum to one, so the queries' norms may ride on the matrices: the coarsest level's on its own, which
    // makes its values a bound by themselves, the others' on one of theirs.
    const float* query_norms(size_t group) const {
        return group + 1 == groups_.size() ? queries_.coarsest_norm() : group == 1 ? queries_.middle_norm() : nullptr;
    }

    const float* nodes_of(size_t group, int64_t coarse_row) const {
        return levels_[group].nodes.data() + coarse_row * chunk_.coarse(group).width * kernels_.lanes;
    }

    // The two rows of every coarse level that a fine row reads, where row_of(group, coarse row) has them.
    template <class RowOf>
    void pair_up(int64_t row, RowOf&& row_of) {
        for (size_t g = 1; g < groups_.size(); ++g) {
            const NodeTap tap = cells_.taps(g).rows[static_cast<size_t>(chunk_.first_row() + row)];
            const int64_t top = chunk_.coarse(g).first_row;
            pairs_[g - 1] = {row_of(g, tap.low - top), row_of(g, tap.high - top), 1.0f - tap.high_weight, tap.high_weight,
                             cells_.taps(g).columns.data()};
        }
    }

    const std::vector<LevelGroup>& groups_;
    const Kernels& kernels_;
    const GramMatrices& gram_;
    const Cells& cells_;
    const Region &queries_, &chunk_;
    const int64_t width_ = groups_[0].gallery[0].width();  // of the gallery's finest grid
    std::vector<Level> levels_{groups_.size()};            // [group]
    std::vector<RowPair> pairs_ = std::vector<RowPair>(groups_.size() - 1);
    Buffer<float> values_, patch_columns_;
    std::vector<int32_t> listed_cells_, left_;
    int64_t left_count_ = 0, first_value_ = 0;
};

}  // namespace fastspade::cpu

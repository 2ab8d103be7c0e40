// The coarse levels' part of the distances between one tile of queries and the chunk at hand: the Gram matrices, interpolated
// over the tile's pixels and then over as many of the gallery's as bounds on patches and cells leave. One object a thread.
#pragma once

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

class CoarseTile {
  public:
    CoarseTile(const Setting& setting, const GramMatrices& gram, const Cells& cells, const Region& queries, const Region& chunk);

    // Which pixels of the chunk are wanted: rows, and cells of them; and which bounds the tile's limits are compared with first.
    struct Wanted {
        Range rows, cells;
        bool by_cells, by_patches;
    };
    // Where `ready` is given, it takes what is left as often as that is worth a call, and nobody asks for the smallest.
    using Ready = std::function<void()>;
    void compute(int64_t tile, const Wanted& wanted, const float* limit, const Ready& ready = {});
    // One level alone: nothing is known.
    void clear();

    // [chunk pixel][lane], of pixels that no bound ruled out.
    const float* values() const { return values_.data() - first_value_ * kernels_.lanes; }
    // The chunk's pixels that some query of the tile is left with.
    const int32_t* left() const { return left_.data(); }
    int64_t left_count() const { return left_count_; }
    // Each lane's smallest value, and where it lies; -1 where there is none.
    float smallest[max_lanes];
    int32_t nearest[max_lanes];
    int64_t cells_by_coarsest = 0, cells_bounded = 0, cells_left = 0;  // since the chunk began

  private:
    struct Level {                    // of one coarse level
        Buffer<float> nodes;          // [gallery coarse pixel][lane]: the Gram matrix, interpolated over the tile's pixels
        Buffer<float> least, spread;  // its rows over the gallery's cells and columns, each [row][cell or column][lane]
        // Which nodes, cells and columns of each row these have.
        std::vector<Range> multiplied, bounded, is_spread;
    };

    void interpolate_queries(size_t group, int64_t tile, Range rows, Range columns);
    void multiply_nodes(size_t group, int64_t tile, Range rows, Range columns);
    Range cells_of_patches(size_t first_group, const float* norms, Range rows, Range cells, const float* limit);
    int64_t bound_cells(int64_t row, Range cells, const float* limit);
    void interpolate_row(int64_t row, bool whole, Range columns, int64_t listed, const float* limit, bool find_smallest);
    // A level's nodes, relative to the chunk's, that pixels in `rows` and `columns` read.
    Range node_rows(size_t group, Range rows) const;
    Range node_columns(size_t group, Range columns) const;
    const float* query_norms(size_t group) const;
    const float* nodes_of(size_t group, int64_t coarse_row) const;
    template <class RowOf>
    void pair_up(int64_t row, RowOf&& row_of);

    const std::vector<LevelGroup>& groups_;
    const Kernels& kernels_;
    const GramMatrices& gram_;
    const Cells& cells_;
    const Region &queries_, &chunk_;
    const int64_t width_ = groups_[0].gallery[0].width();  // of the gallery's finest grid
    std::vector<Level> levels_;                            // [group]
    std::vector<RowPair> pairs_;
    Buffer<float> values_, patch_columns_;
    std::vector<int32_t> listed_patches_, listed_cells_, left_;
    int64_t left_count_ = 0, first_value_ = 0;
};

}  // namespace fastspade::cpu

// How the finest gallery grid reads the nodes of the coarse levels, and its partition by them: a cell is as many columns of a row
// as lie between the same two nodes of the finest coarse level, a patch what lies between the same nodes of the coarsest level
// along both axes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/buffer.hpp"
#include "core/candidates.hpp"
#include "core/problem.hpp"
#include "cpu/kernels.hpp"
#include "cpu/region.hpp"

namespace fastspade::cpu {

class Cells {
  public:
    // Of one level, as the kernels want them.
    struct Taps {
        std::vector<NodeTap> rows, columns;
        std::vector<NodeTap> patches;  // the nodes that a patch's columns read
        std::vector<NodeTap> cells;    // those at which a cell's least value may lie, `a_cell` each
        int a_cell = 1;
    };

    // With one level there are none.
    explicit Cells(const std::vector<LevelGroup>& groups);

    // Takes the least norms of a chunk's cells and patches.
    void take_norms(const Region& chunk);

    int64_t count() const { return static_cast<int64_t>(first_column_.size()) - 1; }  // of a row
    int64_t patches() const { return static_cast<int64_t>(patch_cells_.size()); }     // of a patch row
    const int32_t* first_columns() const { return first_column_.data(); }
    Range columns(Range cells) const {
        return {first_column_[static_cast<size_t>(cells.begin)], first_column_[static_cast<size_t>(cells.end)]};
    }
    int64_t at(int64_t column) const {
        return std::upper_bound(first_column_.begin(), first_column_.end() - 1, column) - first_column_.begin() - 1;
    }
    Range cells_of_patch(int64_t patch) const { return patch_cells_[static_cast<size_t>(patch)]; }
    const std::vector<Range>& patch_rows() const { return patch_rows_; }
    const Taps& taps(size_t group) const { return taps_[group]; }
    // The least of chunk.coarse_norm() in each cell of a row, in each patch of a patch row.
    const float* norms(int64_t row) const { return norm_.data() + row * count(); }
    const float* patch_norms(size_t patch_row) const { return patch_norm_.data() + static_cast<int64_t>(patch_row) * patches(); }
    // The same of chunk.coarsest_norm().
    const float* coarsest_patch_norms(size_t patch_row) const {
        return coarsest_patch_norm_.data() + static_cast<int64_t>(patch_row) * patches();
    }

  private:
    void find_cells();
    void find_patches();
    void find_least_taps(Taps& taps) const;
    void take_least(const float* norm, int64_t rows, Buffer<float>& cells, Buffer<float>& patches) const;

    std::vector<Taps> taps_;                          // [group]
    std::vector<int32_t> first_column_;               // of each cell, and the end
    std::vector<Range> patch_cells_;                  // which a patch has parts of
    std::vector<Range> patch_rows_;                   // of the chunk
    Buffer<float> norm_, coarsest_norm_;              // [row][cell]
    Buffer<float> patch_norm_, coarsest_patch_norm_;  // [patch row][patch]
};

}  // namespace fastspade::cpu

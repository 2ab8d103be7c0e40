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
        std::vector<NodeTap> cells;  // those at which a cell's least value may lie, `a_cell` each
        int a_cell = 1;
    };

    // With one level there are none.
    explicit Cells(const std::vector<LevelGroup>& groups) : taps_(groups.size()) {
        auto taps_of = [](const AxisTaps& axis, std::vector<NodeTap>& taps) {
            for (size_t i = 0; i < axis.size(); ++i)
                taps.push_back({axis[i].low, axis[i].high, static_cast<float>(axis[i].high_weight)});
        };
        for (size_t g = 1; g < groups.size(); ++g) {
            taps_of(groups[g].gallery_y, taps_[g].rows);
            taps_of(groups[g].gallery_x, taps_[g].columns);
        }
        if (groups.size() == 1) return;
        find_cells();
        find_patches();
        for (size_t g = 1; g < groups.size(); ++g) find_least_taps(taps_[g]);
    }

    // Takes the least norms of a chunk's cells and patches.
    void take_norms(const Region& chunk) {
        patch_rows_.clear();
        const NodeTap* const taps = taps_.back().rows.data() + chunk.first_row();
        for (int64_t row = 0, end; row < chunk.rows(); row = end) {
            for (end = row + 1; end < chunk.rows() && taps[end].low == taps[row].low;) ++end;
            patch_rows_.push_back({row, end});
        }
        auto least = [&](const float* norm, int64_t row, Range cells) {
            const Range within = columns(cells);
            return *std::min_element(norm + row * first_column_.back() + within.begin,
                                     norm + row * first_column_.back() + within.end);
        };
        float* cell_norm = norm_.reserve(chunk.rows() * count());
        for (int64_t row = 0; row < chunk.rows(); ++row)
            for (int64_t cell = 0; cell < count(); ++cell) *cell_norm++ = least(chunk.coarse_norm(), row, {cell, cell + 1});
        float* out = patch_norm_.reserve(chunk.rows() * patches());
        for (const Range& rows : patch_rows_)
            for (const Range& cells : patch_cells_) {
                *out = infinity;
                for (int64_t row = rows.begin; row < rows.end; ++row)
                    *out = std::min(*out, least(chunk.coarsest_norm(), row, cells));
                ++out;
            }
    }

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
    const NodeTap* patch_nodes() const { return patch_nodes_.data(); }
    // The least of chunk.coarse_norm() in each cell of a row, of chunk.coarsest_norm() in each patch of a patch row.
    const float* norms(int64_t row) const { return norm_.data() + row * count(); }
    const float* patch_norms(size_t patch_row) const { return patch_norm_.data() + static_cast<int64_t>(patch_row) * patches(); }

  private:
    void find_cells() {
        const std::vector<NodeTap>& finest = taps_[1].columns;
        for (size_t x = 0; x < finest.size(); ++x)
            if (x == 0 || finest[x].low != finest[x - 1].low) first_column_.push_back(static_cast<int32_t>(x));
        first_column_.push_back(static_cast<int32_t>(finest.size()));
    }

    void find_patches() {
        const std::vector<NodeTap>& coarsest = taps_.back().columns;
        for (size_t x = 0, end; x < coarsest.size(); x = end) {
            for (end = x + 1; end < coarsest.size() && coarsest[end].low == coarsest[x].low;) ++end;
            patch_cells_.push_back({at(static_cast<int64_t>(x)), at(static_cast<int64_t>(end) - 1) + 1});
            patch_nodes_.push_back({coarsest[x].low, coarsest[end - 1].high, 0.0f});
        }
    }

    // Between two nodes values are linear: a cell's least lies at its first or last column, or next to a node inside.
    void find_least_taps(Taps& taps) const {
        auto low = [&](int32_t column) { return taps.columns[static_cast<size_t>(column)].low; };
        std::vector<std::vector<NodeTap>> ends(static_cast<size_t>(count()));
        for (size_t c = 0; c < ends.size(); ++c)
            for (int32_t x = first_column_[c]; x < first_column_[c + 1]; ++x)
                if (x == first_column_[c] || x + 1 == first_column_[c + 1] || low(x) != low(x - 1) || low(x) != low(x + 1))
                    ends[c].push_back(taps.columns[static_cast<size_t>(x)]);
        for (const auto& cell : ends) taps.a_cell = std::max(taps.a_cell, static_cast<int>(cell.size()));
        for (auto& cell : ends) {
            cell.resize(static_cast<size_t>(taps.a_cell), cell.back());
            taps.cells.insert(taps.cells.end(), cell.begin(), cell.end());
        }
    }

    std::vector<Taps> taps_;             // [group]
    std::vector<int32_t> first_column_;  // of each cell, and the end
    std::vector<Range> patch_cells_;     // which a patch has parts of
    std::vector<NodeTap> patch_nodes_;   // which of the coarsest level's nodes its columns read
    std::vector<Range> patch_rows_;      // of the chunk
    Buffer<float> norm_;                 // [row][cell]
    Buffer<float> patch_norm_;           // [patch row][patch]
};

}  // namespace fastspade::cpu

#include "cpu/coarse_tile.hpp"

#include <algorithm>

namespace fastspade::cpu {

namespace {

constexpr int64_t many_cells = 3;  // above this share of a row's cells, the whole row is interpolated at once

}  // namespace

CoarseTile::CoarseTile(const std::vector<LevelGroup>& groups, const Kernels& kernels, const GramMatrices& gram,
                       const Cells& cells, const Region& queries, const Region& chunk)
    : groups_(groups),
      kernels_(kernels),
      gram_(gram),
      cells_(cells),
      queries_(queries),
      chunk_(chunk),
      width_(groups[0].gallery[0].width()),
      levels_(groups.size()),
      pairs_(groups.size() - 1) {}

void CoarseTile::clear() {
    left_count_ = 0;
    std::fill_n(smallest, max_lanes, infinity);
    std::fill_n(nearest, max_lanes, -1);
}

void CoarseTile::compute(int64_t tile, const Wanted& wanted, const float* limit) {
    clear();
    values_.reserve((chunk_.pixels() + max_rows) * kernels_.lanes);
    left_.resize(static_cast<size_t>(chunk_.pixels() + 1));
    const Range columns = cells_.columns(wanted.cells);
    interpolate_queries(tile, wanted.rows, columns);
    Range patch{0, 0}, cells = wanted.cells;  // a patch's rows, and the cells that such patches leave
    size_t next_patch_row = 0;
    for (int64_t row = wanted.rows.begin; row < wanted.rows.end; ++row) {
        while (wanted.by_patches && row >= patch.end) {
            patch = cells_.rows_of_patch(next_patch_row++);
            if (row < patch.end)
                cells = cells_of_patches(next_patch_row - 1, {row, std::min(patch.end, wanted.rows.end)}, wanted.cells, limit);
        }
        if (cells.begin >= cells.end) continue;
        const int64_t listed = wanted.by_cells ? bound_cells(row, cells, limit) : 0;
        if (wanted.by_cells && listed == 0) continue;
        const bool whole = !wanted.by_cells || listed * many_cells > wanted.cells.end - wanted.cells.begin;
        interpolate_row(row, whole, columns, listed, limit);
    }
}

// The Gram matrices with the tile's queries in place of the native ones, as far as the chunk's `rows` and `columns` read them.
void CoarseTile::interpolate_queries(int64_t tile, Range rows, Range columns) {
    const int64_t lanes = kernels_.lanes, first = tile * lanes;
    const float zeros[max_lanes] = {};
    for (size_t g = 1; g < groups_.size(); ++g) {
        Level& level = levels_[g];
        const int64_t coarse_rows = chunk_.coarse_rows(g), coarse_width = chunk_.coarse_width(g);
        float* const out = level.nodes.reserve(gram_.stride(g) * lanes);
        level.least.reserve(coarse_rows * cells_.count() * lanes);
        level.spread.reserve(coarse_rows * width_ * lanes);
        level.bounded.assign(static_cast<size_t>(coarse_rows), Range{0, 0});
        level.is_spread.assign(static_cast<size_t>(coarse_rows), 0);
        const NodeTap *const down = cells_.taps(g).rows.data() + chunk_.first_row(), *const across =
                                                                                         cells_.taps(g).columns.data();
        const int64_t top = down[rows.begin].low - chunk_.coarse_first_row(g);
        const int64_t bottom = down[rows.end - 1].high + 1 - chunk_.coarse_first_row(g);
        const int64_t left = across[columns.begin].low, right = across[columns.end - 1].high + 1;
        const bool whole = right - left == coarse_width;
        for (int64_t row = top; row < (whole ? top + 1 : bottom); ++row)
            // Interpolation weights sum to one, so the queries' norms may ride on one level's matrix.
            kernels_.interpolate_lanes(gram_.data(g), gram_.stride(g), gram_.taps(g) + first, row * coarse_width + left,
                                       whole ? bottom * coarse_width : row * coarse_width + right,
                                       g == 1 ? queries_.coarse_norm() + first : zeros, out);
    }
}

const float* CoarseTile::nodes_of(size_t group, int64_t coarse_row) const {
    return levels_[group].nodes.data() + coarse_row * chunk_.coarse_width(group) * kernels_.lanes;
}

// The cells, among `cells`, of the patches that are left to some query of the tile in `rows` of a patch row.
Range CoarseTile::cells_of_patches(size_t patch_row, Range rows, Range cells, const float* limit) {
    std::vector<NodeRows> levels;
    int64_t columns = 0;
    for (size_t g = 1; g < groups_.size(); ++g) {
        const NodeTap* const taps = cells_.taps(g).rows.data() + chunk_.first_row();
        const int64_t top = taps[rows.begin].low, width = chunk_.coarse_width(g);
        levels.push_back({nodes_of(g, top - chunk_.coarse_first_row(g)), taps[rows.end - 1].high + 1 - top, width,
                          cells_.taps(g).patches.data()});
        columns += width;
    }
    listed_patches_.resize(static_cast<size_t>(cells_.patches() + 1));
    int64_t begin = 0, end = cells_.patches();
    while (cells_.cells_of_patch(begin).end <= cells.begin) ++begin;
    while (cells_.cells_of_patch(end - 1).begin >= cells.end) --end;
    const int64_t left =
        kernels_.patches_left(levels.data(), static_cast<int>(levels.size()), cells_.patch_norms(patch_row), begin, end, limit,
                              patch_columns_.reserve(columns * kernels_.lanes), listed_patches_.data());
    if (left == 0) return {0, 0};
    return {std::max(cells.begin, cells_.cells_of_patch(listed_patches_[0]).begin),
            std::min(cells.end, cells_.cells_of_patch(listed_patches_[static_cast<size_t>(left) - 1]).end)};
}

// The two rows of every coarse level that a fine row reads, where row_of(group, coarse row) has them.
template <class RowOf>
void CoarseTile::pair_up(int64_t row, RowOf&& row_of) {
    for (size_t g = 1; g < groups_.size(); ++g) {
        const NodeTap tap = cells_.taps(g).rows[static_cast<size_t>(chunk_.first_row() + row)];
        const int64_t top = chunk_.coarse_first_row(g);
        pairs_[g - 1] = {row_of(g, tap.low - top), row_of(g, tap.high - top), 1.0f - tap.high_weight, tap.high_weight,
                         cells_.taps(g).columns.data()};
    }
}

// Lists those of a fine row's cells whose least value some limit leaves.
int64_t CoarseTile::bound_cells(int64_t row, Range cells, const float* limit) {
    pair_up(row, [&](size_t g, int64_t coarse) {
        Level& level = levels_[g];
        const Cells::Taps& taps = cells_.taps(g);
        float* const out = level.least.data() + coarse * cells_.count() * kernels_.lanes;
        Range& done = level.bounded[static_cast<size_t>(coarse)];
        auto bound = [&](int64_t begin, int64_t end) {
            if (begin < end) kernels_.least_of_cells(nodes_of(g, coarse), taps.cells.data(), taps.a_cell, begin, end, out);
        };
        if (done.begin == done.end) done = {cells.begin, cells.begin};
        bound(cells.begin, done.begin), bound(done.end, cells.end);
        done = {std::min(done.begin, cells.begin), std::max(done.end, cells.end)};
        return out;
    });
    listed_cells_.resize(static_cast<size_t>(cells_.count() + 1));
    const int64_t listed = kernels_.cells_left(pairs_.data(), static_cast<int>(pairs_.size()), cells_.norms(row), cells.begin,
                                               cells.end, limit, listed_cells_.data());
    cells_bounded += cells.end - cells.begin;
    cells_left += listed;
    return listed;
}

// The values of a fine row: of all `columns`, from rows that are spread over them, or of the listed cells, from the nodes.
void CoarseTile::interpolate_row(int64_t row, bool whole, Range columns, int64_t listed, const float* limit) {
    if (whole)
        pair_up(row, [&](size_t g, int64_t coarse) {
            Level& level = levels_[g];
            float* const out = level.spread.data() + coarse * width_ * kernels_.lanes;
            char& done = level.is_spread[static_cast<size_t>(coarse)];
            if (!done)
                kernels_.least_of_cells(nodes_of(g, coarse), cells_.taps(g).columns.data(), 1, columns.begin, columns.end, out);
            done = 1;
            return out;
        });
    else
        pair_up(row, [&](size_t g, int64_t coarse) { return nodes_of(g, coarse); });
    const int32_t whole_row[] = {static_cast<int32_t>(columns.begin), static_cast<int32_t>(columns.end)}, one_cell[] = {0};
    left_count_ += kernels_.values_left[!whole](
        pairs_.data(), static_cast<int>(pairs_.size()), chunk_.coarse_norm() + row * width_,
        whole ? whole_row : cells_.first_columns(), whole ? one_cell : listed_cells_.data(), whole ? 1 : listed,
        static_cast<int32_t>(row * width_), limit, values_.data() + row * width_ * kernels_.lanes, smallest, nearest,
        left_.data() + left_count_);
}

}  // namespace fastspade::cpu

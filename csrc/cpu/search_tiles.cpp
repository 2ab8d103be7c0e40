// One tile of queries against one chunk of the gallery: the coarse levels' part of every distance, then the finest level
// densely or only for the pairs that bounds leave in the running.
#include <algorithm>
#include <numeric>
#include <vector>

#include "cpu/search_state.hpp"

namespace fastspade::cpu {

namespace {

constexpr int64_t listed_panels = 16;
constexpr int64_t many_cells = 3;  // above this share of a row's cells, the whole row is interpolated at once

}  // namespace

// The Gram matrices with the tile's queries in place of the native ones, nodes[group][gallery's coarse pixel][lane], as far as
// the chunk's `rows` and `columns` read them.
void Search::interpolate_queries(int64_t tile, Range rows, Range columns, Scratch& scratch, std::vector<const float*>& nodes) {
    const int64_t lanes = kernels_.lanes, first = tile * lanes;
    const float zeros[max_lanes] = {};
    float* out = scratch.nodes.reserve(std::accumulate(gram_stride_.begin(), gram_stride_.end(), int64_t{0}) * lanes);
    for (size_t g = 1; g < groups_.size(); ++g) {
        const LevelGroup& group = groups_[g];
        // Interpolation weights sum to one, so the queries' norms may ride on one level's matrix.
        const int64_t coarse_width = chunk_.coarse_width(g), first_row = chunk_.first_row();
        const int64_t top = group.gallery_y[static_cast<size_t>(first_row + rows.begin)].low - chunk_.coarse_first_row(g);
        const int64_t bottom =
            group.gallery_y[static_cast<size_t>(first_row + rows.end - 1)].high + 1 - chunk_.coarse_first_row(g);
        const NodeTap* const across = gallery_taps_[g].columns.data();
        const int64_t left = across[columns.begin].low, right = across[columns.end - 1].high + 1;
        const bool whole = right - left == coarse_width;
        for (int64_t row = top; row < (whole ? top + 1 : bottom); ++row)
            kernels_.interpolate_lanes(gram_[g].data(), gram_stride_[g], query_taps_[g].data() + first, row * coarse_width + left,
                                       whole ? bottom * coarse_width : row * coarse_width + right,
                                       g == 1 ? queries_.coarse_norm() + first : zeros, out);
        nodes[g] = out;
        out += gram_stride_[g] * lanes;
    }
}

// The cells, within `reach`, of the patches that are left to some query of a tile in `rows` of a patch row.
Range Search::cells_of_patches(size_t patch_row, Range rows, const std::vector<const float*>& nodes, Range reach,
                               const float* limit, Scratch& scratch) {
    const int64_t patches = static_cast<int64_t>(patch_cells_.size());
    std::vector<NodeRows> levels;
    int64_t columns = 0;
    for (size_t g = 1; g < groups_.size(); ++g) {
        const NodeTap* const taps = gallery_taps_[g].rows.data() + chunk_.first_row();
        const int64_t top = taps[rows.begin].low, width = chunk_.coarse_width(g);
        levels.push_back({nodes[g] + (top - chunk_.coarse_first_row(g)) * width * kernels_.lanes,
                          taps[rows.end - 1].high + 1 - top, width, gallery_taps_[g].patches.data()});
        columns += width;
    }
    scratch.patches.resize(static_cast<size_t>(patches + 1));
    int64_t begin = 0, end = patches;
    while (patch_cells_[static_cast<size_t>(begin)].end <= reach.begin) ++begin;
    while (patch_cells_[static_cast<size_t>(end) - 1].begin >= reach.end) --end;
    const int64_t left = kernels_.patches_left(levels.data(), static_cast<int>(levels.size()),
                                               patch_norm_.data() + static_cast<int64_t>(patch_row) * patches, begin, end, limit,
                                               scratch.columns.reserve(columns * kernels_.lanes), scratch.patches.data());
    if (left == 0) return {0, 0};
    const int32_t *first = scratch.patches.data(), *last = first + left - 1;
    return {std::max(reach.begin, patch_cells_[static_cast<size_t>(*first)].begin),
            std::min(reach.end, patch_cells_[static_cast<size_t>(*last)].end)};
}

// The coarse levels' part of the distances between a tile of queries and the chunk, in scratch.partial, and in scratch.rows the
// pixels that it leaves to some query. bounded: only of cells whose least value the limits leave.
void Search::coarse_tile(int64_t tile, bool bounded, Scratch& scratch, float* smallest, int32_t* place) {
    const Range near = near_tile(tile);
    const int64_t lanes = kernels_.lanes, width = problem_.gallery[0].width(), cells = static_cast<int64_t>(cells_.size()) - 1;
    const Range rows{near.begin / width, near.end / width};
    // Only cells that a window reaches; whole panels know no columns.
    Range columns{0, width}, reach{0, cells};
    if (windowed(problem_) && way_ == Way::sparse) {
        const Range mine = queries_.columns_of(tile * lanes, std::min((tile + 1) * lanes, queries_.pixels()));
        reach = {cell_of(std::max<int64_t>(0, mine.begin - problem_.column_radius)),
                 cell_of(std::min(width, mine.end + problem_.column_radius) - 1) + 1};
        columns = {cells_[static_cast<size_t>(reach.begin)], cells_[static_cast<size_t>(reach.end)]};
    }
    const float* const limit = limit_.data() + tile * lanes;
    bounded &= bounds_cells_ && !may_overflow_;
    std::vector<const float*> nodes(groups_.size());
    interpolate_queries(tile, rows, columns, scratch, nodes);
    // Rows of all levels one after the other, each over the gallery's cells and, where many are wanted, over its columns.
    std::vector<int64_t> first_row(groups_.size() + 1, 0);
    for (size_t g = 1; g < groups_.size(); ++g) first_row[g + 1] = first_row[g] + chunk_.coarse_rows(g);
    float* const least = scratch.least.reserve(first_row.back() * cells * lanes);
    float* const spread = scratch.spread.reserve(first_row.back() * width * lanes);
    scratch.partial.reserve((chunk_.pixels() + max_rows) * lanes);
    scratch.is_spread.assign(static_cast<size_t>(first_row.back()), 0);
    scratch.rows.resize(static_cast<size_t>(chunk_.pixels() + 1));
    scratch.cells.resize(static_cast<size_t>(cells + 1));
    scratch.left = 0;
    std::vector<RowPair> pairs(groups_.size() - 1);
    const int levels = static_cast<int>(pairs.size());
    const int32_t whole_row[] = {static_cast<int32_t>(columns.begin), static_cast<int32_t>(columns.end)},
                  only[] = {0};                                                            // as one cell
    std::vector<Range> bounded_cells(static_cast<size_t>(first_row.back()), Range{0, 0});  // of each row, in `least`
    auto nodes_of = [&](size_t g, int64_t coarse) { return nodes[g] + coarse * chunk_.coarse_width(g) * lanes; };
    Range patch{0, 0}, hull = reach;  // a patch's rows, and the cells that such patches leave
    size_t next_patch_row = 0;
    for (int64_t row = rows.begin; row < rows.end; ++row) {
        while (bounded && bounds_patches_ && row >= patch.end) {
            patch = patch_rows_[next_patch_row++];
            if (row >= patch.end) continue;
            hull = cells_of_patches(next_patch_row - 1, {row, std::min(patch.end, rows.end)}, nodes, reach, limit, scratch);
        }
        if (hull.begin >= hull.end) continue;
        // The two rows of every level that a fine row reads, among rows in `data`.
        auto pair_up = [&](auto&& row_of) {
            for (size_t g = 1; g < groups_.size(); ++g) {
                const NodeTap tap = gallery_taps_[g].rows[static_cast<size_t>(chunk_.first_row() + row)];
                const int32_t top = static_cast<int32_t>(chunk_.coarse_first_row(g));
                pairs[g - 1] = {row_of(g, tap.low - top), row_of(g, tap.high - top), 1.0f - tap.high_weight, tap.high_weight,
                                gallery_taps_[g].columns.data()};
            }
        };
        int64_t left = 0;
        if (bounded) {
            pair_up([&](size_t g, int32_t coarse) {
                float* const out = least + (first_row[g] + coarse) * cells * lanes;
                Range& done = bounded_cells[static_cast<size_t>(first_row[g] + coarse)];
                auto bound = [&](int64_t begin, int64_t end) {
                    if (begin < end)
                        kernels_.least_of_cells(nodes_of(g, coarse), gallery_taps_[g].cells.data(), gallery_taps_[g].a_cell,
                                                begin, end, out);
                };
                if (done.begin == done.end) done = {hull.begin, hull.begin};
                bound(hull.begin, done.begin), bound(done.end, hull.end);
                done = {std::min(done.begin, hull.begin), std::max(done.end, hull.end)};
                return out;
            });
            left = kernels_.cells_left(pairs.data(), levels, cell_norm_.data() + row * cells, hull.begin, hull.end, limit,
                                       scratch.cells.data());
            scratch.cells_bounded += hull.end - hull.begin;
            scratch.cells_left += left;
            if (left == 0) continue;
        }
        const bool many = !bounded || left * many_cells > reach.end - reach.begin;
        if (many)
            pair_up([&](size_t g, int32_t coarse) {
                float* const out = spread + (first_row[g] + coarse) * width * lanes;
                char& done = scratch.is_spread[static_cast<size_t>(first_row[g] + coarse)];
                if (!done)
                    kernels_.least_of_cells(nodes_of(g, coarse), gallery_taps_[g].columns.data(), 1, columns.begin, columns.end,
                                            out);
                done = 1;
                return out;
            });
        else
            pair_up(nodes_of);
        scratch.left += kernels_.values_left[!many](
            pairs.data(), levels, chunk_.coarse_norm() + row * width, many ? whole_row : cells_.data(),
            many ? only : scratch.cells.data(), many ? 1 : left, static_cast<int32_t>(row * width), limit,
            scratch.partial.data() + row * width * lanes, smallest, place, scratch.rows.data() + scratch.left);
    }
}

// The share of pairs the coarse levels leave in the running, tried on a few tiles spread over the block. Each query's
// limit is taken from the true distance at its coarse winner, as search_tile will do.
double Search::probe() {
    const int64_t count = tiles(), tried = std::min<int64_t>(4, count), lanes = kernels_.lanes;
    std::vector<int64_t> left(static_cast<size_t>(tried), 0);
    team_.run(tried, [&](int64_t i, int thread) {
        Scratch& scratch = scratch_[static_cast<size_t>(thread)];
        const int64_t tile = i * count / tried;
        float smallest[max_lanes], limit[max_lanes];
        int32_t place[max_lanes];
        std::fill(smallest, smallest + lanes, infinity);
        std::fill(place, place + lanes, 0);
        coarse_tile(tile, false, scratch, smallest, place);
        for (int64_t lane = 0; lane < lanes; ++lane) {
            const int64_t q = tile * lanes + lane;
            limit[lane] = -infinity;
            if (q >= queries_.pixels()) continue;
            const float dot = kernels_.dot(queries_.fine_row(q), chunk_.fine_row(place[lane]), chunk_.row_length());
            limit[lane] =
                std::min(limit_[q], smallest[lane] + (queries_.fine_norm()[q] + chunk_.fine_norm()[place[lane]]) - 2.0f * dot);
        }
        if (!projection_.active()) {
            left[static_cast<size_t>(i)] = kernels_.count(scratch.partial.data(), chunk_.pixels(), limit);
            return;
        }
        scratch.refined.reserve(max_rows * max_lanes);
        for (int64_t start = 0; start < chunk_.pixels(); start += kernels_.rows) {
            refine_panel(tile, start, scratch, scratch.refined.data());
            left[static_cast<size_t>(i)] +=
                kernels_.count(scratch.refined.data(), std::min<int64_t>(kernels_.rows, chunk_.pixels() - start), limit);
        }
    });
    int64_t total = 0;
    for (int64_t value : left) total += value;
    return static_cast<double>(total) / static_cast<double>(tried * lanes * chunk_.pixels());
}

// How many pairs of a panel's rows [start, start + height) are in the running by their coarse part.
int64_t Search::left_in_panel(int64_t first, int64_t start, int64_t height, const Scratch& scratch) const {
    const int64_t lanes = kernels_.lanes;
    if (groups_.size() == 1 || !problem_.prune) return height * std::min(lanes, queries_.pixels() - first);
    return kernels_.count(scratch.partial.data() + start * lanes, height, limit_.data() + first);
}

void Search::dense_tile(int64_t tile, int64_t slot, Scratch& scratch) {
    const int64_t lanes = kernels_.lanes, rows = kernels_.rows, first = tile * lanes, pixels = chunk_.pixels();
    const int64_t valid = std::min(lanes, queries_.pixels() - first), channels = groups_[0].channels;
    float* const limit = limit_.data() + first;
    const float *lane_panel = queries_.fine_panels() + first * channels, *lane_norm = queries_.fine_norm() + first;
    Hit* const hits = scratch.hits.data();
    const Range near = near_tile(tile);
    for (int64_t start = near.begin / rows * rows; start < near.end; start += rows) {
        const int64_t height = std::min(rows, pixels - start), left = left_in_panel(first, start, height, scratch);
        if (left == 0) continue;
        scratch.fine_pairs += left;
        const float *row_panel = chunk_.fine_panels() + start * channels, *row_norm = chunk_.fine_norm() + start;
        const int64_t found = groups_.size() == 1
                                  ? kernels_.distance_hits(lane_panel, row_panel, channels, lane_norm, row_norm, limit, hits)
                                  : kernels_.refined_hits(lane_panel, row_panel, channels, lane_norm, row_norm,
                                                          scratch.partial.data() + start * lanes, limit, hits);
        for (const Hit* hit = hits; hit < hits + found; ++hit)
            if (hit->lane < valid && hit->row < height)
                add(first + hit->lane, {hit->value, static_cast<int32_t>(slot), chunk_.first_pixel() + start + hit->row},
                    limit + hit->lane, scratch);
    }
}

void Search::search_tile(int64_t tile, int64_t slot, Scratch& scratch) {
    const int64_t lanes = kernels_.lanes, rows = kernels_.rows, first = tile * lanes, pixels = chunk_.pixels();
    const int64_t valid = std::min(lanes, queries_.pixels() - first), before = scratch.evaluated;
    const bool several = groups_.size() > 1;
    const Range near = near_tile(tile);
    if (near.begin >= near.end) return;
    float smallest[max_lanes];
    int32_t place[max_lanes];
    std::fill(smallest, smallest + lanes, infinity);
    std::fill(place, place + lanes, -1);
    scratch.hits.resize(static_cast<size_t>(rows * lanes));
    if (several) coarse_tile(tile, way_ == Way::sparse, scratch, smallest, place);
    if (way_ == Way::dense) return dense_tile(tile, slot, scratch);

    // A good limit early: each query's coarse winner in this chunk; in the first one, enough for kappa neighbours.
    float* const limit = limit_.data() + first;
    float seeded[max_lanes];  // pairs whose bounds do not exceed it have been evaluated
    for (int64_t lane = 0; lane < valid; ++lane)
        if (place[lane] >= 0 && !(smallest[lane] > limit[lane])) evaluate(tile, lane, place[lane], slot, scratch);
    const bool bounded = several && fresh() && !windowed(problem_) && seed(tile, slot, smallest, place, seeded, scratch);

    // What the coarse levels leave is bounded again, in int8 or int16 or by projections, and only what that leaves is
    // evaluated.
    const float* const seen = bounded ? scratch.refined.data() : nullptr;  // the bounds that seed() took
    auto evaluate_hits = [&](int64_t found, int64_t start, int64_t height) {
        for (const Hit* hit = scratch.hits.data(); found > 0; --found, ++hit) {
            const int64_t r = start + hit->row;
            if (hit->lane >= valid || hit->row >= height || hit->value > limit[hit->lane] || r == place[hit->lane]) continue;
            if (seen && !(seen[r * lanes + hit->lane] > seeded[hit->lane])) continue;
            evaluate(tile, hit->lane, r, slot, scratch);
        }
    };
    if (!screens()) {
        // A few panels' worth of rows at a time, for limits fall meanwhile.
        for (int64_t start = 0; start < scratch.left; start += listed_panels * rows) {
            int32_t list[listed_panels * max_rows + 1];
            const int64_t left = kernels_.rows_left(scratch.partial.data(), scratch.rows.data() + start,
                                                    std::min(listed_panels * rows, scratch.left - start), limit, list);
            for (int64_t i = 0; i < left; i += rows) {
                const int64_t some = std::min(rows, left - i);
                evaluate_hits(
                    bounded || !projection_.active()
                        ? kernels_.scan(bounded ? seen : scratch.partial.data(), list + i, some, limit, scratch.hits.data())
                        : kernels_.refined_rows(queries_.projected() + first * projection_.width(), chunk_.projected(),
                                                projection_.width(), lowered_norm_.data() + first, chunk_.fine_norm(),
                                                scratch.partial.data(), list + i, some, limit, scratch.hits.data()),
                    0, pixels);
            }
        }
    } else {
        for (int64_t start = near.begin; start < near.end; start += rows) {
            const float* const coarse = several ? scratch.partial.data() + start * lanes : nullptr;
            const int64_t height = std::min(rows, near.end - start);
            int64_t found = 0;
            const int64_t left = left_in_panel(first, start, height, scratch);
            scratch.fine_pairs += left;
            if (left)
                found = kernels_.screened_hits[way_ == Way::bytes ? 0 : 1](
                    query_numbers_.lanes(first, lowered_norm_.data() + first),
                    chunk_numbers_.rows(start, chunk_.fine_norm() + start), chunk_numbers_.words(), coarse, limit,
                    scratch.hits.data());
            evaluate_hits(found, start, height);
        }
    }
    if (way_ == Way::sparse) scratch.fine_pairs += scratch.evaluated - before;
}

// Bounds a panel's pairs by the projections on top of the coarse levels.
void Search::refine_panel(int64_t tile, int64_t start, Scratch& scratch, float* out) {
    const int64_t lanes = kernels_.lanes, first = tile * lanes;
    kernels_.refine(queries_.projected() + first * projection_.width(), chunk_.projected() + start * projection_.width(),
                    projection_.width(), lowered_norm_.data() + first, chunk_.fine_norm() + start,
                    scratch.partial.data() + start * lanes, out);
}

// Adds the finest level to one pair's coarse part.
void Search::evaluate(int64_t tile, int64_t lane, int64_t r, int64_t slot, Scratch& scratch) {
    const int64_t lanes = kernels_.lanes, q = tile * lanes + lane;
    if (repeats(r) || !in_window(q, r)) return;
    ++scratch.evaluated;
    const float dot = kernels_.dot(queries_.fine_row(q), chunk_.fine_row(r), chunk_.row_length());
    const float coarse = groups_.size() > 1 ? scratch.partial[r * lanes + lane] : 0.0f;
    const float value = coarse + (queries_.fine_norm()[q] + chunk_.fine_norm()[r]) - 2.0f * dot;
    if (!(value > limit_[q])) add(q, {value, static_cast<int32_t>(slot), chunk_.first_pixel() + r}, limit_.data() + q, scratch);
}

// Several neighbours wanted: evaluates, for each query of the tile, the kappa pairs or a few more with the lowest bounds,
// so that the other pairs of the first chunk meet a limit: all whose bounds do not exceed seeded[lane]. Returns whether
// that was worth it; then scratch.refined holds the whole chunk's bounds.
bool Search::seed(int64_t tile, int64_t slot, const float* smallest, const int32_t* place, float* high, Scratch& scratch) {
    const int64_t lanes = kernels_.lanes, rows = kernels_.rows, pixels = chunk_.pixels(), kappa = problem_.kappa;
    const int64_t valid = std::min(lanes, queries_.pixels() - tile * lanes);
    if (kappa == 1 || 4 * kappa > pixels) return false;
    float* const bounds = scratch.refined.reserve((pixels + max_rows) * lanes);
    if (projection_.active())
        for (int64_t start = 0; start < pixels; start += rows) refine_panel(tile, start, scratch, bounds + start * lanes);
    else
        std::copy_n(scratch.partial.data(), pixels * lanes, bounds);

    // Each lane's bound that kappa to twice kappa pairs do not exceed, by bisection between its extremes.
    float low[max_lanes], level[max_lanes];
    int32_t counts[max_lanes];
    std::copy_n(smallest, lanes, low);
    std::fill_n(high, lanes, -infinity);
    for (int64_t r = 0; r < pixels; ++r)
        for (int64_t lane = 0; lane < lanes; ++lane) high[lane] = std::max(high[lane], bounds[r * lanes + lane]);
    for (int round = 0; round < 12; ++round) {
        bool settled = true;
        for (int64_t lane = 0; lane < lanes; ++lane) level[lane] = 0.5f * (low[lane] + high[lane]);
        kernels_.count_lanes(bounds, pixels, level, counts);
        for (int64_t lane = 0; lane < lanes; ++lane) {
            if (counts[lane] < kappa)
                low[lane] = level[lane];
            else
                high[lane] = level[lane];
            settled &= counts[lane] >= kappa && counts[lane] <= 2 * kappa;
        }
        if (settled) break;
    }
    kernels_.count_lanes(bounds, pixels, high, counts);
    for (int64_t lane = 0; lane < lanes; ++lane)
        if (lane >= valid || counts[lane] > 4 * kappa) high[lane] = -infinity;  // a crowd of equal bounds tells nothing

    scratch.hits.resize(static_cast<size_t>(rows * lanes));
    for (int64_t start = 0; start < pixels; start += rows) {
        const int64_t found =
            kernels_.scan(bounds, scratch.rows.data() + start, std::min(rows, pixels - start), high, scratch.hits.data());
        for (int64_t h = 0; h < found; ++h) {
            const Hit& hit = scratch.hits[static_cast<size_t>(h)];
            if (hit.lane < valid && hit.row != place[hit.lane]) evaluate(tile, hit.lane, hit.row, slot, scratch);
        }
    }
    return true;
}

}  // namespace fastspade::cpu

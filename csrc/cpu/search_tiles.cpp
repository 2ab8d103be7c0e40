// One tile of queries against one chunk of the gallery: the coarse levels' part of every distance, then the finest level
// densely or only for the pairs that bounds leave in the running.
#include <algorithm>
#include <vector>

#include "cpu/search_state.hpp"

namespace fastspade::cpu {

namespace {

constexpr int64_t listed_panels = 16;

}  // namespace

// The coarse levels' part of every distance between a tile of queries and the chunk, in scratch.partial.
void Search::coarse_tile(int64_t tile, Scratch& scratch, float* smallest, int32_t* place) {
    const Near rows = near_tile(tile);
    const int64_t lanes = kernels_.lanes, first = tile * lanes;
    const int64_t query_width = problem_.query[0].width(), gallery_width = problem_.gallery[0].width();
    LaneTaps taps[max_lanes];
    float bias[max_lanes];
    const float zeros[max_lanes] = {};
    int64_t needed = 0, widest = 0;
    for (size_t g = 1; g < groups_.size(); ++g) {
        needed += gram_stride_[g] * lanes;
        widest += chunk_.coarse_width(g) * lanes;
    }
    scratch.interpolated.reserve(needed);
    scratch.blended.reserve(widest);
    scratch.partial.reserve((chunk_.pixels() + max_rows) * lanes);
    std::vector<const float*> interpolated(groups_.size());
    float* out = scratch.interpolated.data();
    for (size_t g = 1; g < groups_.size(); ++g) {
        const LevelGroup& group = groups_[g];
        int tap_count = 1;
        for (int64_t lane = 0; lane < lanes; ++lane) {
            const int64_t q = std::min(first + lane, queries_.pixels() - 1), flat = queries_.first_pixel() + q;
            const Tap& ty = group.query_y[static_cast<size_t>(flat / query_width)];
            const Tap& tx = group.query_x[static_cast<size_t>(flat % query_width)];
            const int64_t top = (ty.low - queries_.coarse_first_row(g)) * queries_.coarse_width(g);
            const int64_t bottom = (ty.high - queries_.coarse_first_row(g)) * queries_.coarse_width(g);
            auto row = [&](int64_t pixel) { return gram_[g].data() + pixel * gram_stride_[g]; };
            // The Gram matrix enters the distance with a factor of -2.
            taps[lane] = {{row(top + tx.low), row(top + tx.high), row(bottom + tx.low), row(bottom + tx.high)},
                          {static_cast<float>(-2.0 * ty.low_weight * tx.low_weight),
                           static_cast<float>(-2.0 * ty.low_weight * tx.high_weight),
                           static_cast<float>(-2.0 * ty.high_weight * tx.low_weight),
                           static_cast<float>(-2.0 * ty.high_weight * tx.high_weight)}};
            if (tx.high_weight != 0.0) tap_count = std::max(tap_count, 2);
            if (ty.high_weight != 0.0) tap_count = 4;
            bias[lane] = queries_.coarse_norm()[q];
        }
        // Interpolation weights sum to one, so the queries' norms may ride on one level's matrix.
        // Only the columns that the near rows read.
        const int64_t coarse_width = chunk_.coarse_width(g), first_row = chunk_.first_row();
        const int64_t top =
            group.gallery_y[static_cast<size_t>(first_row + rows.begin / gallery_width)].low - chunk_.coarse_first_row(g);
        const int64_t bottom =
            group.gallery_y[static_cast<size_t>(first_row + rows.end / gallery_width - 1)].high + 1 - chunk_.coarse_first_row(g);
        for (int64_t lane = 0; lane < lanes; ++lane)
            for (const float*& row : taps[lane].row) row += top * coarse_width;
        kernels_.interpolate_lanes(taps, tap_count, (bottom - top) * coarse_width, g == 1 ? bias : zeros,
                                   out + top * coarse_width * lanes);
        interpolated[g] = out;
        out += gram_stride_[g] * lanes;
    }
    std::vector<RowLevel> levels(groups_.size() - 1);
    for (int64_t row = rows.begin / gallery_width; row < rows.end / gallery_width; ++row) {
        float* blended = scratch.blended.data();
        for (size_t g = 1; g < groups_.size(); ++g) {
            const Tap& ty = groups_[g].gallery_y[static_cast<size_t>(chunk_.first_row() + row)];
            const int64_t width = chunk_.coarse_width(g), first_row = chunk_.coarse_first_row(g);
            levels[g - 1] = {interpolated[g] + (ty.low - first_row) * width * lanes,
                             interpolated[g] + (ty.high - first_row) * width * lanes,
                             static_cast<float>(ty.low_weight),
                             static_cast<float>(ty.high_weight),
                             width,
                             gallery_x_[g].low.data(),
                             gallery_x_[g].high.data(),
                             gallery_x_[g].low_weight.data(),
                             gallery_x_[g].high_weight.data(),
                             blended,
                             nullptr};
            blended += width * lanes;
        }
        kernels_.interpolate_row(levels.data(), static_cast<int>(levels.size()), chunk_.coarse_norm() + row * gallery_width,
                                 gallery_width, row * gallery_width, scratch.partial.data() + row * gallery_width * lanes,
                                 smallest, place);
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
        coarse_tile(tile, scratch, smallest, place);
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
    const Near near = near_tile(tile);
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
    const Near near = near_tile(tile);
    if (near.begin >= near.end) return;
    float smallest[max_lanes];
    int32_t place[max_lanes];
    std::fill(smallest, smallest + lanes, infinity);
    std::fill(place, place + lanes, -1);
    scratch.hits.resize(static_cast<size_t>(rows * lanes));
    if (several) coarse_tile(tile, scratch, smallest, place);
    if (way_ == Way::dense) return dense_tile(tile, slot, scratch);

    // A good limit early: each query's coarse winner in this chunk; in the first one, enough for kappa neighbours.
    float* const limit = limit_.data() + first;
    float seeded[max_lanes];  // pairs whose bounds do not exceed it have been evaluated
    for (int64_t lane = 0; lane < valid; ++lane)
        if (place[lane] >= 0 && !(smallest[lane] > limit[lane])) evaluate(tile, lane, place[lane], slot, scratch);
    const bool bounded = several && fresh() && !windowed(problem_) && seed(tile, slot, smallest, place, seeded, scratch);

    // What the coarse levels leave is bounded again, by whole numbers or by projections, and only what that leaves is
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
    if (!screens() && !bounded && projection_.active()) {
        // Rows that some query is left with, a few panels at a time, for limits fall meanwhile.
        for (int64_t start = near.begin; start < near.end; start += listed_panels * rows) {
            int32_t list[listed_panels * max_rows];
            const int64_t left =
                kernels_.rows_left(scratch.partial.data() + start * lanes, std::min(listed_panels * rows, near.end - start),
                                   limit, static_cast<int32_t>(start), list);
            for (int64_t i = 0; i < left; i += rows)
                evaluate_hits(
                    kernels_.refined_rows(queries_.projected() + first * projection_.width(), chunk_.projected(),
                                          projection_.width(), lowered_norm_.data() + first, chunk_.fine_norm(),
                                          scratch.partial.data(), list + i, std::min(rows, left - i), limit, scratch.hits.data()),
                    0, pixels);
        }
    } else {
        for (int64_t start = near.begin; start < near.end; start += rows) {
            const float* const coarse = several ? scratch.partial.data() + start * lanes : nullptr;
            const int64_t height = std::min(rows, near.end - start);
            int64_t found = 0;
            if (screens()) {
                const int64_t left = left_in_panel(first, start, height, scratch);
                scratch.fine_pairs += left;
                if (left)
                    found = kernels_.screened_hits[way_ == Way::bytes ? 0 : 1](
                        query_numbers_.lanes(first, lowered_norm_.data() + first),
                        chunk_numbers_.rows(start, chunk_.fine_norm() + start), chunk_numbers_.words(), coarse, limit,
                        scratch.hits.data());
            } else {
                found = kernels_.scan(bounded ? seen + start * lanes : coarse, height, limit, scratch.hits.data());
            }
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
        const int64_t found = kernels_.scan(bounds + start * lanes, std::min(rows, pixels - start), high, scratch.hits.data());
        for (int64_t h = 0; h < found; ++h) {
            const Hit& hit = scratch.hits[static_cast<size_t>(h)];
            if (hit.lane < valid && start + hit.row != place[hit.lane]) evaluate(tile, hit.lane, start + hit.row, slot, scratch);
        }
    }
    return true;
}

}  // namespace fastspade::cpu

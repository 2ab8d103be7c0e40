// One tile of queries against one chunk of the gallery: the finest level joins the coarse levels' part of the distances, for
// whole panels or only for the pairs that bounds leave in the running.
#include <algorithm>
#include <numeric>
#include <vector>

#include "core/ranking.hpp"
#include "cpu/search_state.hpp"

namespace fastspade::cpu {

Search::Tile Search::tile_at(int64_t index, int64_t slot, Scratch& scratch) {
    const int64_t first = index * kernels_.lanes, last = std::min(first + kernels_.lanes, block_.pixels());
    scratch.hits.resize(static_cast<size_t>(kernels_.rows * kernels_.lanes));
    return {
        index,  first, last - first, static_cast<int32_t>(slot), block_.near(first, last, chunk_), block_.limit.data() + first,
        scratch};
}

void Search::search_tile(Tile& tile) {
    if (several() && chooser_.mode() == Mode::per_pair && !chooser_.first_chunk())
        return bound_coarsely(tile, [&] { per_pair_tile(tile); });
    bound_coarsely(tile, {});
    if (chooser_.mode() == Mode::float32) return float32_tile(tile);
    // A good limit early: each query's coarse winner in this chunk; in the first one, enough for kappa neighbours.
    const CoarseTile& coarse = tile.scratch.coarse;
    for (int64_t lane = 0; lane < tile.queries; ++lane)
        if (coarse.nearest[lane] >= 0 && !(coarse.smallest[lane] > tile.limit[lane])) evaluate(tile, lane, coarse.nearest[lane]);
    if (several() && chooser_.first_chunk() && !windowed(problem_)) seed(tile);
    // What the coarse levels leave is bounded again, in integers or by projections, and only what that leaves is evaluated.
    chooser_.integers() ? integer_tile(tile) : per_pair_tile(tile);
}

void Search::bound_coarsely(Tile& tile, const CoarseTile::Ready& ready) {
    CoarseTile& coarse = tile.scratch.coarse;
    if (!several()) return coarse.clear();
    const int64_t width = problem_.gallery[0].width();
    const bool per_pair = chooser_.mode() == Mode::per_pair,
               by_cells = per_pair && chooser_.bounds_cells() && !block_.may_overflow;
    Range rows{0, chunk_.rows()}, cells{0, cells_.count()};
    if (windowed(problem_) && per_pair) {  // whole panels know neither rows nor columns
        const Range columns = block_.columns_near(tile.first, tile.first + tile.queries);
        rows = {tile.near.begin / width, tile.near.end / width};
        cells = {cells_.at(columns.begin), cells_.at(columns.end - 1) + 1};
    }
    coarse.compute(tile.index, {rows, cells, by_cells, by_cells && chooser_.bounds_patches()}, tile.limit, ready);
}

// The share of pairs the coarse levels leave in the running, tried on a few tiles spread over the block. Each query's limit is
// taken from the true distance at its coarse winner, as search_tile will do.
double Search::probe() {
    const int64_t tried = std::min<int64_t>(4, block_.tiles()), lanes = kernels_.lanes;
    std::vector<int64_t> left(static_cast<size_t>(tried), 0);
    team_.run(tried, [&](int64_t i, int thread) {
        Tile tile = tile_at(i * block_.tiles() / tried, 0, scratch_[static_cast<size_t>(thread)]);
        CoarseTile& coarse = tile.scratch.coarse;
        coarse.compute(tile.index, {{0, chunk_.rows()}, {0, cells_.count()}, false, false}, tile.limit);
        float limit[max_lanes];
        std::fill_n(limit, lanes, -infinity);
        for (int64_t lane = 0; lane < tile.queries; ++lane) {
            const int64_t q = tile.first + lane, r = std::max(0, coarse.nearest[lane]);
            limit[lane] = std::min(tile.limit[lane], coarse.smallest[lane] + fine_distance(q, r));
        }
        left[static_cast<size_t>(i)] = count(refine(tile), chunk_.pixels(), limit);
    });
    int64_t total = 0;
    for (int64_t value : left) total += value;
    return static_cast<double>(total) / static_cast<double>(tried * lanes * chunk_.pixels());
}

// Several neighbours wanted: evaluates, for each query of the tile, the kappa pairs or a few more with the lowest bounds, so that
// the other pairs of the first chunk meet a limit: all whose bounds do not exceed tile.evaluated[lane]. Does nothing where that
// is not worth it; else scratch.refined holds the whole chunk's bounds.
void Search::seed(Tile& tile) {
    const int64_t lanes = kernels_.lanes, rows = kernels_.rows, pixels = chunk_.pixels(), kappa = problem_.kappa;
    const CoarseTile& coarse = tile.scratch.coarse;
    if (kappa == 1 || 4 * kappa > pixels) return;
    const float* const bounds = refine(tile);

    // Each lane's bound that kappa to twice kappa pairs do not exceed, by bisection between its extremes.
    float low[max_lanes], level[max_lanes], *const high = tile.evaluated;
    int32_t counts[max_lanes];
    std::copy_n(coarse.smallest, lanes, low);
    std::fill_n(high, lanes, -infinity);
    for (int64_t r = 0; r < pixels; ++r)
        for (int64_t lane = 0; lane < lanes; ++lane) high[lane] = std::max(high[lane], bounds[r * lanes + lane]);
    for (int round = 0; round < 12; ++round) {
        bool settled = true;
        for (int64_t lane = 0; lane < lanes; ++lane) level[lane] = 0.5f * (low[lane] + high[lane]);
        kernels_.count_lanes(bounds, pixels, level, counts);
        for (int64_t lane = 0; lane < lanes; ++lane) {
            (counts[lane] < kappa ? low : high)[lane] = level[lane];
            settled &= counts[lane] >= kappa && counts[lane] <= 2 * kappa;
        }
        if (settled) break;
    }
    kernels_.count_lanes(bounds, pixels, high, counts);
    for (int64_t lane = 0; lane < lanes; ++lane)
        if (lane >= tile.queries || counts[lane] > 4 * kappa) high[lane] = -infinity;  // a crowd of equal bounds tells nothing
    for (int64_t start = 0; start < pixels; start += rows)
        evaluate_hits(
            tile, kernels_.scan(bounds, coarse.left() + start, std::min(rows, pixels - start), high, tile.scratch.hits.data()), 0,
            pixels);
    tile.refined = bounds;
}

void Search::per_pair_tile(Tile& tile) {
    const int64_t rows = kernels_.rows, before = tile.scratch.evaluated, width = projection_.width();
    const CoarseTile& coarse = tile.scratch.coarse;
    Hit* const hits = tile.scratch.hits.data();
    for (int64_t start = 0; start < coarse.left_count(); start += rows) {
        const int64_t listed = std::min(rows, coarse.left_count() - start);
        const int32_t* const list = coarse.left() + start;
        const int64_t found =
            tile.refined || !projection_.active()
                ? kernels_.scan(tile.refined ? tile.refined : coarse.values(), list, listed, tile.limit, hits)
                : kernels_.refined_rows[width / 16](block_.region.projected() + tile.first * width, chunk_.projected(),
                                                    block_.lowered_norm.data() + tile.first, chunk_.fine_norm(), coarse.values(),
                                                    list, listed, tile.limit, hits);
        evaluate_hits(tile, found, 0, chunk_.pixels());
    }
    tile.scratch.left += tile.scratch.evaluated - before;
}

void Search::integer_tile(Tile& tile) {
    const int64_t rows = kernels_.rows;
    const float* const coarse = several() ? tile.scratch.coarse.values() : nullptr;
    const auto hits_of = kernels_.integer_hits[chooser_.mode() == Mode::int8 ? 0 : 1];
    for (int64_t start = tile.near.begin; start < tile.near.end; start += rows) {
        const int64_t height = std::min(rows, tile.near.end - start), left = left_in_panel(tile, start, height);
        tile.scratch.left += left;
        if (left == 0) continue;
        const int64_t found = hits_of(block_.numbers.lanes(tile.first, block_.lowered_norm.data() + tile.first),
                                      chunk_numbers_.rows(start, chunk_.fine_norm() + start), chunk_numbers_.words(),
                                      coarse ? coarse + start * kernels_.lanes : nullptr, tile.limit, tile.scratch.hits.data());
        evaluate_hits(tile, found, start, height);
    }
}

void Search::float32_tile(Tile& tile) {
    const int64_t lanes = kernels_.lanes, rows = kernels_.rows, channels = setting_.groups[0].channels;
    const float* const lane_panel = block_.region.fine_panels() + tile.first * channels;
    const float* const lane_norm = block_.region.fine_norm() + tile.first;
    Hit* const hits = tile.scratch.hits.data();
    for (int64_t start = tile.near.begin / rows * rows; start < tile.near.end; start += rows) {
        const int64_t height = std::min(rows, chunk_.pixels() - start), left = left_in_panel(tile, start, height);
        if (left == 0) continue;
        tile.scratch.left += left;
        const float *row_panel = chunk_.fine_panels() + start * channels, *row_norm = chunk_.fine_norm() + start;
        const int64_t found =
            kernels_.panel_hits(lane_panel, row_panel, channels, lane_norm, row_norm,
                                several() ? tile.scratch.coarse.values() + start * lanes : nullptr, tile.limit, hits);
        for (const Hit* hit = hits; hit < hits + found; ++hit)
            if (hit->lane < tile.queries && hit->row < height) add(tile, hit->lane, hit->value, start + hit->row);
    }
}

// How many pairs of a panel's rows [start, start + height) are in the running by their coarse part.
int64_t Search::left_in_panel(const Tile& tile, int64_t start, int64_t height) const {
    if (!several() || !problem_.prune) return height * tile.queries;
    return count(tile.scratch.coarse.values() + start * kernels_.lanes, height, tile.limit);
}

// Bounds all the chunk's pairs by the projections on top of the coarse levels.
const float* Search::refine(const Tile& tile) {
    const int64_t lanes = kernels_.lanes, width = projection_.width(), pixels = chunk_.pixels();
    const float* const coarse = tile.scratch.coarse.values();
    if (!projection_.active()) return coarse;
    float* const out = tile.scratch.refined.reserve((pixels + max_rows) * lanes);
    for (int64_t start = 0; start < pixels; start += kernels_.rows)
        kernels_.refine[width / 16](block_.region.projected() + tile.first * width, chunk_.projected() + start * width,
                                    block_.lowered_norm.data() + tile.first, chunk_.fine_norm() + start, coarse + start * lanes,
                                    out + start * lanes);
    return out;
}

// How many values are not above their lane's limit.
int64_t Search::count(const float* values, int64_t rows, const float* limit) const {
    int32_t counts[max_lanes];
    kernels_.count_lanes(values, rows, limit, counts);
    return std::accumulate(counts, counts + kernels_.lanes, int64_t{0});
}

// Evaluates the pairs of scratch.hits, of `height` rows from `start` on, that were not evaluated before.
void Search::evaluate_hits(Tile& tile, int64_t found, int64_t start, int64_t height) {
    const int64_t lanes = kernels_.lanes;
    for (const Hit* hit = tile.scratch.hits.data(); found > 0; --found, ++hit) {
        const int64_t r = start + hit->row;
        if (hit->lane >= tile.queries || hit->row >= height || r == tile.scratch.coarse.nearest[hit->lane]) continue;
        if (hit->value > tile.limit[hit->lane]) continue;  // the limit fell since the pair was found
        if (tile.refined && !(tile.refined[r * lanes + hit->lane] > tile.evaluated[hit->lane])) continue;
        evaluate(tile, hit->lane, r);
    }
}

// The finest level's part of a distance.
float Search::fine_distance(int64_t q, int64_t r) const {
    const float dot = kernels_.dot(block_.region.fine_row(q), chunk_.fine_row(r), chunk_.row_length());
    return (block_.region.fine_norm()[q] + chunk_.fine_norm()[r]) - 2.0f * dot;
}

// Adds the finest level to one pair's coarse part.
void Search::evaluate(Tile& tile, int64_t lane, int64_t r) {
    const int64_t q = tile.first + lane;
    if (repeats_.hold(r) || !block_.reaches(q, chunk_.first_pixel() + r)) return;
    ++tile.scratch.evaluated;
    const float value = fine_distance(q, r) + (several() ? tile.scratch.coarse.values()[r * kernels_.lanes + lane] : 0.0f);
    if (!(value > tile.limit[lane])) add(tile, lane, value, r);
}

void Search::add(Tile& tile, int64_t lane, float screened, int64_t r) {
    const int64_t query = tile.first + lane, pixel = chunk_.first_pixel() + r;
    CandidateRow& row = block_.candidates.rows[static_cast<size_t>(query)];
    if (screened > row.limit()) return;  // the limit fell since the pair was found
    if (repeats_.hold(r) || !block_.reaches(query, pixel)) return;
    row.add({screened, tile.slot, pixel}, problem_.kappa);
    if (row.count == block_.capacity) {
        row.compact();
        // Many pairs closer together than the screen can tell. Most often they repeat one descriptor; what is left
        // after dropping repeats, only exact distances thin out.
        const int64_t crowded = block_.capacity - 8;
        if (row.count > crowded && !windowed(problem_))
            repeats_.drop(row, tile.slot, tile.scratch.exact);  // a window may lack the first of equal pixels
        if (row.count > crowded) rank_exactly(query, tile.scratch);
    }
    tile.limit[lane] = row.limit();
}

// Keeps the kappa nearest of an overfull row by (exact distance, flat index).
void Search::rank_exactly(int64_t query, Scratch& scratch) {
    CandidateRow& row = block_.candidates.rows[static_cast<size_t>(query)];
    scratch.exact.set_query(block_image_, block_.region.pixel_at(query));
    scratch.exact_pairs += row.count;
    keep_nearest(row, problem_.kappa, [&](const Candidate& candidate) {
        const int64_t image = gallery_image(problem_, block_image_, candidate.slot);
        const int64_t flat = image * problem_.gallery[0].pixels() + candidate.pixel;
        return Ranked{{rounded_distance(scratch.exact.to(image, candidate.pixel)), flat}, candidate};
    });
}

}  // namespace fastspade::cpu

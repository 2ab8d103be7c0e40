// Exact top-kappa search over pyramids: for each block of query pixels the gallery streams by in chunks.
//
// For one chunk: (1) lay it out; (2) compute each coarse level's Gram matrix at that level's own resolution; (3) for every
// tile of query pixels interpolate the Gram matrices, which gives the coarse levels' part of every distance, a lower
// bound; (4) add the finest level, densely or only where the bound leaves a pair in the running; (5) keep candidates.
// When all chunks have passed, the few candidates are ranked by exact distances.
#include "cpu/search.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <mutex>

#include "core/candidates.hpp"
#include "core/duplicates.hpp"
#include "core/exact.hpp"
#include "core/ranking.hpp"
#include "core/rounding.hpp"
#include "cpu/few_queries.hpp"
#include "cpu/kernels.hpp"
#include "cpu/projection.hpp"
#include "cpu/region.hpp"
#include "cpu/thread_team.hpp"

namespace fastspade::cpu {

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// Sizes that keep the working set under about 40 MiB however large the input is.
constexpr int64_t query_block_bytes = 12 << 20;
constexpr int64_t chunk_bytes = 4 << 20;
constexpr int64_t gram_bytes = 10 << 20;
constexpr int64_t candidate_bytes = 12 << 20;
constexpr int64_t block_pixels = 4096;
// Above this share of pairs left in the running, evaluating all of them is cheaper than picking them out.
constexpr double dense_share = 0.35;

class Search {
  public:
    explicit Search(const Problem& problem);
    Statistics run();

  private:
    struct Scratch {  // one a thread
        Buffer<float> interpolated, partial, blended, refined;
        Buffer<uint64_t> tried;  // by chunk pixel: the lanes it has been evaluated for
        std::vector<Hit> hits;
        std::unique_ptr<ExactDistance> exact;
        int64_t fine_pairs = 0, exact_pairs = 0;
    };
    struct GroupWeights {  // the gallery's x taps as the kernels want them
        std::vector<int32_t> low, high;
        std::vector<float> low_weight, high_weight;
    };

    void plan();
    void search_block(int64_t image, int64_t first, int64_t last);
    void search_chunk(int64_t slot);
    void multiply_coarse();
    void update_errors();
    double probe();
    void refine_panel(int64_t tile, int64_t start, Scratch& scratch, float* out);
    void evaluate(int64_t tile, int64_t lane, int64_t r, int64_t slot, Scratch& scratch);
    bool seed(int64_t tile, int64_t slot, const float* smallest, Scratch& scratch);
    void search_tile(int64_t tile, int64_t slot, bool dense, Scratch& scratch);
    void coarse_tile(int64_t tile, Scratch& scratch, float* smallest, int32_t* place);
    void search_tile_single(int64_t tile, int64_t slot, Scratch& scratch);
    void add(int64_t query, const Candidate& candidate, float* limit, Scratch& scratch);
    bool repeats(int64_t chunk_pixel) const {
        const int32_t* ranks = duplicates_.load(std::memory_order_acquire);
        return ranks && ranks[chunk_pixel] >= problem_.kappa;
    }
    void find_duplicates();
    void drop_repeats(CandidateRow& row, int32_t slot) const;
    void rank_exactly(int64_t query, Scratch& scratch);
    void rank_block();

    int64_t gallery_image(int64_t slot) const {
        return problem_.gallery_index ? problem_.gallery_index[block_image_ * problem_.gallery_count + slot] : slot;
    }
    int64_t tiles() const { return (queries_.pixels() + kernels_.lanes - 1) / kernels_.lanes; }
    void poll() const {
        if (problem_.interrupted && problem_.interrupted()) throw Interrupted();
    }

    const Problem& problem_;
    const Kernels& kernels_;
    const std::vector<LevelGroup> groups_;
    const Centring centring_;
    Projection projection_;
    ThreadTeam team_;
    Region queries_, chunk_;
    std::vector<Scratch> scratch_;
    std::vector<GroupWeights> gallery_x_;

    int64_t query_pixels_ = 0, gallery_pixels_ = 0;  // of one image
    int64_t block_step_ = 0, chunk_step_ = 0, band_pixels_ = 0;
    int64_t capacity_ = 0;

    // The state of one block of queries.
    int64_t block_image_ = 0;
    bool fresh_ = true;       // no chunk of this block has been searched yet
    double share_ = 0.0;      // of the last chunk's pairs, how many were left in the running
    std::vector<Buffer<float>> gram_;  // [coarse group]: [query coarse pixel][gallery coarse pixel]
    std::vector<int64_t> gram_stride_;
    Buffer<float> limit_;
    Buffer<float> lowered_norm_;  // the queries' fine norms less what rounding may do to the projected bound
    Buffer<Candidate> candidates_;
    Buffer<double> distances_;  // exact, beside candidates_
    NativeRows query_native_, gallery_native_;
    std::vector<CandidateRow> rows_;
    std::vector<float> largest_;  // [group] largest gallery norm bound seen in this block
    Statistics statistics_;

    // Ranks of repeated descriptors in the chunk at hand: looked for only once ties crowd a row, null until then.
    std::atomic<const int32_t*> duplicates_{nullptr};
    std::vector<int32_t> duplicate_ranks_;
    std::mutex duplicates_lock_;
};

Search::Search(const Problem& problem)
    : problem_(problem), kernels_(kernels()), groups_(group_levels(problem)),
      centring_(choose_centring(problem, groups_)), team_(problem.threads),
      queries_(groups_, centring_, projection_, kernels_, Side::query),
      chunk_(groups_, centring_, projection_, kernels_, Side::gallery), scratch_(static_cast<size_t>(team_.size())), gallery_x_(groups_.size()),
      gram_stride_(groups_.size(), 0), largest_(groups_.size(), 0.0f) {
    for (size_t g = 0; g < groups_.size(); ++g) {
        gram_.emplace_back();
        for (size_t x = 0; g > 0 && x < groups_[g].gallery_x.size(); ++x) {
            const Tap tap = groups_[g].gallery_x[x];
            gallery_x_[g].low.push_back(tap.low);
            gallery_x_[g].high.push_back(tap.high);
            gallery_x_[g].low_weight.push_back(static_cast<float>(tap.low_weight));
            gallery_x_[g].high_weight.push_back(static_cast<float>(tap.high_weight));
        }
    }
    if (groups_.size() > 1 && problem_.prune)
        projection_.fit(problem_, groups_[0], centring_.mean[0], centring_.scale, kernels_);
    for (Scratch& scratch : scratch_) scratch.exact = std::make_unique<ExactDistance>(problem_, groups_);
    plan();
}

void Search::plan() {
    query_pixels_ = problem_.query[0].pixels();
    gallery_pixels_ = problem_.gallery[0].pixels();
    const int64_t vector_bytes = 4 * std::max<int64_t>(1, groups_[0].channels);
    capacity_ = candidate_capacity(problem_.kappa);
    const int64_t row_bytes = capacity_ * static_cast<int64_t>(sizeof(Candidate) + 3 * sizeof(int64_t));
    block_step_ = std::clamp<int64_t>(std::min(query_block_bytes / vector_bytes, candidate_bytes / row_bytes), 1, block_pixels);
    chunk_step_ = std::clamp<int64_t>(chunk_bytes / vector_bytes, 1, block_pixels);
    if (groups_.size() == 1) {  // blocks of one size: a small last one would have the whole gallery laid out for little
        const int64_t blocks = (query_pixels_ + block_step_ - 1) / block_step_;
        block_step_ = Region::padded((query_pixels_ + blocks - 1) / blocks, kernels_.lanes);
        return;
    }
    // Several levels: blocks and chunks are whole rows, and the Gram matrices between them must fit.
    const int64_t query_width = problem_.query[0].width(), gallery_width = problem_.gallery[0].width();
    int64_t query_rows = std::max<int64_t>(1, block_step_ / query_width);
    int64_t chunk_rows = std::max<int64_t>(1, chunk_step_ / gallery_width);
    auto gram_size = [&] {
        int64_t bytes = 0;
        for (size_t g = 1; g < groups_.size(); ++g) {
            auto covered = [](int64_t rows, int64_t fine, int64_t coarse) {
                return std::min(coarse, rows * coarse / fine + 3);
            };
            const TensorView &q = groups_[g].query[0], &r = groups_[g].gallery[0];
            bytes += 4 * covered(query_rows, problem_.query[0].height(), q.height()) * q.width() *
                     covered(chunk_rows, problem_.gallery[0].height(), r.height()) * r.width();
        }
        return bytes;
    };
    while (gram_size() > gram_bytes && query_rows * chunk_rows > 1)
        (query_rows > chunk_rows ? query_rows : chunk_rows) = (std::max(query_rows, chunk_rows) + 1) / 2;
    block_step_ = query_rows * query_width;
    chunk_step_ = chunk_rows * gallery_width;
}

Statistics Search::run() {
    const int64_t images = problem_.query[0].images();
    for (int64_t image = 0; image < images; ++image)
        for (int64_t first = 0; first < query_pixels_; first += block_step_)
            search_block(image, first, std::min(first + block_step_, query_pixels_));
    for (const Scratch& scratch : scratch_) {
        statistics_.fine_pairs += scratch.fine_pairs;
        statistics_.exact_pairs += scratch.exact_pairs;
    }
    return statistics_;
}

void Search::search_block(int64_t image, int64_t first, int64_t last) {
    block_image_ = image;
    queries_.place(image, first, last);
    queries_.pack(team_, kernels_.lanes, groups_.size() > 1, kernels_.rows);
    const int64_t count = queries_.pixels(), lanes = kernels_.lanes, padded = tiles() * lanes;
    candidates_.reserve(count * capacity_);
    rows_.assign(static_cast<size_t>(count), CandidateRow{});
    for (int64_t q = 0; q < count; ++q) rows_[static_cast<size_t>(q)].items = candidates_.data() + q * capacity_;
    limit_.reserve(padded);
    lowered_norm_.reserve(padded);
    std::fill(lowered_norm_.data(), lowered_norm_.data() + padded, 0.0f);
    for (int64_t q = 0; q < padded; ++q) limit_[q] = q < count ? infinity : -infinity;
    std::fill(largest_.begin(), largest_.end(), 0.0f);
    fresh_ = true;
    share_ = 0.0;
    for (int64_t slot = 0; slot < problem_.gallery_count; ++slot)
        for (int64_t begin = 0; begin < gallery_pixels_; begin += chunk_step_) {
            poll();
            chunk_.place(gallery_image(slot), begin, std::min(begin + chunk_step_, gallery_pixels_));
            search_chunk(slot);
            statistics_.pairs += count * chunk_.pixels();
            fresh_ = false;
        }
    rank_block();
}

// A query's error bound grows with the largest gallery norm met so far; limits are widened to match.
void Search::update_errors() {
    for (size_t g = 0; g < groups_.size(); ++g) largest_[g] = std::max(largest_[g], chunk_.largest_norm_bound(g));
    for (int64_t q = 0; q < queries_.pixels(); ++q) {
        double error = 0.0;
        for (size_t g = 0; g < groups_.size(); ++g) {
            const double reach = static_cast<double>(queries_.norm_bound(g)[q]) + static_cast<double>(largest_[g]);
            error += rounding_factor(groups_[g].channels) * reach * reach;
        }
        CandidateRow& row = rows_[static_cast<size_t>(q)];
        row.error = static_cast<float>(error * 1.001);
        const double fine = static_cast<double>(queries_.norm_bound(0)[q]) + static_cast<double>(largest_[0]);
        lowered_norm_[q] = static_cast<float>(static_cast<double>(queries_.fine_norm()[q]) - projection_.slack() * fine * fine);
        limit_[q] = row.limit();
    }
}

void Search::multiply_coarse() {
    struct Piece {
        size_t group;
        int64_t panel;
    };
    std::vector<Piece> pieces;
    const int64_t lanes = kernels_.lanes, rows = kernels_.rows;
    for (size_t g = 1; g < groups_.size(); ++g) {
        const int64_t stride = Region::padded(chunk_.coarse_pixels(g), lanes);
        gram_stride_[g] = stride;
        gram_[g].reserve(Region::padded(queries_.coarse_pixels(g), rows) * stride + 64);
        for (int64_t panel = 0; panel < stride / lanes; ++panel) pieces.push_back({g, panel});
    }
    team_.run(static_cast<int64_t>(pieces.size()), [&](int64_t i, int) {
        const auto [g, panel] = pieces[static_cast<size_t>(i)];
        const int64_t channels = groups_[g].channels;
        const float* lane_panel = chunk_.coarse_panels(g) + panel * channels * lanes;
        for (int64_t q = 0; q < queries_.coarse_pixels(g); q += rows)
            kernels_.product(lane_panel, queries_.coarse_panels(g) + q * channels, channels,
                             gram_[g].data() + q * gram_stride_[g] + panel * lanes, gram_stride_[g]);
    });
}

void Search::search_chunk(int64_t slot) {
    const int64_t count = tiles();
    duplicates_.store(nullptr, std::memory_order_release);
    if (groups_.size() == 1) {
        chunk_.pack(team_, kernels_.rows, false, 0);
        update_errors();
        team_.run(count, [&](int64_t tile, int thread) {
            search_tile_single(tile, slot, scratch_[static_cast<size_t>(thread)]);
        });
        return;
    }
    // Which layout of the finest level is needed depends on how well the coarse levels prune; the last chunk tells, and
    // for the first one a few tiles are tried.
    bool dense = !problem_.prune || share_ > dense_share;
    chunk_.pack(team_, dense ? kernels_.rows : 0, !dense, kernels_.lanes);
    update_errors();
    multiply_coarse();
    if (fresh_ && !dense && probe() > dense_share) {
        dense = true;
        chunk_.pack(team_, kernels_.rows, false, kernels_.lanes);
    }
    std::atomic<int64_t> running{0};
    team_.run(count, [&](int64_t tile, int thread) {
        Scratch& scratch = scratch_[static_cast<size_t>(thread)];
        const int64_t before = scratch.fine_pairs;
        search_tile(tile, slot, dense, scratch);
        running += scratch.fine_pairs - before;
    });
    share_ = static_cast<double>(running.load()) / static_cast<double>(queries_.pixels() * chunk_.pixels());
}

// The coarse levels' part of every distance between a tile of queries and the chunk, in scratch.partial.
void Search::coarse_tile(int64_t tile, Scratch& scratch, float* smallest, int32_t* place) {
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
        kernels_.interpolate_lanes(taps, tap_count, chunk_.coarse_pixels(g), g == 1 ? bias : zeros, out);
        interpolated[g] = out;
        out += gram_stride_[g] * lanes;
    }
    std::vector<RowLevel> levels(groups_.size() - 1);
    for (int64_t row = 0; row < chunk_.rows(); ++row) {
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
                             blended};
            blended += width * lanes;
        }
        kernels_.interpolate_row(levels.data(), static_cast<int>(levels.size()),
                                 chunk_.coarse_norm() + row * gallery_width, gallery_width, row * gallery_width,
                                 scratch.partial.data() + row * gallery_width * lanes, smallest, place);
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
            limit[lane] = smallest[lane] + (queries_.fine_norm()[q] + chunk_.fine_norm()[place[lane]]) - 2.0f * dot;
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

void Search::search_tile(int64_t tile, int64_t slot, bool dense, Scratch& scratch) {
    const int64_t lanes = kernels_.lanes, first = tile * lanes, pixels = chunk_.pixels();
    const int64_t valid = std::min(lanes, queries_.pixels() - first);
    float smallest[max_lanes];
    int32_t place[max_lanes];
    std::fill(smallest, smallest + lanes, infinity);
    std::fill(place, place + lanes, -1);
    coarse_tile(tile, scratch, smallest, place);
    float* const partial = scratch.partial.data();
    float* const limit = limit_.data() + first;
    const float* const fine_norm = queries_.fine_norm() + first;
    const int64_t offset = chunk_.first_pixel();

    if (dense) {
        if (problem_.prune) scratch.fine_pairs += kernels_.count(partial, pixels, limit);
        else scratch.fine_pairs += valid * pixels;
        const int64_t rows = kernels_.rows, channels = groups_[0].channels;
        const float* lane_panel = queries_.fine_panels() + first * channels;
        scratch.hits.resize(static_cast<size_t>(rows * lanes));
        for (int64_t r = 0; r < pixels; r += rows) {
            float* base = partial + r * lanes;
            const int64_t height = std::min(rows, pixels - r);
            if (problem_.prune && kernels_.count(base, height, limit) == 0) continue;
            kernels_.subtract_product(lane_panel, chunk_.fine_panels() + r * channels, channels, fine_norm,
                                      chunk_.fine_norm() + r, base);
            const int64_t found = kernels_.scan(base, height, limit, scratch.hits.data());
            for (int64_t h = 0; h < found; ++h) {
                const Hit& hit = scratch.hits[static_cast<size_t>(h)];
                if (hit.lane < valid)
                    add(first + hit.lane, {hit.value, static_cast<int32_t>(slot), offset + r + hit.row}, limit + hit.lane,
                        scratch);
            }
        }
        return;
    }

    // A good limit early: each query's coarse winner in this chunk; in the first one, enough for kappa neighbours.
    std::fill_n(scratch.tried.reserve(pixels), pixels, uint64_t{0});
    for (int64_t lane = 0; lane < valid; ++lane)
        if (place[lane] >= 0 && !(smallest[lane] > limit[lane])) evaluate(tile, lane, place[lane], slot, scratch);
    const bool bounded = fresh_ && seed(tile, slot, smallest, scratch);

    // Panel by panel: what the coarse levels leave is bounded again with the projections, and only what that leaves is
    // evaluated.
    const int64_t rows = kernels_.rows;
    scratch.hits.resize(static_cast<size_t>(rows * lanes));
    for (int64_t start = 0; start < pixels; start += rows) {
        const float* const bound = (bounded ? scratch.refined.data() : partial) + start * lanes;
        const int64_t height = std::min(rows, pixels - start);
        int64_t found = 0;
        if (bounded || !projection_.active())
            found = kernels_.scan(bound, height, limit, scratch.hits.data());
        else if (kernels_.any(bound, height, limit))
            found = kernels_.refined_hits(queries_.projected() + first * Projection::width,
                                          chunk_.projected() + start * Projection::width, Projection::width,
                                          lowered_norm_.data() + first, chunk_.fine_norm() + start, bound, limit,
                                          scratch.hits.data());
        for (int64_t h = 0; h < found; ++h) {
            const Hit& hit = scratch.hits[static_cast<size_t>(h)];
            if (hit.lane < valid && hit.row < height && !(hit.value > limit[hit.lane]))
                evaluate(tile, hit.lane, start + hit.row, slot, scratch);
        }
    }
}

// Bounds a panel's pairs by the projections on top of the coarse levels.
void Search::refine_panel(int64_t tile, int64_t start, Scratch& scratch, float* out) {
    const int64_t lanes = kernels_.lanes, first = tile * lanes;
    kernels_.refine(queries_.projected() + first * Projection::width, chunk_.projected() + start * Projection::width,
                    Projection::width, lowered_norm_.data() + first, chunk_.fine_norm() + start,
                    scratch.partial.data() + start * lanes, out);
}

// Adds the finest level to one pair's coarse part, unless that has been done.
void Search::evaluate(int64_t tile, int64_t lane, int64_t r, int64_t slot, Scratch& scratch) {
    const int64_t lanes = kernels_.lanes, q = tile * lanes + lane;
    const uint64_t bit = uint64_t{1} << lane;
    if ((scratch.tried[r] & bit) || repeats(r)) return;
    scratch.tried[r] |= bit;
    ++scratch.fine_pairs;
    const float dot = kernels_.dot(queries_.fine_row(q), chunk_.fine_row(r), chunk_.row_length());
    const float value =
        scratch.partial[r * lanes + lane] + (queries_.fine_norm()[q] + chunk_.fine_norm()[r]) - 2.0f * dot;
    if (!(value > limit_[q])) add(q, {value, static_cast<int32_t>(slot), chunk_.first_pixel() + r}, limit_.data() + q, scratch);
}

// Several neighbours wanted: evaluates, for each query of the tile, the kappa pairs or a few more with the lowest bounds,
// so that the other pairs of the first chunk meet a limit. Returns whether scratch.refined holds the whole chunk's bounds.
bool Search::seed(int64_t tile, int64_t slot, const float* smallest, Scratch& scratch) {
    const int64_t lanes = kernels_.lanes, rows = kernels_.rows, pixels = chunk_.pixels(), kappa = problem_.kappa;
    const int64_t valid = std::min(lanes, queries_.pixels() - tile * lanes);
    if (kappa == 1 || 4 * kappa > pixels) return false;
    float* const bounds = scratch.refined.reserve((pixels + max_rows) * lanes);
    if (projection_.active())
        for (int64_t start = 0; start < pixels; start += rows) refine_panel(tile, start, scratch, bounds + start * lanes);
    else
        std::copy_n(scratch.partial.data(), pixels * lanes, bounds);

    // Each lane's bound that kappa to twice kappa pairs do not exceed, by bisection between its extremes.
    float low[max_lanes], high[max_lanes], level[max_lanes];
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
            if (counts[lane] < kappa) low[lane] = level[lane];
            else high[lane] = level[lane];
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
            kernels_.scan(bounds + start * lanes, std::min(rows, pixels - start), high, scratch.hits.data());
        for (int64_t h = 0; h < found; ++h) {
            const Hit& hit = scratch.hits[static_cast<size_t>(h)];
            if (hit.lane < valid) evaluate(tile, hit.lane, start + hit.row, slot, scratch);
        }
    }
    for (int64_t lane = 0; lane < valid; ++lane) {
        const int64_t q = tile * lanes + lane;
        rows_[static_cast<size_t>(q)].compact(kappa);
        limit_[q] = rows_[static_cast<size_t>(q)].limit();
    }
    return true;
}

void Search::search_tile_single(int64_t tile, int64_t slot, Scratch& scratch) {
    const int64_t lanes = kernels_.lanes, rows = kernels_.rows, first = tile * lanes, pixels = chunk_.pixels();
    const int64_t valid = std::min(lanes, queries_.pixels() - first), channels = groups_[0].channels;
    float* const limit = limit_.data() + first;
    const float* lane_panel = queries_.fine_panels() + first * channels;
    scratch.hits.resize(static_cast<size_t>(rows * lanes));
    scratch.fine_pairs += valid * pixels;
    for (int64_t r = 0; r < pixels; r += rows) {
        const int64_t found =
            kernels_.distance_hits(lane_panel, chunk_.fine_panels() + r * channels, channels, queries_.fine_norm() + first,
                                   chunk_.fine_norm() + r, limit, scratch.hits.data());
        for (int64_t h = 0; h < found; ++h) {
            const Hit& hit = scratch.hits[static_cast<size_t>(h)];
            if (hit.lane < valid && r + hit.row < pixels)
                add(first + hit.lane, {hit.value, static_cast<int32_t>(slot), chunk_.first_pixel() + r + hit.row},
                    limit + hit.lane, scratch);
        }
    }
}

void Search::add(int64_t query, const Candidate& candidate, float* limit, Scratch& scratch) {
    CandidateRow& row = rows_[static_cast<size_t>(query)];
    if (candidate.screened > row.limit()) return;  // the limit fell since the pair was found
    if (repeats(candidate.pixel - chunk_.first_pixel())) return;
    row.items[row.count++] = candidate;
    if (problem_.kappa == 1 && candidate.screened < row.kth) row.kth = candidate.screened;
    if (row.count == capacity_) {
        row.compact(problem_.kappa);
        // Many pairs closer together than the screen can tell. Most often they repeat one descriptor; what is left
        // after dropping repeats, only exact distances thin out.
        if (row.count > capacity_ - 8) {
            find_duplicates();
            drop_repeats(row, candidate.slot);
            if (row.count > capacity_ - 8) rank_exactly(query, scratch);
        }
    }
    *limit = row.limit();
}

void Search::find_duplicates() {
    std::lock_guard<std::mutex> hold(duplicates_lock_);
    if (duplicates_.load(std::memory_order_relaxed)) return;
    duplicate_ranks_ = duplicate_ranks(groups_, chunk_.image(), chunk_.first_pixel(),
                                       chunk_.first_pixel() + chunk_.pixels(), problem_.gallery[0].width());
    duplicates_.store(duplicate_ranks_.data(), std::memory_order_release);
}

// Removes the repeats that came from the chunk at hand; earlier chunks' candidates stay.
void Search::drop_repeats(CandidateRow& row, int32_t slot) const {
    int64_t kept = 0;
    for (int64_t i = 0; i < row.count; ++i) {
        const Candidate& item = row.items[i];
        const int64_t pixel = item.pixel - chunk_.first_pixel();
        const bool here = item.slot == slot && pixel >= 0 && pixel < chunk_.pixels();
        if (!here || !repeats(pixel)) row.items[kept++] = item;
    }
    row.count = kept;
}

// Keeps the kappa nearest of an overfull row by (exact distance, flat index).
void Search::rank_exactly(int64_t query, Scratch& scratch) {
    CandidateRow& row = rows_[static_cast<size_t>(query)];
    scratch.exact->set_query(block_image_, queries_.first_pixel() + query);
    scratch.exact_pairs += row.count;
    keep_nearest(row, problem_.kappa, [&](const Candidate& candidate) {
        const int64_t image = gallery_image(candidate.slot);
        return Ranked{scratch.exact->to(image, candidate.pixel), image * gallery_pixels_ + candidate.pixel, candidate};
    });
}

// The end of a block: exact distances of all candidates left, then each query's kappa nearest go to the output.
void Search::rank_block() {
    const int64_t count = queries_.pixels(), first = queries_.first_pixel();
    team_.run(count, [&](int64_t q, int) { rows_[static_cast<size_t>(q)].compact(problem_.kappa); });

    // Candidates by the gallery chunk they lie in, then by query: each chunk is visited once.
    struct Entry {
        int32_t query, item;
        int64_t pixel;
    };
    const int64_t chunks_an_image = (gallery_pixels_ + chunk_step_ - 1) / chunk_step_;
    std::vector<int64_t> start(static_cast<size_t>(problem_.gallery_count * chunks_an_image) + 1, 0);
    auto chunk_of = [&](const Candidate& candidate) {
        return static_cast<size_t>(candidate.slot * chunks_an_image + candidate.pixel / chunk_step_);
    };
    for (int64_t q = 0; q < count; ++q)
        for (int64_t i = 0; i < rows_[static_cast<size_t>(q)].count; ++i)
            ++start[chunk_of(rows_[static_cast<size_t>(q)].items[i]) + 1];
    for (size_t c = 1; c < start.size(); ++c) start[c] += start[c - 1];
    std::vector<Entry> entries(static_cast<size_t>(start.back()));
    std::vector<int64_t> next(start.begin(), start.end() - 1);
    for (int64_t q = 0; q < count; ++q)
        for (int64_t i = 0; i < rows_[static_cast<size_t>(q)].count; ++i) {
            const Candidate& candidate = rows_[static_cast<size_t>(q)].items[i];
            entries[static_cast<size_t>(next[chunk_of(candidate)]++)] = {static_cast<int32_t>(q), static_cast<int32_t>(i),
                                                                         candidate.pixel};
        }
    distances_.reserve(count * capacity_);

    // Reading scattered vectors out of channel-major features is slow, and so is laying them out anew for a few.
    const NativeRows* query_rows = nullptr;
    if (start.back() > 2 * count) {
        query_native_.place(groups_, Side::query, block_image_, first, first + count);
        team_.run(query_native_.pieces(), [&](int64_t piece, int) { query_native_.fill(piece); });
        query_rows = &query_native_;
    }
    for (size_t c = 0; c + 1 < start.size(); ++c) {
        const int64_t found = start[c + 1] - start[c];
        if (found == 0) continue;
        const int64_t image = gallery_image(static_cast<int64_t>(c) / chunks_an_image);
        const int64_t begin = static_cast<int64_t>(c) % chunks_an_image * chunk_step_;
        const int64_t end = std::min(begin + chunk_step_, gallery_pixels_);
        const NativeRows* rows = nullptr;
        if (found * 8 > end - begin) {
            gallery_native_.place(groups_, Side::gallery, image, begin, end);
            team_.run(gallery_native_.pieces(), [&](int64_t piece, int) { gallery_native_.fill(piece); });
            rows = &gallery_native_;
        }
        constexpr int64_t piece = 64;
        team_.run((found + piece - 1) / piece, [&](int64_t p, int thread) {
            if (thread == 0) poll();  // only the calling thread may talk to the caller's interpreter
            Scratch& scratch = scratch_[static_cast<size_t>(thread)];
            int64_t at = -1;
            for (int64_t e = start[c] + p * piece; e < std::min(start[c + 1], start[c] + (p + 1) * piece); ++e) {
                const Entry& entry = entries[static_cast<size_t>(e)];
                if (entry.query != at) scratch.exact->set_query(block_image_, first + entry.query, query_rows);
                at = entry.query;
                distances_[at * capacity_ + entry.item] = scratch.exact->to(image, entry.pixel, rows);
                ++scratch.exact_pairs;
            }
        });
    }
    team_.run(count, [&](int64_t q, int) {
        const CandidateRow& row = rows_[static_cast<size_t>(q)];
        std::vector<Ranked> ranked(static_cast<size_t>(row.count));
        for (int64_t i = 0; i < row.count; ++i)
            ranked[static_cast<size_t>(i)] = {distances_[q * capacity_ + i],
                                              gallery_image(row.items[i].slot) * gallery_pixels_ + row.items[i].pixel,
                                              row.items[i]};
        write_nearest(ranked, problem_, block_image_ * query_pixels_ + first + q);
    });
}

}  // namespace

Statistics search(const Problem& problem) {
    return suits_few_queries(problem) ? search_few_queries(problem) : Search(problem).run();
}

}  // namespace fastspade::cpu

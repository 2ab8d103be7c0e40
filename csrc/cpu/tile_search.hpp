// One tile of queries against one chunk of the gallery: the finest level joins the coarse levels' part of the distances, for
// whole panels or only for the pairs that bounds leave in the running.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "core/buffer.hpp"
#include "core/candidates.hpp"
#include "core/exact.hpp"
#include "core/ranking.hpp"
#include "cpu/cells.hpp"
#include "cpu/chunk_repeats.hpp"
#include "cpu/coarse_tile.hpp"
#include "cpu/gram.hpp"
#include "cpu/mode.hpp"
#include "cpu/quantised.hpp"
#include "cpu/query_block.hpp"
#include "cpu/region.hpp"

namespace fastspade::cpu {

// What meets: a block of queries and a chunk of the gallery, and what was computed of the two.
struct Meeting {
    explicit Meeting(const Problem& problem) : setting(problem) {}

    const Setting setting;
    QueryBlock block{setting};
    Region chunk{setting, Side::gallery};
    int32_t slot = 0;  // of the chunk's image
    Quantised chunk_numbers;
    Cells cells{setting.groups};
    GramMatrices gram{setting};
    ModeChooser chooser{setting};
    ChunkRepeats repeats{setting, chunk};
};

// One object a thread.
class TileSearch {
  public:
    TileSearch(Meeting& meeting, ExactDistance& exact)
        : meeting_(meeting), exact_(exact), coarse_(meeting.setting, meeting.gram, meeting.cells, block_.region, chunk_) {
        hits_.resize(static_cast<size_t>(kernels_.rows * kernels_.lanes));
    }

    // Takes over a tile of the block. Whether a window leaves anything of the chunk to it.
    bool start(int64_t index) {
        index_ = index, first_ = index * kernels_.lanes, queries_ = std::min<int64_t>(kernels_.lanes, block_.pixels() - first_);
        near_ = block_.near(first_, first_ + queries_, chunk_);
        limit_ = block_.limit.data() + first_;
        seeded_ = nullptr;
        return near_.begin < near_.end;
    }

    // Adds what the chunk has to the tile's candidates.
    void search() {
        if (several() && chooser_.mode() == Mode::per_pair && !chooser_.first_chunk())
            return bound_coarsely([&] { per_pair_tile(); });
        bound_coarsely({});
        if (chooser_.mode() == Mode::float32) return panels_tile();
        // A good limit early: each query's coarse winner in this chunk; in the first one, enough for kappa neighbours.
        for (int64_t lane = 0; lane < queries_; ++lane)
            if (coarse_.nearest[lane] >= 0 && !(coarse_.smallest[lane] > limit_[lane])) evaluate(lane, coarse_.nearest[lane]);
        if (several() && chooser_.first_chunk() && !windowed(problem_)) seed();
        // What the coarse levels leave is bounded again, in integers or by projections, and only what that leaves is evaluated.
        chooser_.integers() ? panels_tile() : per_pair_tile();
    }

    // How many pairs the coarse levels leave, where each query's limit is the distance at its coarse winner, as in search().
    int64_t left_by_coarse_levels() {
        coarse_.compute(index_, {{0, chunk_.rows()}, {0, meeting_.cells.count()}, false, false}, limit_);
        float limit[max_lanes];
        std::fill_n(limit, kernels_.lanes, -infinity);
        for (int64_t lane = 0; lane < queries_; ++lane) {
            const int64_t r = std::max(0, coarse_.nearest[lane]);
            limit[lane] = std::min(limit_[lane], coarse_.smallest[lane] + fine_distance(first_ + lane, r));
        }
        return count(refine(), chunk_.pixels(), limit);
    }

    // Adds to a chunk's counts, and to those of exact distances, what was counted since the last time.
    void give_counts(ChunkCounts& counts, int64_t& exact_pairs) {
        counts.left += std::exchange(left_, 0);
        counts.evaluated += std::exchange(evaluated_, 0);
        counts.cells_left += std::exchange(coarse_.cells_left, 0);
        counts.cells_by_coarsest += std::exchange(coarse_.cells_by_coarsest, 0);
        exact_pairs += std::exchange(exact_pairs_, 0);
    }

  private:
    void bound_coarsely(const CoarseTile::Ready& ready) {
        if (!several()) return coarse_.clear();
        const int64_t width = problem_.gallery[0].width();
        const bool per_pair = chooser_.mode() == Mode::per_pair,
                   by_cells = per_pair && chooser_.bounds_cells() && !block_.may_overflow;
        Range rows{0, chunk_.rows()}, cells{0, meeting_.cells.count()};
        if (windowed(problem_) && per_pair) {  // whole panels know neither rows nor columns
            const Range columns = block_.columns_near(first_, first_ + queries_);
            rows = {near_.begin / width, near_.end / width};
            cells = {meeting_.cells.at(columns.begin), meeting_.cells.at(columns.end - 1) + 1};
        }
        coarse_.compute(index_, {rows, cells, by_cells, by_cells && chooser_.bounds_patches()}, limit_, ready);
    }

    // Several neighbours wanted: evaluates, for each query of the tile, the kappa pairs or a few more with the lowest bounds, so
    // that the other pairs of the first chunk meet a limit: all whose bounds do not exceed seeded_to_[lane]. Does nothing where
    // that is not worth it; else seeded_ holds the whole chunk's bounds.
    void seed() {
        const int64_t lanes = kernels_.lanes, rows = kernels_.rows, pixels = chunk_.pixels(), kappa = problem_.kappa;
        if (kappa == 1 || 4 * kappa > pixels) return;
        const float* const bounds = refine();

        // Each lane's bound that kappa to twice kappa pairs do not exceed, by bisection between its extremes.
        float low[max_lanes], level[max_lanes], *const high = seeded_to_;
        int32_t counts[max_lanes];
        std::copy_n(coarse_.smallest, lanes, low);
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
            if (lane >= queries_ || counts[lane] > 4 * kappa) high[lane] = -infinity;  // a crowd of equal bounds tells nothing
        for (int64_t start = 0; start < pixels; start += rows)
            evaluate_hits(kernels_.scan(bounds, coarse_.left() + start, std::min(rows, pixels - start), high, hits_.data()), 0,
                          pixels);
        seeded_ = bounds;
    }

    void per_pair_tile() {
        const int64_t rows = kernels_.rows, before = evaluated_, width = projection_.width();
        Hit* const hits = hits_.data();
        for (int64_t start = 0; start < coarse_.left_count(); start += rows) {
            const int64_t listed = std::min(rows, coarse_.left_count() - start);
            const int32_t* const list = coarse_.left() + start;
            const int64_t found =
                seeded_ || !projection_.active()
                    ? kernels_.scan(seeded_ ? seeded_ : coarse_.values(), list, listed, limit_, hits)
                    : kernels_.refined_rows[width / 16](block_.region.projected() + first_ * width, chunk_.projected(),
                                                        block_.lowered_norm.data() + first_, chunk_.fine_norm(), coarse_.values(),
                                                        list, listed, limit_, hits);
            evaluate_hits(found, 0, chunk_.pixels());
        }
        left_ += evaluated_ - before;
    }

    // Whole panels: bounds in integers, of which what is left is evaluated, or the distances themselves.
    void panels_tile() {
        const int64_t lanes = kernels_.lanes, rows = kernels_.rows, channels = meeting_.setting.groups[0].channels;
        const Quantised& numbers = meeting_.chunk_numbers;
        Hit* const hits = hits_.data();
        for (int64_t start = near_.begin / rows * rows; start < near_.end; start += rows) {
            const int64_t height = std::min(rows, chunk_.pixels() - start), left = left_in_panel(start, height);
            left_ += left;
            if (left == 0) continue;
            const float* const base = several() ? coarse_.values() + start * lanes : nullptr;
            const float* const row_norm = chunk_.fine_norm() + start;
            if (chooser_.integers()) {
                evaluate_hits(kernels_.integer_hits[numbers.bytes() - 1](
                                  block_.numbers.lanes(first_, block_.lowered_norm.data() + first_),
                                  numbers.rows(start, row_norm), numbers.words(), base, limit_, hits),
                              start, height);
                continue;
            }
            const int64_t found =
                kernels_.panel_hits(block_.region.fine_panels() + first_ * channels, chunk_.fine_panels() + start * channels,
                                    channels, block_.region.fine_norm() + first_, row_norm, base, limit_, hits);
            for (const Hit* hit = hits; hit < hits + found; ++hit)
                if (hit->lane < queries_ && hit->row < height) add(hit->lane, hit->value, start + hit->row);
        }
    }

    // How many pairs of a panel's rows [start, start + height) are in the running by their coarse part.
    int64_t left_in_panel(int64_t start, int64_t height) const {
        if (!several() || !problem_.prune) return height * queries_;
        return count(coarse_.values() + start * kernels_.lanes, height, limit_);
    }

    // Bounds all the chunk's pairs by the projections on top of the coarse levels.
    const float* refine() {
        const int64_t lanes = kernels_.lanes, width = projection_.width(), pixels = chunk_.pixels();
        const float* const coarse = coarse_.values();
        if (!projection_.active()) return coarse;
        float* const out = bounds_.reserve((pixels + max_rows) * lanes);
        for (int64_t start = 0; start < pixels; start += kernels_.rows)
            kernels_.refine[width / 16](block_.region.projected() + first_ * width, chunk_.projected() + start * width,
                                        block_.lowered_norm.data() + first_, chunk_.fine_norm() + start, coarse + start * lanes,
                                        out + start * lanes);
        return out;
    }

    // How many values are not above their lane's limit.
    int64_t count(const float* values, int64_t rows, const float* limit) const {
        int32_t counts[max_lanes];
        kernels_.count_lanes(values, rows, limit, counts);
        return std::accumulate(counts, counts + kernels_.lanes, int64_t{0});
    }

    // Evaluates the pairs of hits_, of `height` rows from `start` on, that were not evaluated before.
    void evaluate_hits(int64_t found, int64_t start, int64_t height) {
        const int64_t lanes = kernels_.lanes;
        for (const Hit* hit = hits_.data(); found > 0; --found, ++hit) {
            const int64_t r = start + hit->row;
            if (hit->lane >= queries_ || hit->row >= height || r == coarse_.nearest[hit->lane]) continue;
            if (hit->value > limit_[hit->lane]) continue;  // the limit fell since the pair was found
            if (seeded_ && !(seeded_[r * lanes + hit->lane] > seeded_to_[hit->lane])) continue;
            evaluate(hit->lane, r);
        }
    }

    // The finest level's part of a distance.
    float fine_distance(int64_t q, int64_t r) const {
        const float dot = kernels_.dot(block_.region.fine_row(q), chunk_.fine_row(r), chunk_.row_length());
        return (block_.region.fine_norm()[q] + chunk_.fine_norm()[r]) - 2.0f * dot;
    }

    // Adds the finest level to one pair's coarse part.
    void evaluate(int64_t lane, int64_t r) {
        const int64_t q = first_ + lane;
        if (meeting_.repeats.hold(r) || !block_.reaches(q, chunk_.first_pixel() + r)) return;
        ++evaluated_;
        const float value = fine_distance(q, r) + (several() ? coarse_.values()[r * kernels_.lanes + lane] : 0.0f);
        if (!(value > limit_[lane])) add(lane, value, r);
    }

    void add(int64_t lane, float screened, int64_t r) {
        const int64_t query = first_ + lane, pixel = chunk_.first_pixel() + r;
        CandidateRow& row = block_.candidates.rows[static_cast<size_t>(query)];
        if (screened > row.limit()) return;  // the limit fell since the pair was found
        if (meeting_.repeats.hold(r) || !block_.reaches(query, pixel)) return;
        row.add({screened, meeting_.slot, pixel}, problem_.kappa);
        if (row.count == block_.capacity) {
            row.compact();
            // Many pairs closer together than the screen can tell. Most often they repeat one descriptor; what is left
            // after dropping repeats, only exact distances thin out.
            const int64_t crowded = block_.capacity - 8;
            if (row.count > crowded && !windowed(problem_))
                meeting_.repeats.drop(row, meeting_.slot, exact_);  // a window may lack the first of equal pixels
            if (row.count > crowded) {
                exact_pairs_ += row.count;
                keep_nearest(row, problem_, block_.region.image(), block_.region.pixel_at(query), exact_);
            }
        }
        limit_[lane] = row.limit();
    }

    bool several() const { return meeting_.setting.several(); }

    Meeting& meeting_;
    const Problem& problem_ = meeting_.setting.problem;
    const Kernels& kernels_ = meeting_.setting.kernels;
    const Projection& projection_ = meeting_.setting.projection;
    QueryBlock& block_ = meeting_.block;
    const Region& chunk_ = meeting_.chunk;
    const ModeChooser& chooser_ = meeting_.chooser;
    ExactDistance& exact_;
    CoarseTile coarse_;
    Buffer<float> bounds_;  // by projections on top of the coarse levels, [chunk pixel][lane]
    std::vector<Hit> hits_;
    int64_t left_ = 0, evaluated_ = 0, exact_pairs_ = 0;
    // Of the tile: its number, its first query, how many (at most `lanes`), the chunk's pixels that a window reaches, the limits.
    int64_t index_ = 0, first_ = 0, queries_ = 0;
    Range near_{0, 0};
    float* limit_ = nullptr;
    // Where there are bounds, pairs whose bound is not above seeded_to_[lane] have been evaluated.
    const float* seeded_ = nullptr;
    float seeded_to_[max_lanes];
};

}  // namespace fastspade::cpu

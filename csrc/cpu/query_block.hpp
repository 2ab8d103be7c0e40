// A block of query pixels, laid out, and what is known of their nearest neighbours while the gallery's chunks pass.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <vector>

#include "core/buffer.hpp"
#include "core/candidates.hpp"
#include "cpu/quantised.hpp"
#include "cpu/region.hpp"

namespace fastspade::cpu {

struct QueryBlock {
    explicit QueryBlock(const Setting& setting) : setting(setting), region(setting, Side::query) {}

    // Takes over pixels [first, last) of an image, with nothing known of them. rows: the finest vectors as rows too.
    void start(ThreadTeam& team, int64_t image, int64_t first, int64_t last, bool fine_rows) {
        region.cover(image, first, last);
        region.pack(team, setting.kernels.lanes, fine_rows, setting.kernels.rows);
        numbers.clear();
        const int64_t count = pixels(), padded = tiles() * setting.kernels.lanes;
        candidates.start(count, problem.kappa);
        std::fill_n(lowered_norm.reserve(padded), padded, 0.0f);
        std::fill_n(limit.reserve(padded), count, infinity);
        std::fill(limit.data() + count, limit.data() + padded, -infinity);
        std::fill(largest_.begin(), largest_.end(), -1.0f);
        may_overflow = false;
    }

    // A query's error bound grows with the largest gallery norm met so far; limits are widened to match.
    void widen_limits(const Region& chunk) {
        const double slack = std::max(setting.projection.slack(), Quantised::slack);
        bool grown = false;
        for (size_t g = 0; g < setting.groups.size(); ++g) {
            grown |= chunk.largest_norm_bound(g) > largest_[g];
            largest_[g] = std::max(largest_[g], chunk.largest_norm_bound(g));
        }
        if (!grown) return;
        for (int64_t q = 0; q < pixels(); ++q) {
            double error = double{std::numeric_limits<float>::denorm_min()};
            for (size_t g = 0; g < setting.groups.size(); ++g) {
                const double reach = static_cast<double>(region.norm_bound(g)[q]) + static_cast<double>(largest_[g]);
                error += rounding_factor(setting.groups[g].channels) * reach * reach;
            }
            CandidateRow& row = candidates.rows[static_cast<size_t>(q)];
            row.error = static_cast<float>(error * 1.001);
            may_overflow |= !(error < 1e30);
            const double fine = static_cast<double>(region.norm_bound(0)[q]) + static_cast<double>(largest_[0]);
            lowered_norm[q] = static_cast<float>(static_cast<double>(region.fine_norm()[q]) - slack * fine * fine);
            limit[q] = row.limit();
        }
    }

    int64_t pixels() const { return region.pixels(); }
    int64_t tiles() const { return (region.pixels() + setting.kernels.lanes - 1) / setting.kernels.lanes; }

    // Which pairs a window (Problem::row_radius, column_radius) leaves; all of them without one. The chunk's pixels in rows near
    // the queries [first, last), the gallery's columns near them, and whether a query reaches a gallery pixel.
    Range near(int64_t first, int64_t last, const Region& chunk) const {
        if (!windowed(problem)) return {0, chunk.pixels()};
        const Range rows = region.rows_of(first, last);
        return {std::max<int64_t>(0, (rows.begin - problem.row_radius) * width - chunk.first_pixel()),
                std::min(chunk.pixels(), (rows.end + problem.row_radius) * width - chunk.first_pixel())};
    }

    Range columns_near(int64_t first, int64_t last) const {
        const Range columns = region.columns_of(first, last);
        return {std::max<int64_t>(0, columns.begin - problem.column_radius),
                std::min(width, columns.end + problem.column_radius)};
    }

    bool reaches(int64_t query, int64_t gallery_pixel) const {
        if (!windowed(problem)) return true;
        const int64_t pixel = region.pixel_at(query);
        return std::abs(pixel / width - gallery_pixel / width) <= problem.row_radius &&
               std::abs(pixel % width - gallery_pixel % width) <= problem.column_radius;
    }

    const Setting& setting;
    const Problem& problem = setting.problem;
    const int64_t width = problem.query[0].width();
    const int64_t capacity = candidate_capacity(problem.kappa);  // of a candidate row
    Region region;
    Quantised numbers;
    // By position, whole tiles: the limits, and the fine norms less what rounding may do to bounds on the finest level.
    Buffer<float> limit, lowered_norm;
    CandidateTable candidates;  // a row for each position
    bool may_overflow = false;  // float32's range: then a least value would hide what is not a number

  private:
    std::vector<float> largest_ = std::vector<float>(setting.groups.size());  // [group] largest gallery norm bound met
};

}  // namespace fastspade::cpu

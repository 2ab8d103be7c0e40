// Which pairs a window (Problem::row_radius, column_radius) leaves; all of them without one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "core/problem.hpp"
#include "cpu/region.hpp"

namespace fastspade::cpu {

class Window {
  public:
    explicit Window(const Problem& problem) : problem_(problem), width_(problem.query[0].width()) {}

    bool active() const { return windowed(problem_); }

    bool holds(int64_t query_pixel, int64_t gallery_pixel) const {
        return !active() || (std::abs(query_pixel / width_ - gallery_pixel / width_) <= problem_.row_radius &&
                             std::abs(query_pixel % width_ - gallery_pixel % width_) <= problem_.column_radius);
    }
    // The chunk's pixels in rows near the query positions [first, last).
    Range near(const Region& queries, int64_t first, int64_t last, const Region& chunk) const {
        if (!active()) return {0, chunk.pixels()};
        const Range rows = queries.rows_of(first, last);
        return {std::max<int64_t>(0, (rows.begin - problem_.row_radius) * width_ - chunk.first_pixel()),
                std::min(chunk.pixels(), (rows.end + problem_.row_radius) * width_ - chunk.first_pixel())};
    }
    // The gallery's columns near them.
    Range columns_near(const Region& queries, int64_t first, int64_t last) const {
        const Range columns = queries.columns_of(first, last);
        return {std::max<int64_t>(0, columns.begin - problem_.column_radius),
                std::min(width_, columns.end + problem_.column_radius)};
    }

  private:
    const Problem& problem_;
    const int64_t width_;
};

}  // namespace fastspade::cpu

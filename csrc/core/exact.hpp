// The exact squared distance of one pixel pair: interpolate both sides in float64 and sum the squared differences
// (SPADE, eq. 3). Every value an engine returns comes from here, so the value does not depend on how it was found.
#pragma once

#include <cstdint>
#include <vector>

#include "core/problem.hpp"

namespace fastspade {

class ExactDistance {
  public:
    ExactDistance(const Problem& problem, const std::vector<LevelGroup>& groups);

    void set_query(int64_t image, int64_t pixel);
    double to(int64_t image, int64_t pixel);

  private:
    const Problem& problem_;
    const std::vector<LevelGroup>& groups_;
    std::vector<double> query_, gallery_;
};

}  // namespace fastspade

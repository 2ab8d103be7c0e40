// A few orthonormal directions that hold most of the finest level's variation, found on a sample of the gallery.
//
// With a = V^T f, b = V^T g and the residual norms r(f) = |f - V a|, r(g) likewise, the finest level's distance is
// |f - g|^2 = |a - b|^2 + |residual difference|^2 >= |a - b|^2 + (r(f) - r(g))^2 = |f|^2 + |g|^2 - 2 (a . b + r(f) r(g)):
// a lower bound that costs one product of `width` numbers, the residual norm being one more of them.
#pragma once

#include <cstdint>
#include <vector>

#include "core/buffer.hpp"
#include "core/problem.hpp"
#include "cpu/kernels.hpp"

namespace fastspade::cpu {

struct Centring;

class Projection {
  public:
    // How many numbers a vector's projection has: the directions and the residual norm.
    int width() const { return directions_ + 1; }

    // Does nothing where the finest level has too few channels for it to pay.
    void fit(const Problem& problem, const LevelGroup& fine, const std::vector<float>& mean, float scale,
             const Kernels& kernels);

    bool active() const { return row_length_ > 0; }

    // out[0 .. width()), `stride` floats apart, for one centred and scaled row with squared norm `norm`. The residual norm
    // is rounded up, so that the bound above stays a bound.
    void project(const float* row, double norm, const Kernels& kernels, float* out, int64_t stride) const;

    // What rounding may add to the bound, in units of (|f| + |g|)^2.
    double slack() const { return slack_; }

  private:
    Buffer<float> basis_;  // [direction][row_length]
    int directions_ = 0;
    int64_t row_length_ = 0;
    double factor_ = 0.0, slack_ = 0.0;
};

}  // namespace fastspade::cpu

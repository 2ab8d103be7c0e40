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

class Projection {
  public:
    // How many numbers a vector's projection has: the directions and the residual norm.
    int width() const { return directions_ + 1; }

    // Does nothing where the finest level has too few channels for it to pay.
    void fit(const Problem& problem, const LevelGroup& fine, const std::vector<float>& mean, float scale, const Kernels& kernels);

    bool active() const { return directions_ > 0; }

    // out[d * direction_step + i * step], d < width(), for `count` centred and scaled rows, `row_step` floats apart, with
    // squared norms `norms`. The residual norm is rounded up, so that the bound above stays a bound.
    void project(const float* rows, int64_t row_step, int64_t count, const double* norms, const Kernels& kernels, float* out,
                 int64_t direction_step, int64_t step) const;

    // What rounding may add to the bound, in units of (|f| + |g|)^2.
    double slack() const { return slack_; }

  private:
    Buffer<float> basis_;  // [channel][16 directions]
    int directions_ = 0;
    int64_t channels_ = 0;
    double factor_ = 0.0, slack_ = 0.0;
};

}  // namespace fastspade::cpu

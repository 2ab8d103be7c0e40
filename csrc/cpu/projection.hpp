// A few orthonormal directions that hold most of the finest level's variation, found on a sample of the gallery. Along them, and
// by the norm of what is left, a vector becomes `width` numbers whose product bounds distances (docs/mathematics.md has the
// bound).
#pragma once

#include <cstdint>
#include <vector>

#include "core/buffer.hpp"
#include "cpu/kernels.hpp"

namespace fastspade::cpu {

struct Setting;

struct SampledPixel {
    int64_t image, y, x;
};

class Projection {
  public:
    // How many numbers a vector's projection has: the directions and the residual norm.
    int width() const { return directions_ + 1; }

    // Does nothing where the finest level has too few channels for it to pay.
    void fit(const Setting& setting, const std::vector<SampledPixel>& pixels);

    bool active() const { return directions_ > 0; }

    // out[d * direction_step + i * step], d < width(), for `count` centred and scaled rows, `row_step` floats apart, with
    // squared norms `norms`. The residual norm is rounded up, so that the bound above stays a bound.
    void project(const float* rows, int64_t row_step, int64_t count, const double* norms, const Kernels& kernels, float* out,
                 int64_t direction_step, int64_t step) const;

    // What rounding may add to the bound, in units of (|f| + |g|)^2.
    double slack() const { return slack_; }

  private:
    Buffer<float> basis_;  // in lane panels
    int directions_ = 0;
    int64_t channels_ = 0;
    double factor_ = 0.0, slack_ = 0.0;
};

}  // namespace fastspade::cpu

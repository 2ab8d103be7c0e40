// The finest vectors of a region rounded to int8 or int16, for a quick first look at every pair: f = s * z + e with z in
// integers, s the vector's own scale and e the rest, whose norm is computed (docs/mathematics.md has the bound).
#pragma once

#include <cstdint>
#include <vector>

#include "core/buffer.hpp"
#include "cpu/kernels.hpp"
#include "cpu/region.hpp"
#include "cpu/thread_team.hpp"

namespace fastspade::cpu {

class Quantised {
  public:
    // What float32 rounding may add to the bound, in units of (|f| + |g|)^2: a dozen roundings, none of a larger number.
    static constexpr double slack = 0x1p-19;
    // Above this, sums of one-byte products could leave 32 bits.
    static constexpr int64_t most_int8_channels = 65536;

    // Rounds the rows that `region` was packed with. bytes: 1 or 2. Queries go in lane panels, the gallery in row panels.
    void build(ThreadTeam& team, const Region& region, const Kernels& kernels, Side side, int bytes);
    void clear() { bytes_ = 0; }
    int bytes() const { return bytes_; }
    int64_t words() const { return words_; }  // of 32 bits, a vector

    // The panel that starts at a pixel; norm: the region's, or something below them.
    IntegerLanes lanes(int64_t first, const float* norm) const {
        return {panels_.data() + first * words_, norm, scale_.data() + first, error_.data() + first, length_.data() + first};
    }
    IntegerRows rows(int64_t first, const float* norm) const {
        return {panels_.data() + first * words_, start_.data() + first, norm,
                scale_.data() + first,           error_.data() + first, length_.data() + first};
    }

  private:
    int bytes_ = 0;
    int64_t words_ = 0;
    Buffer<int32_t> panels_, start_;
    Buffer<float> scale_, error_, length_;
    std::vector<Buffer<int32_t>> stages_;
};

}  // namespace fastspade::cpu

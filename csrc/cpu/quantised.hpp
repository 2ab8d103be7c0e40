// The finest vectors of a region rounded to int8 or int16, for a quick first look at every pair: f = s * z + e with z in
// integers, s the vector's own scale and e the rest, whose norm is computed (docs/mathematics.md has the bound).
#pragma once

#include <algorithm>
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
    void build(ThreadTeam& team, const Region& region, const Kernels& kernels, Side side, int bytes) {
        const bool query = side == Side::query;
        const int64_t pixels = region.pixels(), panel = query ? kernels.lanes : kernels.rows;
        bytes_ = bytes;
        words_ = region.row_length() * bytes / 4;
        // Kernels read whole panels, and of these arrays a little beyond.
        const int64_t padded = Region::padded(pixels, panel), beyond = padded + max_lanes;
        panels_.reserve(padded * words_);
        std::fill_n(panels_.data() + (padded - panel) * words_, panel * words_, 0);
        start_.reserve(beyond);
        for (Buffer<float>* numbers : {&scale_, &error_, &length_})
            std::fill_n(numbers->reserve(beyond) + pixels, beyond - pixels, 0.0f);
        std::fill_n(start_.data() + pixels, beyond - pixels, 0);
        while (stages_.size() < static_cast<size_t>(team.size())) stages_.emplace_back();
        // One-byte numbers of queries are stored without sign, 128 up; each gallery vector's sum takes that off again.
        const uint32_t offset = query && bytes == 1 ? 0x80808080u : 0u;
        constexpr int64_t together = 256;
        team.run((pixels + together - 1) / together, [&](int64_t piece, int thread) {
            int32_t* const stage = stages_[static_cast<size_t>(thread)].reserve(words_);
            for (int64_t p = piece * together; p < std::min(pixels, (piece + 1) * together); ++p) {
                const float norm = region.norm_bound(0)[p];
                const Rounded rounded = kernels.round_row[bytes - 1](region.fine_row(p), region.row_length(), norm, stage);
                int32_t* const out = panels_.data() + p / panel * panel * words_ + p % panel;
                for (int64_t w = 0; w < words_; ++w)
                    out[w * panel] = static_cast<int32_t>(static_cast<uint32_t>(stage[w]) ^ offset);
                // The bound's products with the error are made a little larger than they come out.
                constexpr float over = 1.00001f;
                scale_[p] = query ? 2.0f * rounded.scale : rounded.scale;
                error_[p] = query ? 2.0f * over * rounded.error : rounded.error;
                length_[p] = query ? 2.0f * over * (norm + rounded.error) : over * norm;
                start_[p] = bytes == 1 ? -128 * rounded.sum : 0;
            }
        });
    }

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

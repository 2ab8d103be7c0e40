#include "cpu/quantised.hpp"

#include <algorithm>

namespace fastspade::cpu {

void Quantised::build(ThreadTeam& team, const Region& region, const Kernels& kernels, Side side, int bytes) {
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
            for (int64_t w = 0; w < words_; ++w) out[w * panel] = static_cast<int32_t>(static_cast<uint32_t>(stage[w]) ^ offset);
            // The bound's products with the error are made a little larger than they come out.
            constexpr float over = 1.00001f;
            scale_[p] = query ? 2.0f * rounded.scale : rounded.scale;
            error_[p] = query ? 2.0f * over * rounded.error : rounded.error;
            length_[p] = query ? 2.0f * over * (norm + rounded.error) : over * norm;
            start_[p] = bytes == 1 ? -128 * rounded.sum : 0;
        }
    });
}

}  // namespace fastspade::cpu

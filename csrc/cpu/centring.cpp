#include "cpu/centring.hpp"

#include <algorithm>
#include <cmath>

#include "core/candidates.hpp"
#include "core/exact.hpp"
#include "core/gallery_sample.hpp"

namespace fastspade::cpu {

// Any centre is correct; one near the gallery's mean makes the rounding bound tight. A few hundred pixels spread over a few
// images find it well enough.
Centring choose_centring(const Problem& problem, const std::vector<LevelGroup>& groups) {
    const std::vector<SampledPixel> pixels = sample_gallery(problem, 256);
    const TensorView& fine = problem.gallery[0];
    Centring centring;
    double largest = 0.0;
    for (const LevelGroup& group : groups) {
        const TensorView& view = group.gallery[0];
        const size_t channels = static_cast<size_t>(group.channels);
        std::vector<double> sum(channels, 0.0);
        std::vector<float> value(channels), low(channels, infinity), high(channels, -infinity), mean;
        for (const SampledPixel& pixel : pixels) {
            const int64_t at[1][2] = {{pixel.y * view.height() / fine.height(), pixel.x * view.width() / fine.width()}};
            read_vectors(group, Side::gallery, pixel.image, at, 1, value.data());
            for (size_t c = 0; c < channels; ++c) {
                sum[c] += static_cast<double>(value[c]);
                low[c] = std::min(low[c], value[c]), high[c] = std::max(high[c], value[c]);
            }
        }
        for (size_t c = 0; c < channels; ++c) {
            const float centre = static_cast<float>(sum[c] / static_cast<double>(pixels.size()));
            mean.push_back(std::isfinite(centre) ? centre : 0.0f);
            for (float extreme : {low[c], high[c]}) {
                const double reach = std::abs(static_cast<double>(extreme) - static_cast<double>(mean[c]));
                if (std::isfinite(reach)) largest = std::max(largest, reach);
            }
        }
        centring.mean.push_back(std::move(mean));
    }
    if (largest > 0.0) centring.scale = static_cast<float>(std::ldexp(1.0, std::clamp(-std::ilogb(largest), -120, 120)));
    return centring;
}

}  // namespace fastspade::cpu

#include "cpu/centring.hpp"

#include <algorithm>
#include <cmath>

#include "core/gallery_sample.hpp"

namespace fastspade::cpu {

Centring choose_centring(const Problem& problem, const std::vector<LevelGroup>& groups) {
    // Any centre is correct; one near the gallery's mean makes the rounding bound tight. A few hundred pixels spread
    // over a few images find it well enough.
    constexpr int64_t images_wanted = 8, pixels_wanted = 256;
    const std::vector<int64_t> images = sample_images(problem, images_wanted);
    const int64_t taken = static_cast<int64_t>(images.size());
    Centring centring;
    double largest = 0.0;
    for (const LevelGroup& group : groups) {
        std::vector<float> mean;
        for (const TensorView& view : group.gallery) {
            const int64_t per_image = std::min(view.pixels(), (pixels_wanted + taken - 1) / taken);
            with_element(view.dtype, [&](auto element) {
                using Element = decltype(element);
                const auto* base = static_cast<const typename Element::Storage*>(view.data);
                std::vector<double> sum(static_cast<size_t>(view.channels()), 0.0);
                std::vector<float> low(sum.size(), INFINITY), high(sum.size(), -INFINITY);
                for (int64_t i = 0; i < taken; ++i)
                    for (int64_t p = 0; p < per_image; ++p) {
                        const int64_t image = images[static_cast<size_t>(i)];
                        const int64_t pixel = p * view.pixels() / per_image;
                        const auto* source = base + view.offset(image, 0, pixel / view.width(), pixel % view.width());
                        for (size_t c = 0; c < sum.size(); ++c) {
                            const float value = Element::load(source[static_cast<int64_t>(c) * view.stride[1]]);
                            sum[c] += static_cast<double>(value);
                            low[c] = std::min(low[c], value), high[c] = std::max(high[c], value);
                        }
                    }
                for (size_t c = 0; c < sum.size(); ++c) {
                    float centre = static_cast<float>(sum[c] / static_cast<double>(taken * per_image));
                    if (!std::isfinite(centre)) centre = 0.0f;
                    mean.push_back(centre);
                    for (float extreme : {low[c], high[c]}) {
                        const double reach = std::abs(static_cast<double>(extreme) - static_cast<double>(centre));
                        if (std::isfinite(reach)) largest = std::max(largest, reach);
                    }
                }
            });
        }
        centring.mean.push_back(std::move(mean));
    }
    if (largest > 0.0) {
        const int exponent = std::clamp(-std::ilogb(largest), -120, 120);
        centring.scale = static_cast<float>(std::ldexp(1.0, exponent));
    }
    return centring;
}

}  // namespace fastspade::cpu

#include "core/exact.hpp"

namespace fastspade {

namespace {

// Writes one interpolated descriptor: for every level, channels in order.
void descriptor(const std::vector<LevelGroup>& groups, bool of_query, int64_t image, int64_t pixel, int64_t fine_width,
                double* out) {
    const int64_t y = pixel / fine_width, x = pixel % fine_width;
    for (const LevelGroup& group : groups) {
        const Tap& ty = (of_query ? group.query_y : group.gallery_y)[static_cast<size_t>(y)];
        const Tap& tx = (of_query ? group.query_x : group.gallery_x)[static_cast<size_t>(x)];
        for (const TensorView& view : of_query ? group.query : group.gallery) {
            with_element(view.dtype, [&](auto element) {
                using Element = decltype(element);
                const auto* base = static_cast<const typename Element::Storage*>(view.data);
                const auto* a = base + view.offset(image, 0, ty.low, tx.low);
                const int64_t right = (tx.high - tx.low) * view.stride[3], down = (ty.high - ty.low) * view.stride[2];
                const int64_t step = view.stride[1], channels = view.channels();
                if (right == 0 && down == 0) {
                    for (int64_t c = 0; c < channels; ++c) out[c] = static_cast<double>(Element::load(a[c * step]));
                } else {
                    for (int64_t c = 0; c < channels; ++c, a += step) {
                        const double top = tx.low_weight * static_cast<double>(Element::load(a[0])) +
                                           tx.high_weight * static_cast<double>(Element::load(a[right]));
                        const double bottom = tx.low_weight * static_cast<double>(Element::load(a[down])) +
                                              tx.high_weight * static_cast<double>(Element::load(a[down + right]));
                        out[c] = ty.low_weight * top + ty.high_weight * bottom;
                    }
                }
                out += channels;
            });
        }
    }
}

}  // namespace

ExactDistance::ExactDistance(const Problem& problem, const std::vector<LevelGroup>& groups)
    : problem_(problem), groups_(groups) {
    size_t channels = 0;
    for (const LevelGroup& group : groups) channels += static_cast<size_t>(group.channels);
    query_.resize(channels);
    gallery_.resize(channels);
}

void ExactDistance::set_query(int64_t image, int64_t pixel) {
    descriptor(groups_, true, image, pixel, problem_.query[0].width(), query_.data());
}

double ExactDistance::to(int64_t image, int64_t pixel) {
    descriptor(groups_, false, image, pixel, problem_.gallery[0].width(), gallery_.data());
    // Four sums, always in this order: the same bits wherever this is compiled for the baseline instruction set.
    double sum[4] = {0.0, 0.0, 0.0, 0.0};
    const size_t size = query_.size();
    size_t c = 0;
    for (; c + 4 <= size; c += 4)
        for (size_t k = 0; k < 4; ++k) {
            const double difference = query_[c + k] - gallery_[c + k];
            sum[k] += difference * difference;
        }
    for (; c < size; ++c) {
        const double difference = query_[c] - gallery_[c];
        sum[0] += difference * difference;
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

}  // namespace fastspade

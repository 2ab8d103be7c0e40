#include "cpu/region.hpp"

#include <algorithm>
#include <cmath>

#include "core/gallery_sample.hpp"

namespace fastspade::cpu {

namespace {

constexpr int64_t channel_block = 16;  // channels staged at a time: a few rows of pixels of them stay in the L1/L2 cache
constexpr int64_t stage_pixels = 1024;
constexpr int64_t band_rows = 4;

// Reads `count` pixels from flat position `pixel` on, `channels` channels from `channel` on, into stage[channel][pixel],
// as (value - mean) * scale.
template <class Element>
void read_block(const TensorView& view, int64_t image, int64_t channel, int64_t channels, int64_t pixel, int64_t count,
                const float* mean, float scale, float* stage, int64_t stage_stride) {
    const auto* base = static_cast<const typename Element::Storage*>(view.data);
    const int64_t width = view.width(), uniform = view.pixel_step(), channel_step = view.stride[1];
    const int64_t step = uniform ? uniform : view.stride[3];
    for (int64_t done = 0; done < count;) {
        const int64_t y = (pixel + done) / width, x = (pixel + done) % width;
        const int64_t length = uniform ? count - done : std::min(width - x, count - done);
        const auto* source = base + view.offset(image, channel, y, x);
        float* target = stage + done;
        if (channel_step == 1 && step != 1) {  // channels side by side in memory: read along them
            for (int64_t i = 0; i < length; ++i)
                for (int64_t c = 0; c < channels; ++c)
                    target[c * stage_stride + i] = (Element::load(source[i * step + c]) - mean[c]) * scale;
        } else if (step == 1) {
            for (int64_t c = 0; c < channels; ++c) {
                const auto* from = source + c * channel_step;
                float* to = target + c * stage_stride;
                for (int64_t i = 0; i < length; ++i) to[i] = (Element::load(from[i]) - mean[c]) * scale;
            }
        } else {
            for (int64_t c = 0; c < channels; ++c)
                for (int64_t i = 0; i < length; ++i)
                    target[c * stage_stride + i] = (Element::load(source[c * channel_step + i * step]) - mean[c]) * scale;
        }
        done += length;
    }
}

}  // namespace

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

Region::Region(const std::vector<LevelGroup>& groups, const Centring& centring, const Projection& projection,
               const Kernels& kernels, Side side)
    : groups_(groups),
      centring_(centring),
      projection_(projection),
      kernels_(kernels),
      side_(side),
      bands_(side == Side::query && groups.size() > 1),
      coarse_(groups.size()),
      norm_bound_(groups.size()),
      largest_(groups.size(), 0.0f) {
    fine_width_ = views(0)[0].width();
    row_length_ = padded(groups[0].channels, 16);
}

const std::vector<TensorView>& Region::views(size_t group) const {
    return side_ == Side::query ? groups_[group].query : groups_[group].gallery;
}
const AxisTaps& Region::taps_y(size_t group) const {
    return side_ == Side::query ? groups_[group].query_y : groups_[group].gallery_y;
}
const AxisTaps& Region::taps_x(size_t group) const {
    return side_ == Side::query ? groups_[group].query_x : groups_[group].gallery_x;
}

void Region::cover(int64_t image, int64_t first_pixel, int64_t last_pixel) {
    image_ = image, first_ = first_pixel, last_ = last_pixel;
    for (size_t g = 0; g < groups_.size(); ++g) {
        Coarse& level = coarse_[g];
        level.width = views(g)[0].width();
        if (g == 0) {
            level.first_row = 0, level.pixels = last_ - first_;
            continue;
        }
        level.first_row = taps_y(g)[static_cast<size_t>(first_ / fine_width_)].low;
        level.rows = taps_y(g)[static_cast<size_t>((last_ - 1) / fine_width_)].high + 1 - level.first_row;
        level.pixels = level.rows * level.width;
    }
}

int64_t Region::in_bands(int64_t at, int64_t width, bool to_position) const {
    const int64_t start = at / (band_rows * width) * band_rows, within = at - start * width;
    const int64_t height = std::min(band_rows, rows() - start);
    return start * width + (to_position ? within % width * height + within / width : within % height * width + within / height);
}

Range Region::rows_of(int64_t first, int64_t last) const {
    if (!bands_) return {(first_ + first) / fine_width_, (first_ + last - 1) / fine_width_ + 1};
    const int64_t band = band_rows * fine_width_;
    return {first_row() + first / band * band_rows, first_row() + std::min(rows(), ((last - 1) / band + 1) * band_rows)};
}

Range Region::columns_of(int64_t first, int64_t last) const {
    if (!bands_ || first / (band_rows * fine_width_) != (last - 1) / (band_rows * fine_width_)) return {0, fine_width_};
    return {pixel_at(first) % fine_width_, pixel_at(last - 1) % fine_width_ + 1};
}

void Region::pack_band(size_t group, int64_t begin, int64_t end, int panel, bool rows, Buffer<float>& stage_buffer) {
    Coarse& level = coarse_[group];
    const bool fine = group == 0;
    if (fine && !bands_ && views(0).size() == 1 && views(0)[0].holds_vectors()) {
        const TensorView& view = views(0)[0];
        const int64_t step = view.pixel_step(), channels = view.channels();
        const auto* source = static_cast<const float*>(view.data) + image_ * view.stride[0] + first_ * step;
        const float* mean = centring_.mean[0].data();
        const auto pack = panel == kernels_.lanes ? kernels_.pack_lanes : kernels_.pack_rows;
        for (int64_t i = begin; panel && i < end; i += panel)
            pack(source + i * step, step, std::min<int64_t>(panel, end - i), channels, mean, centring_.scale,
                 fine_panels_.data() + i * channels, level.self.data() + i);
        for (int64_t i = begin; rows && i < end; ++i)
            level.self[i] =
                kernels_.centre_row(source + i * step, channels, mean, centring_.scale, fine_rows_.data() + i * row_length_);
        return;
    }
    const bool neighbours = !fine && views(group)[0].pixels() != views(0)[0].pixels() && level.antidiagonal.data();
    // Neighbour products reach one row and one pixel past the band.
    const int64_t reach = neighbours ? std::min(level.pixels, end + level.width + 1) : end;
    const int64_t count = end - begin, staged = reach - begin;
    const int64_t stride = padded(staged + level.width + 2, 16);
    float* const stage = stage_buffer.reserve(channel_block * stride + 5 * stride);
    std::fill(stage, stage + channel_block * stride, 0.0f);
    float* const sums = stage + channel_block * stride;
    const int64_t origin = fine ? first_ : level.first_row * level.width;
    const int64_t channels = groups_[group].channels;
    Buffer<float>& panels = fine ? fine_panels_ : level.panels;
    auto position_of = [&](int64_t i) { return fine ? position(begin + i) : begin + i; };
    for (int64_t i = 0; i < count; ++i) level.self[position_of(i)] = 0.0;
    if (neighbours)
        for (auto* products : {&level.right, &level.down, &level.diagonal, &level.antidiagonal})
            std::fill(products->data() + begin, products->data() + end, 0.0);

    int64_t channel_base = 0;
    for (const TensorView& view : views(group)) {
        for (int64_t c0 = 0; c0 < view.channels(); c0 += channel_block) {
            const int64_t block = std::min(channel_block, view.channels() - c0);
            const float* mean = centring_.mean[group].data() + channel_base + c0;
            with_element(view.dtype, [&](auto element) {
                read_block<decltype(element)>(view, image_, c0, block, origin + begin, staged, mean, centring_.scale, stage,
                                              stride);
            });
            for (int64_t c = 0; c < block && panel; ++c) {
                const float* from = stage + c * stride;
                for (int64_t i = 0; i < count;) {
                    const int64_t at = position_of(i), lane = at % panel;
                    const int64_t length = fine && bands_ ? 1 : std::min(panel - lane, count - i);
                    float* to = panels.data() + (at / panel * channels + channel_base + c0 + c) * panel + lane;
                    for (int64_t k = 0; k < length; ++k) to[k] = from[i + k];
                    i += length;
                }
            }
            if (rows)
                for (int64_t i = 0; i < count; ++i) {
                    float* to = fine_rows_.data() + position_of(i) * row_length_ + channel_base + c0;
                    for (int64_t c = 0; c < block; ++c) to[c] = stage[c * stride + i];
                }
            // Float sums over one block of channels, then float64: the error stays below core/rounding.hpp's bound.
            const int64_t right = 1, down = level.width;
            std::fill(sums, sums + 5 * stride, 0.0f);
            for (int64_t c = 0; c < block; ++c) {
                const float* a = stage + c * stride;
                for (int64_t i = 0; i < count; ++i) sums[i] += a[i] * a[i];
                if (!neighbours) continue;
                float *s1 = sums + stride, *s2 = s1 + stride, *s3 = s2 + stride, *s4 = s3 + stride;
                for (int64_t i = 0; i < count; ++i) {
                    s1[i] += a[i] * a[i + right];
                    s2[i] += a[i] * a[i + down];
                    s3[i] += a[i] * a[i + down + right];
                    s4[i] += a[i + right] * a[i + down];
                }
            }
            for (int64_t i = 0; i < count; ++i) level.self[position_of(i)] += static_cast<double>(sums[i]);
            if (neighbours)
                for (int64_t i = 0; i < count; ++i) {
                    level.right[begin + i] += static_cast<double>(sums[stride + i]);
                    level.down[begin + i] += static_cast<double>(sums[2 * stride + i]);
                    level.diagonal[begin + i] += static_cast<double>(sums[3 * stride + i]);
                    level.antidiagonal[begin + i] += static_cast<double>(sums[4 * stride + i]);
                }
        }
        channel_base += view.channels();
    }
    if (rows)
        for (int64_t i = 0; i < count; ++i)
            std::fill_n(fine_rows_.data() + position_of(i) * row_length_ + channels, row_length_ - channels, 0.0f);
}

void Region::interpolate_norms(int64_t begin, int64_t end) {
    const Coarse& fine = coarse_[0];
    for (int64_t p = begin; p < end; ++p) {
        fine_norm_[p] = static_cast<float>(fine.self[p]);
        norm_bound_[0][p] = static_cast<float>(std::sqrt(fine.self[p]));
        double total = 0.0;
        const int64_t y = pixel_at(p) / fine_width_, x = pixel_at(p) % fine_width_;
        for (size_t g = 1; g < groups_.size(); ++g) {
            const Coarse& level = coarse_[g];
            const Tap &ty = taps_y(g)[static_cast<size_t>(y)], &tx = taps_x(g)[static_cast<size_t>(x)];
            const int64_t top = (ty.low - level.first_row) * level.width, bottom = (ty.high - level.first_row) * level.width;
            const int64_t a = top + tx.low, b = top + tx.high, c = bottom + tx.low, d = bottom + tx.high;
            const double wl = tx.low_weight, wr = tx.high_weight, wt = ty.low_weight, wb = ty.high_weight;
            double norm = wt * wt * (wl * wl * level.self[a] + wr * wr * level.self[b]);
            if (wr != 0.0) norm += wt * wt * 2.0 * wl * wr * level.right[a];
            if (wb != 0.0) {
                norm += wb * wb * (wl * wl * level.self[c] + wr * wr * level.self[d]);
                norm += 2.0 * wt * wb * (wl * wl * level.down[a] + wr * wr * level.down[b]);
                if (wr != 0.0) {
                    norm += wb * wb * 2.0 * wl * wr * level.right[c];
                    norm += 2.0 * wt * wb * wl * wr * (level.diagonal[a] + level.antidiagonal[a]);
                }
            }
            total += norm;
            const double bound = wt * (wl * std::sqrt(level.self[a]) + wr * std::sqrt(level.self[b])) +
                                 wb * (wl * std::sqrt(level.self[c]) + wr * std::sqrt(level.self[d]));
            norm_bound_[g][p] = static_cast<float>(bound);
        }
        coarse_norm_[p] = static_cast<float>(total);
    }
}

void Region::pack(ThreadTeam& team, int fine_panel, bool fine_rows, int coarse_panel) {
    struct Band {
        size_t group;
        int64_t begin, end;
    };
    std::vector<Band> bands;
    bool bilinear = false;
    for (size_t g = 1; g < groups_.size(); ++g)
        for (const AxisTaps* taps : {&taps_y(g), &taps_x(g)})
            for (size_t i = 0; i < taps->size(); ++i) bilinear |= (*taps)[i].high_weight != 0.0;
    for (size_t g = groups_.size(); g-- > 0;) {  // the deepest level first: it has the most channels a pixel
        Coarse& level = coarse_[g];
        const int panel = g == 0 ? fine_panel : coarse_panel;
        const int64_t panel_pixels = panel ? padded(level.pixels, panel) : 0;
        if (panel) {
            float* data = (g == 0 ? fine_panels_ : level.panels).reserve(panel_pixels * groups_[g].channels);
            const int64_t last = (panel_pixels - panel) * groups_[g].channels;
            if (panel_pixels != level.pixels) std::fill(data + last, data + last + panel * groups_[g].channels, 0.0f);
        }
        if (g == 0 && fine_rows) fine_rows_.reserve(level.pixels * row_length_);
        level.self.reserve(level.pixels);
        if (g > 0 && bilinear)
            for (auto* products : {&level.right, &level.down, &level.diagonal, &level.antidiagonal})
                products->reserve(level.pixels);
        // Bands of the finest level hold whole panels, and enough of them are made for every thread to have work.
        const int64_t share = std::min(stage_pixels, (level.pixels + 2 * team.size() - 1) / (2 * team.size()));
        const int64_t step =
            g == 0 ? padded(share, std::max(panel, 1)) : std::max<int64_t>(1, stage_pixels / level.width) * level.width;
        for (int64_t begin = 0; begin < level.pixels; begin += step)
            bands.push_back({g, begin, std::min(begin + step, level.pixels)});
    }
    while (stages_.size() < static_cast<size_t>(team.size())) stages_.emplace_back();
    team.run(static_cast<int64_t>(bands.size()), [&](int64_t i, int thread) {
        const Band& band = bands[static_cast<size_t>(i)];
        pack_band(band.group, band.begin, band.end, band.group == 0 ? fine_panel : coarse_panel, band.group == 0 && fine_rows,
                  stages_[static_cast<size_t>(thread)]);
    });
    // A panel's padding rows of `self` are never read; non-finite features show in the norms.
    for (size_t g = 0; g < groups_.size(); ++g)
        for (int64_t i = 0; i < coarse_[g].pixels; ++i)
            if (!std::isfinite(coarse_[g].self[i])) {
                const int64_t flat = g == 0 ? pixel_at(i) : coarse_[g].first_row * coarse_[g].width + i;
                for (size_t v = 0; v < views(g).size(); ++v) {
                    const TensorView& view = views(g)[v];
                    const bool finite = with_element(view.dtype, [&](auto element) {
                        using Element = decltype(element);
                        const auto* base = static_cast<const typename Element::Storage*>(view.data);
                        for (int64_t c = 0; c < view.channels(); ++c)
                            if (!std::isfinite(
                                    Element::load(base[view.offset(image_, c, flat / view.width(), flat % view.width())])))
                                return false;
                        return true;
                    });
                    if (!finite) throw NonFinite(side_ == Side::query ? "query" : "gallery", groups_[g].levels[v], image_);
                }
            }
    fine_norm_.reserve(padded(pixels(), 64) + 64);
    coarse_norm_.reserve(padded(pixels(), 64) + 64);
    for (auto& bound : norm_bound_) bound.reserve(padded(pixels(), 64) + 64);
    // Query projections lie in lane panels, gallery projections one after the other.
    const bool projected = fine_rows && projection_.active();
    const int64_t width = projection_.width(), panel = side_ == Side::query ? kernels_.lanes : 1;
    if (projected) {
        const int64_t size = padded(pixels(), side_ == Side::query ? kernels_.lanes : kernels_.rows) * width;
        float* const data = projected_.reserve(size);
        std::fill(data + pixels() / panel * panel * width, data + size, 0.0f);
    }
    const int64_t pieces = (pixels() + 511) / 512;
    team.run(pieces, [&](int64_t i, int) {
        const int64_t begin = i * 512, end = std::min(pixels(), begin + 512);
        interpolate_norms(begin, end);
        for (int64_t p = begin, next; projected && p < end; p = next) {
            next = panel == 1 ? end : std::min(end, (p / panel + 1) * panel);
            projection_.project(fine_row(p), row_length_, next - p, coarse_[0].self.data() + p, kernels_,
                                projected_.data() + p / panel * panel * width + p % panel, panel, panel == 1 ? width : 1);
        }
    });
    for (int64_t p = pixels(); p < padded(pixels(), 64) + 64; ++p) {
        fine_norm_[p] = coarse_norm_[p] = 0.0f;
        for (auto& bound : norm_bound_) bound[p] = 0.0f;
    }
    for (size_t g = 0; g < groups_.size(); ++g)
        largest_[g] = *std::max_element(norm_bound_[g].data(), norm_bound_[g].data() + pixels());
}

}  // namespace fastspade::cpu

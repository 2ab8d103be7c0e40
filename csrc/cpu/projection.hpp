// A few orthonormal directions that hold most of the finest level's variation, found on a sample of the gallery. Along them, and
// by the norm of what is left, a vector becomes `width` numbers whose product bounds distances (docs/mathematics.md has the
// bound).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "core/buffer.hpp"
#include "core/candidates.hpp"
#include "core/exact.hpp"
#include "cpu/kernels.hpp"

namespace fastspade::cpu {

// A long projection pays where limits are loose, because several neighbours are wanted, or evaluating a pair takes many channels.
constexpr int short_directions = 7, long_directions = 15, rounds = 4;
constexpr int64_t channels_a_direction = 3, many_channels = 96;

// Gram-Schmidt in float64, twice, so that the directions are orthonormal to float32 rounding. A direction that vanishes
// (fewer dimensions of variation than directions) becomes zero, which weakens the bound and breaks nothing.
inline void orthonormalise(std::vector<std::vector<float>>& basis) {
    std::vector<std::vector<double>> done;
    for (std::vector<float>& direction : basis) {
        std::vector<double> own(direction.begin(), direction.end());
        const double before = std::inner_product(own.begin(), own.end(), own.begin(), 0.0);
        for (int pass = 0; pass < 2; ++pass)
            for (const std::vector<double>& other : done) {
                const double along = std::inner_product(own.begin(), own.end(), other.begin(), 0.0);
                for (size_t c = 0; c < own.size(); ++c) own[c] -= along * other[c];
            }
        const double norm = std::inner_product(own.begin(), own.end(), own.begin(), 0.0);
        const double factor = norm > 1e-12 * before && norm > 0.0 ? 1.0 / std::sqrt(norm) : 0.0;
        for (double& x : own) x *= factor;
        std::copy(own.begin(), own.end(), direction.begin());
        done.push_back(std::move(own));
    }
}

// A gallery pixel on the finest grid.
struct SampledPixel {
    int64_t image, y, x;
};

class Projection {
  public:
    static constexpr int64_t together = 8;

    // How many numbers a vector's projection has: the directions and the residual norm.
    int width() const { return directions_ + 1; }

    // Does nothing where the finest level has too few channels for it to pay.
    void fit(const LevelGroup& fine, const std::vector<SampledPixel>& pixels, const std::vector<float>& mean, float scale,
             int64_t kappa, const Kernels& kernels) {
        auto pays = [&](int directions) { return fine.channels >= channels_a_direction * directions; };
        if (!pays(short_directions)) return;
        const int directions =
            (kappa > 1 || fine.channels >= many_channels) && pays(long_directions) ? long_directions : short_directions;
        const int64_t length = (fine.channels + 15) / 16 * 16;
        std::vector<float> sample;  // [pixel][length], centred and scaled
        for (const SampledPixel& pixel : pixels) {
            const size_t start = sample.size();
            sample.resize(start + static_cast<size_t>(length), 0.0f);
            const int64_t at[1][2] = {{pixel.y, pixel.x}};
            read_vectors(fine, Side::gallery, pixel.image, at, 1, sample.data() + start);
            for (size_t c = 0; c < mean.size(); ++c) {
                const float value = (sample[start + c] - mean[c]) * scale;
                sample[start + c] = std::isfinite(value) ? value : 0.0f;
            }
        }
        // Subspace iteration from fixed, arbitrary directions: the basis need not be accurate, any one gives a valid bound.
        std::vector<std::vector<float>> basis(static_cast<size_t>(directions), std::vector<float>(static_cast<size_t>(length)));
        uint64_t state = 1;
        for (auto& direction : basis)
            for (int64_t c = 0; c < fine.channels; ++c) {
                state = state * 6364136223846793005ull + 1442695040888963407ull;
                direction[static_cast<size_t>(c)] = static_cast<float>(static_cast<double>(state >> 40) / 0x1p24 - 0.5);
            }
        orthonormalise(basis);
        for (int round = 0; round < rounds; ++round) {
            for (std::vector<float>& direction : basis) {
                std::vector<float> next(direction.size());
                for (const float* row = sample.data(); row != sample.data() + sample.size(); row += length) {
                    const float along = kernels.dot(row, direction.data(), length);
                    for (size_t c = 0; c < next.size(); ++c) next[c] += along * row[c];
                }
                for (size_t c = 0; c < next.size(); ++c) direction[c] = std::isfinite(next[c]) ? next[c] : 0.0f;
            }
            orthonormalise(basis);
        }
        const int64_t lanes = kernels.lanes, size = (directions + lanes - 1) / lanes * lanes * fine.channels;
        std::fill_n(basis_.reserve(size), size, 0.0f);
        for (int64_t j = 0; j < directions; ++j)
            for (int64_t c = 0; c < fine.channels; ++c)
                basis_[(j / lanes * fine.channels + c) * lanes + j % lanes] =
                    basis[static_cast<size_t>(j)][static_cast<size_t>(c)];
        directions_ = directions;
        channels_ = fine.channels;
        factor_ = rounding_factor(fine.channels);
    }

    bool active() const { return directions_ > 0; }

    // out[d * direction_step + i * step], d < width(), for `count` (at most `together`) centred and scaled rows, `row_step`
    // floats apart, with squared norms `norms`. The residual norm is rounded up, so that the bound above stays a bound.
    void project(const float* rows, int64_t row_step, int64_t count, const double* norms, const Kernels& kernels, float* out,
                 int64_t direction_step, int64_t step) const {
        const int64_t lanes = kernels.lanes;
        const float zeros[max_lanes] = {};
        float along[together * max_lanes];
        for (int64_t begin = 0; begin < directions_; begin += lanes) {  // a panel of directions
            kernels.vector_products[0](basis_.data() + begin * channels_, rows, row_step, channels_, 0, count, zeros, along);
            for (int64_t i = 0; i < count; ++i)
                for (int64_t d = begin; d < std::min<int64_t>(directions_, begin + lanes); ++d)
                    out[d * direction_step + i * step] = along[i * lanes + d - begin];
        }
        for (int64_t i = 0; i < count; ++i) {
            double along = 0.0;
            for (int j = 0; j < directions_; ++j) {
                const double value = static_cast<double>(out[j * direction_step + i * step]);
                along += value * value;
            }
            const double residual = std::max(0.0, norms[i] - along) + 16.0 * factor_ * norms[i];
            out[directions_ * direction_step + i * step] = static_cast<float>(std::sqrt(residual) * (1.0 + 0x1p-22));
        }
    }

    // What rounding may add to the bound, in units of (|f| + |g|)^2.
    // Each coordinate is off by at most factor * |f|, hence a by sqrt(directions) times that; the basis is orthonormal to
    // within a few float32 roundings. Sixteen times the factor covers both with room.
    double slack() const { return 16.0 * factor_; }

  private:
    Buffer<float> basis_;  // in lane panels
    int directions_ = 0;
    int64_t channels_ = 0;
    double factor_ = 0.0;
};

}  // namespace fastspade::cpu

// A piece of one image, centred, scaled and laid out for the kernels: finest-level pixels [p0, p1) and, of every coarser
// level, the rows that those pixels interpolate from.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "core/buffer.hpp"
#include "core/problem.hpp"
#include "cpu/setting.hpp"
#include "cpu/thread_team.hpp"

namespace fastspade::cpu {

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
        if (step == 1)
            for (int64_t c = 0; c < channels; ++c) {
                const auto* from = source + c * channel_step;
                float* to = target + c * stage_stride;
                for (int64_t i = 0; i < length; ++i) to[i] = (Element::load(from[i]) - mean[c]) * scale;
            }
        else  // often the channels lie side by side
            for (int64_t i = 0; i < length; ++i)
                for (int64_t c = 0; c < channels; ++c)
                    target[c * stage_stride + i] = (Element::load(source[i * step + c * channel_step]) - mean[c]) * scale;
        done += length;
    }
}

struct Range {
    int64_t begin, end;
};

class Region {
  public:
    // One level's native pixels: the rows of it that the region's pixels interpolate from, in panels.
    struct Coarse {
        int64_t first_row = 0, rows = 0, width = 0, pixels = 0;
        bool neighbours = false;  // whether values lie between nodes
        Buffer<float> panels;
        // Inner products of each native vector with itself and its neighbours to the right, below, and on both
        // diagonals: all that the norm of a bilinear mixture of four neighbours is made of.
        Buffer<double> self, right, down, diagonal, antidiagonal;
        Buffer<double> length;                     // of each native vector
        std::vector<Buffer<double>*> products() {  // those that are wanted
            if (!neighbours) return {&self};
            return {&self, &right, &down, &diagonal, &antidiagonal};
        }
    };

    Region(const Setting& setting, Side side)
        : setting_(setting), side_(side), bands_(side == Side::query && setting.several()) {}

    // Which pixels the region covers; with several groups they must be whole rows.
    void cover(int64_t image, int64_t first_pixel, int64_t last_pixel) {
        image_ = image, first_ = first_pixel, last_ = last_pixel;
        coarse_[0].width = fine_width_, coarse_[0].pixels = pixels();
        for (size_t g = 1; g < groups_.size(); ++g) {
            Coarse& level = coarse_[g];
            level.width = groups_[g].views(side_)[0].width();
            level.first_row = groups_[g].taps_y(side_)[static_cast<size_t>(first_ / fine_width_)].low;
            level.rows = groups_[g].taps_y(side_)[static_cast<size_t>((last_ - 1) / fine_width_)].high + 1 - level.first_row;
            level.pixels = level.rows * level.width;
        }
        if (!bands_) return;
        position_.resize(static_cast<size_t>(pixels()));
        pixel_.clear();
        for (int64_t top = 0; top < rows(); top += band_rows)
            for (int64_t x = 0; x < fine_width_; ++x)
                for (int64_t y = top; y < std::min(rows(), top + band_rows); ++y) {
                    position_[static_cast<size_t>(y * fine_width_ + x)] = static_cast<int64_t>(pixel_.size());
                    pixel_.push_back(y * fine_width_ + x);
                }
    }

    // Lays the region out: fine vectors in panels of `fine_panel` (0: not wanted) and as zero-padded rows if asked,
    // coarse vectors in panels of `coarse_panel`, and the norms. Throws NonFinite.
    void pack(ThreadTeam& team, int fine_panel, bool fine_rows, int coarse_panel) {
        std::vector<Piece> pieces;
        for (size_t g = groups_.size(); g-- > 0;)  // the deepest level first: it has the most channels a pixel
            plan_pieces(g, g == 0 ? fine_panel : coarse_panel, g == 0 && fine_rows, team.size(), pieces);
        stages_.resize(std::max(stages_.size(), static_cast<size_t>(team.size())));
        const bool vectors = !bands_ && groups_[0].views(side_).size() == 1 && groups_[0].views(side_)[0].holds_vectors();
        team.run(static_cast<int64_t>(pieces.size()), [&](int64_t i, int thread) {
            const Piece& piece = pieces[static_cast<size_t>(i)];
            piece.group == 0 && vectors ? pack_vectors(piece) : pack_strided(piece, stages_[static_cast<size_t>(thread)]);
        });
        refuse_non_finite();
        finish(team, fine_rows && projection_.active());
    }

    // All that is laid out of the finest level stands in panel order: row by row, but a query of several levels column by column
    // of a few rows, so that a panel's pixels are near each other and like the same parts of a gallery image.
    int64_t position(int64_t pixel) const { return bands_ ? position_[static_cast<size_t>(pixel)] : pixel; }
    // The image's pixel at a position.
    int64_t pixel_at(int64_t position) const { return first_ + (bands_ ? pixel_[static_cast<size_t>(position)] : position); }
    // The image's rows and columns that hold the positions [first, last).
    Range rows_of(int64_t first, int64_t last) const {
        if (!bands_) return {(first_ + first) / fine_width_, (first_ + last - 1) / fine_width_ + 1};
        const int64_t band = band_rows * fine_width_;
        return {first_row() + first / band * band_rows, first_row() + std::min(rows(), ((last - 1) / band + 1) * band_rows)};
    }

    Range columns_of(int64_t first, int64_t last) const {
        if (!bands_ || first / (band_rows * fine_width_) != (last - 1) / (band_rows * fine_width_)) return {0, fine_width_};
        return {pixel_at(first) % fine_width_, pixel_at(last - 1) % fine_width_ + 1};
    }

    int64_t image() const { return image_; }
    int64_t first_pixel() const { return first_; }
    int64_t pixels() const { return last_ - first_; }
    int64_t first_row() const { return first_ / fine_width_; }
    int64_t rows() const { return (last_ - first_) / fine_width_; }
    const Coarse& coarse(size_t group) const { return coarse_[group]; }

    const float* fine_panels() const { return coarse_[0].panels.data(); }
    const float* fine_row(int64_t pixel) const { return fine_rows_.data() + pixel * row_length_; }
    int64_t row_length() const { return row_length_; }
    // The finest vectors' projections, in lane panels (query) or one after the other (gallery); there when rows were packed.
    const float* projected() const { return projected_.data(); }

    // Per pixel of the region: squared norms of the finest vectors, and of all coarser interpolated vectors together.
    const float* fine_norm() const { return fine_norm_.data(); }
    const float* coarse_norm() const { return coarse_norm_.data(); }
    // The coarsest level's part of these, and the other levels'.
    const float* coarsest_norm() const { return coarsest_norm_.data(); }
    const float* middle_norm() const { return middle_norm_.data(); }
    // Upper bounds on norms (not squared), per group and pixel, and their maxima (see core/candidates.hpp).
    const float* norm_bound(size_t group) const { return norm_bound_[group].data(); }
    float largest_norm_bound(size_t group) const { return largest_[group]; }

    static int64_t padded(int64_t count, int64_t step) { return (count + step - 1) / step * step; }

  private:
    struct Piece {  // some pixels of one level that a thread lays out, and in which forms
        size_t group;
        int64_t begin, end;
        int panel;  // vectors a panel; 0: none
        bool rows;
    };
    // How many vectors' projections lie side by side: a lane panel of queries, or one.
    int64_t projected_panel() const { return side_ == Side::query ? kernels_.lanes : 1; }
    // Makes room for a level and cuts it into pieces.
    void plan_pieces(size_t group, int panel, bool rows, int threads, std::vector<Piece>& pieces) {
        Coarse& level = coarse_[group];
        if (panel) {
            const int64_t panel_pixels = padded(level.pixels, panel), channels = groups_[group].channels;
            float* const data = level.panels.reserve(panel_pixels * channels);
            if (panel_pixels != level.pixels) std::fill_n(data + (panel_pixels - panel) * channels, panel * channels, 0.0f);
        }
        if (rows) fine_rows_.reserve(level.pixels * row_length_);
        auto between = [](const Tap& tap) { return tap.high_weight != 0.0; };
        level.neighbours = groups_[group].taps_y(side_).any(between) || groups_[group].taps_x(side_).any(between);
        for (Buffer<double>* products : level.products()) products->reserve(level.pixels);
        // Pieces of the finest level hold whole panels, and enough of them are made for every thread to have work.
        const int64_t share = std::min(stage_pixels, (level.pixels + 2 * threads - 1) / (2 * threads));
        const int64_t step =
            group == 0 ? padded(share, std::max(panel, 1)) : std::max<int64_t>(1, stage_pixels / level.width) * level.width;
        for (int64_t begin = 0; begin < level.pixels; begin += step)
            pieces.push_back({group, begin, std::min(begin + step, level.pixels), panel, rows});
    }

    // The finest level of contiguous vectors, through the kernels' transposes.
    void pack_vectors(const Piece& piece) {
        const TensorView& view = groups_[0].views(side_)[0];
        const int64_t step = view.pixel_step(), channels = view.channels();
        const auto* source = static_cast<const float*>(view.data) + image_ * view.stride[0] + first_ * step;
        const float* mean = setting_.mean[0].data();
        double* const self = coarse_[0].self.data();
        const auto pack = piece.panel == kernels_.lanes ? kernels_.pack_lanes : kernels_.pack_rows;
        for (int64_t i = piece.begin; piece.panel && i < piece.end; i += piece.panel)
            pack(source + i * step, step, std::min<int64_t>(piece.panel, piece.end - i), channels, mean, setting_.scale,
                 coarse_[0].panels.data() + i * channels, self + i);
        for (int64_t i = piece.begin; piece.rows && i < piece.end; ++i)
            self[i] = kernels_.centre_row(source + i * step, channels, mean, setting_.scale, fine_rows_.data() + i * row_length_);
    }

    // Features of any strides, some channels at a time.
    void pack_strided(const Piece& piece, Buffer<float>& stage_buffer) {
        Coarse& level = coarse_[piece.group];
        const bool fine = piece.group == 0;
        // Neighbour products reach one row and one pixel past the piece.
        const int64_t reach = level.neighbours ? std::min(level.pixels, piece.end + level.width + 1) : piece.end;
        const int64_t count = piece.end - piece.begin, staged = reach - piece.begin, channels = groups_[piece.group].channels;
        const int64_t stride = padded(staged + level.width + 2, 16);
        float* const stage = stage_buffer.reserve((channel_block + 5) * stride);
        std::fill_n(stage, channel_block * stride, 0.0f);
        const int64_t origin = fine ? first_ : level.first_row * level.width;
        for (Buffer<double>* products : level.products())
            for (int64_t i = 0; i < count; ++i) (*products)[position_in(piece, i)] = 0.0;

        int64_t channel_base = 0;
        for (const TensorView& view : groups_[piece.group].views(side_)) {
            for (int64_t c0 = 0; c0 < view.channels(); c0 += channel_block) {
                const int64_t block = std::min(channel_block, view.channels() - c0);
                const float* mean = setting_.mean[piece.group].data() + channel_base + c0;
                with_element(view.dtype, [&](auto element) {
                    read_block<decltype(element)>(view, image_, c0, block, origin + piece.begin, staged, mean, setting_.scale,
                                                  stage, stride);
                });
                for (int64_t c = 0; c < block && piece.panel; ++c) {
                    const float* from = stage + c * stride;
                    for (int64_t i = 0; i < count;) {
                        const int64_t at = position_in(piece, i), lane = at % piece.panel;
                        const int64_t length = fine && bands_ ? 1 : std::min(piece.panel - lane, count - i);
                        float* to =
                            level.panels.data() + (at / piece.panel * channels + channel_base + c0 + c) * piece.panel + lane;
                        for (int64_t k = 0; k < length; ++k) to[k] = from[i + k];
                        i += length;
                    }
                }
                if (piece.rows) {
                    const int64_t channel = channel_base + c0;
                    if (!bands_ && channel + channel_block <= row_length_)
                        kernels_.rows_of(stage, stride, count, fine_rows_.data() + piece.begin * row_length_ + channel,
                                         row_length_);
                    else
                        for (int64_t i = 0; i < count; ++i) {
                            float* to = fine_rows_.data() + position_in(piece, i) * row_length_ + channel;
                            for (int64_t c = 0; c < block; ++c) to[c] = stage[c * stride + i];
                        }
                }
                add_products(piece, stage, stride, block, stage + channel_block * stride);
            }
            channel_base += view.channels();
        }
        if (piece.rows)
            for (int64_t i = 0; i < count; ++i)
                std::fill_n(fine_rows_.data() + position_in(piece, i) * row_length_ + channels, row_length_ - channels, 0.0f);
    }

    // Adds some channels to the vectors' products with themselves and their neighbours: float sums over one block of channels,
    // then float64, so that the error stays below core/candidates.hpp's bound.
    void add_products(const Piece& piece, const float* stage, int64_t stride, int64_t channels, float* sums) {
        Coarse& level = coarse_[piece.group];
        const int64_t count = piece.end - piece.begin;
        kernels_.neighbour_products(stage, stride, channels, count, level.neighbours ? level.width : 0, sums);
        for (Buffer<double>* products : level.products()) {
            for (int64_t i = 0; i < count; ++i) (*products)[position_in(piece, i)] += static_cast<double>(sums[i]);
            sums += stride;
        }
    }

    // Features that are not finite show in the norms. A panel's padding in `self` is never read.
    void refuse_non_finite() const {
        for (size_t g = 0; g < groups_.size(); ++g)
            for (int64_t i = 0; i < coarse_[g].pixels; ++i) {
                if (std::isfinite(coarse_[g].self[i])) continue;
                const int64_t flat = g == 0 ? pixel_at(i) : coarse_[g].first_row * coarse_[g].width + i;
                for (size_t v = 0; v < groups_[g].views(side_).size(); ++v)
                    if (!finite_at(groups_[g].views(side_)[v], image_, flat))
                        throw NonFinite(side_ == Side::query ? "query" : "gallery", groups_[g].levels[v], image_);
            }
    }

    // What is derived from what was laid out: norms of interpolated vectors, and projections.
    void finish(ThreadTeam& team, bool projected) {
        const int64_t size = padded(pixels(), 64) + 64;
        std::vector<Buffer<float>*> numbers{&fine_norm_, &coarse_norm_, &coarsest_norm_, &middle_norm_};
        for (auto& bound : norm_bound_) numbers.push_back(&bound);
        for (Buffer<float>* each : numbers) std::fill_n(each->reserve(size) + pixels(), size - pixels(), 0.0f);
        if (projected) {
            const int64_t panel = projected_panel(), width = projection_.width();
            const int64_t count = padded(pixels(), side_ == Side::query ? kernels_.lanes : kernels_.rows);
            float* const data = projected_.reserve(count * width);
            std::fill(data + pixels() / panel * panel * width, data + count * width, 0.0f);
        }
        for (size_t g = 1; g < groups_.size(); ++g) {
            Coarse& level = coarse_[g];
            double* const length = level.length.reserve(level.pixels);
            for (int64_t i = 0; i < level.pixels; ++i) length[i] = std::sqrt(level.self[i]);
        }
        constexpr int64_t together = 512;
        team.run((pixels() + together - 1) / together, [&](int64_t i, int) {
            const int64_t begin = i * together, end = std::min(pixels(), begin + together);
            interpolate_norms(begin, end);
            if (projected) project(begin, end);
        });
        for (size_t g = 0; g < groups_.size(); ++g)
            largest_[g] = *std::max_element(norm_bound_[g].data(), norm_bound_[g].data() + pixels());
    }

    int64_t position_in(const Piece& piece, int64_t i) const { return piece.group ? piece.begin + i : position(piece.begin + i); }
    void interpolate_norms(int64_t begin, int64_t end) {
        const Coarse& fine = coarse_[0];
        for (int64_t p = begin; p < end; ++p) {
            fine_norm_[p] = static_cast<float>(fine.self[p]);
            norm_bound_[0][p] = static_cast<float>(std::sqrt(fine.self[p]));
            double total = 0.0, coarsest = 0.0;
            const int64_t y = pixel_at(p) / fine_width_, x = pixel_at(p) % fine_width_;
            for (size_t g = 1; g < groups_.size(); ++g) {
                const Coarse& level = coarse_[g];
                const Tap &ty = groups_[g].taps_y(side_)[static_cast<size_t>(y)],
                          &tx = groups_[g].taps_x(side_)[static_cast<size_t>(x)];
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
                total += norm, coarsest = norm;
                const double bound =
                    wt * (wl * level.length[a] + wr * level.length[b]) + wb * (wl * level.length[c] + wr * level.length[d]);
                norm_bound_[g][p] = static_cast<float>(bound);
            }
            coarse_norm_[p] = static_cast<float>(total);
            coarsest_norm_[p] = static_cast<float>(coarsest);
            middle_norm_[p] = static_cast<float>(total - coarsest);
        }
    }

    void project(int64_t begin, int64_t end) {
        const int64_t panel = projected_panel(), width = projection_.width();
        for (int64_t p = begin; p < end; p += Projection::together)  // which lane panels are multiples of
            projection_.project(fine_row(p), row_length_, std::min(Projection::together, end - p), coarse_[0].self.data() + p,
                                kernels_, projected_.data() + p / panel * panel * width + p % panel, panel,
                                panel == 1 ? width : 1);
    }

    const Setting& setting_;
    const std::vector<LevelGroup>& groups_ = setting_.groups;
    const Kernels& kernels_ = setting_.kernels;
    const Projection& projection_ = setting_.projection;
    const Side side_;
    const bool bands_;
    const int64_t fine_width_ = groups_[0].views(side_)[0].width(), row_length_ = padded(groups_[0].channels, 16);
    int64_t image_ = 0, first_ = 0, last_ = 0;
    Buffer<float> fine_rows_, fine_norm_, coarse_norm_, coarsest_norm_, middle_norm_, projected_;
    std::vector<int64_t> position_, pixel_;  // where the order is not the pixels' own
    std::vector<Coarse> coarse_{groups_.size()};
    std::vector<Buffer<float>> norm_bound_{groups_.size()};
    std::vector<float> largest_ = std::vector<float>(groups_.size());
    std::vector<Buffer<float>> stages_;
};

}  // namespace fastspade::cpu

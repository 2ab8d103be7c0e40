// A piece of one image, centred, scaled and laid out for the kernels: finest-level pixels [p0, p1) and, of every coarser
// level, the rows that those pixels interpolate from.
#pragma once

#include <cstdint>
#include <vector>

#include "core/buffer.hpp"
#include "core/exact.hpp"
#include "core/problem.hpp"
#include "cpu/setting.hpp"
#include "cpu/thread_team.hpp"

namespace fastspade::cpu {

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

    Region(const Setting& setting, Side side);

    // Which pixels the region covers; with several groups they must be whole rows.
    void cover(int64_t image, int64_t first_pixel, int64_t last_pixel);

    // Lays the region out: fine vectors in panels of `fine_panel` (0: not wanted) and as zero-padded rows if asked,
    // coarse vectors in panels of `coarse_panel`, and the norms. Throws NonFinite.
    void pack(ThreadTeam& team, int fine_panel, bool fine_rows, int coarse_panel);

    // All that is laid out of the finest level stands in panel order: row by row, but a query of several levels column by column
    // of a few rows, so that a panel's pixels are near each other and like the same parts of a gallery image.
    int64_t position(int64_t pixel) const { return bands_ ? position_[static_cast<size_t>(pixel)] : pixel; }
    // The image's pixel at a position.
    int64_t pixel_at(int64_t position) const { return first_ + (bands_ ? pixel_[static_cast<size_t>(position)] : position); }
    // The image's rows and columns that hold the positions [first, last).
    Range rows_of(int64_t first, int64_t last) const;
    Range columns_of(int64_t first, int64_t last) const;

    int64_t image() const { return image_; }
    int64_t first_pixel() const { return first_; }
    int64_t pixels() const { return last_ - first_; }
    int64_t first_row() const { return first_ / fine_width_; }
    int64_t rows() const { return (last_ - first_) / fine_width_; }
    const Coarse& coarse(size_t group) const { return coarse_[group]; }

    const float* fine_panels() const { return fine_panels_.data(); }
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
    // Upper bounds on norms (not squared), per group and pixel, and their maxima (see core/rounding.hpp).
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
    void plan_pieces(size_t group, int panel, bool rows, int threads, std::vector<Piece>& pieces);
    void pack_vectors(const Piece& piece);
    void pack_strided(const Piece& piece, Buffer<float>& stage_buffer);
    void add_products(const Piece& piece, const float* stage, int64_t stride, int64_t channels, float* sums);
    void refuse_non_finite() const;
    void finish(ThreadTeam& team, bool projected);
    int64_t position_in(const Piece& piece, int64_t i) const { return piece.group ? piece.begin + i : position(piece.begin + i); }
    void interpolate_norms(int64_t begin, int64_t end);
    void project(int64_t begin, int64_t end);

    const Setting& setting_;
    const std::vector<LevelGroup>& groups_ = setting_.groups;
    const Kernels& kernels_ = setting_.kernels;
    const Projection& projection_ = setting_.projection;
    const Side side_;
    const bool bands_;
    const int64_t fine_width_ = groups_[0].views(side_)[0].width(), row_length_ = padded(groups_[0].channels, 16);
    int64_t image_ = 0, first_ = 0, last_ = 0;
    Buffer<float> fine_panels_, fine_rows_, fine_norm_, coarse_norm_, coarsest_norm_, middle_norm_, projected_;
    std::vector<int64_t> position_, pixel_;  // where the order is not the pixels' own
    std::vector<Coarse> coarse_;
    std::vector<Buffer<float>> norm_bound_;
    std::vector<float> largest_;
    std::vector<Buffer<float>> stages_;
};

}  // namespace fastspade::cpu

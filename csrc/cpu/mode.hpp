// In which mode the finest level joins the pairs of a chunk, and which bounds on coarse levels are worth taking: decided from
// what the chunks before left.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/setting.hpp"

namespace fastspade::cpu {

// per_pair: the pairs that every bound leaves are evaluated one by one. int8, int16: whole panels are bounded in such numbers,
// and what is left is evaluated. float32: whole panels are computed.
enum class Mode { per_pair, int8, int16, float32 };

// What one chunk left of its pairs with a block.
struct ChunkCounts {
    int64_t gallery_pixels, pairs;
    int64_t left;       // pairs whose finest level had to be looked at
    int64_t evaluated;  // of these, one by one
    // Over all tiles of queries: cells, those that the coarsest level's bound leaves, those whose own bounds were taken, and
    // left.
    int64_t cells, cells_by_coarsest, cells_bounded, cells_left;
};

class ModeChooser {
  public:
    explicit ModeChooser(const Setting& setting);

    void start_block();
    // The end of a chunk: chooses for the next one.
    void next(const ChunkCounts& counts);

    Mode mode() const { return mode_; }
    bool integers() const { return mode_ == Mode::int8 || mode_ == Mode::int16; }
    bool first_chunk() const { return chunks_ == 0; }
    // Whether some chunk may evaluate pairs one by one, which needs vectors as rows.
    bool may_evaluate() const { return several_ || panels_ != Mode::float32; }
    bool bounds_cells() const { return bounds_cells_; }
    bool bounds_patches() const { return bounds_patches_; }
    // Whether all but the coarsest level are multiplied only where a tile needs them.
    bool directly() const { return directly_ && mode_ == Mode::per_pair && (bounds_patches_ || windowed(problem_)); }

    // Whether the chunk at hand should be tried on a few tiles first; then the share of pairs that coarse levels leave.
    bool wants_probe() const;
    void probed(double left) { mode_ = left > most_per_pair() ? panels_ : Mode::per_pair; }

  private:
    double most_per_pair() const;

    const Problem& problem_;
    const int64_t channels_;
    const bool several_;  // levels
    Mode mode_ = Mode::per_pair;
    Mode panels_ = Mode::float32;    // the best mode of whole panels; what proved worse is not tried again
    int64_t chunks_ = 0, seen_ = 0;  // of this block: chunks searched, and their gallery pixels
    bool bounds_cells_ = false, bounds_patches_ = false, directly_ = false;
};

}  // namespace fastspade::cpu

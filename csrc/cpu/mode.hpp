// In which mode the finest level joins the pairs of a chunk, and which bounds on coarse levels are worth taking: decided from
// what the chunks before left.
#pragma once

#include <cstdint>

#include "cpu/quantised.hpp"
#include "cpu/setting.hpp"

namespace fastspade::cpu {

// Above this share of pairs left in the running, whole panels are cheaper than single pairs: in float32, and in int8.
constexpr double float32_share = 0.35, integer_share = 0.03;
// The share that a bound in int8 or int16 may leave to be worth it (of very long vectors; less of shorter ones).
constexpr double left_by_int8 = 0.01, left_by_int16 = 0.005;
// With one level: this many times kappa gallery pixels seen give limits that are worth a bound.
constexpr int64_t enough_for_limit = 8;
constexpr int64_t probe_every = 4;
// Bounding patches, and cells, pays where it leaves less than such a share of the cells; it is tried every so many chunks.
constexpr double patches_share = 0.7, cells_share = 0.4;
constexpr int64_t retry_bounds = 16;
// Multiplying the nodes that a tile needs pays where its cells are less than such a share.
constexpr double directly_share = 0.15;

// per_pair: the pairs that every bound leaves are evaluated one by one. int8, int16: whole panels are bounded in such numbers,
// and what is left is evaluated. float32: whole panels are computed.
enum class Mode { per_pair, int8, int16, float32 };

// What one chunk left of its pairs with a block.
struct ChunkCounts {
    int64_t gallery_pixels, pairs;
    int64_t left;                                  // pairs whose finest level had to be looked at
    int64_t evaluated;                             // of these, one by one
    int64_t cells, cells_by_coarsest, cells_left;  // of all tiles; left by the coarsest level's bound; left
};

class ModeChooser {
  public:
    explicit ModeChooser(const Setting& setting)
        : problem_(setting.problem),
          channels_(setting.groups[0].channels),
          several_(setting.several()),
          wider_(setting.kernels.integer_hits[1] ? Mode::int16 : Mode::float32) {
        if (problem_.prune && setting.kernels.integer_hits[0])
            panels_ = channels_ <= Quantised::most_int8_channels ? Mode::int8 : wider_;
    }

    // With one level the first chunk is computed whole, so that there is a limit; with several, the coarse levels give one.
    void start_block() {
        mode_ = several_ && problem_.prune ? Mode::per_pair : Mode::float32;
        chunks_ = seen_ = 0;
        bounds_cells_ = bounds_patches_ = false;
        directly_ = windowed(problem_);
    }

    // The end of a chunk: chooses for the next one.
    void next(const ChunkCounts& counts) {
        const bool first = first_chunk();
        // Where bounding did not pay, it is tried again now and then.
        const bool retried = first || chunks_ % retry_bounds == 0;
        const double cells = static_cast<double>(counts.cells), by_coarsest = static_cast<double>(counts.cells_by_coarsest);
        directly_ = (bounds_patches_ || windowed(problem_)) && by_coarsest < directly_share * cells;
        bounds_patches_ = retried || (bounds_patches_ && by_coarsest < patches_share * cells);
        bounds_cells_ = retried || (bounds_cells_ && static_cast<double>(counts.cells_left) < cells_share * cells);
        ++chunks_;
        seen_ += counts.gallery_pixels;
        if (!problem_.prune || windowed(problem_)) return;

        const double pairs = static_cast<double>(counts.pairs), channels = static_cast<double>(channels_);
        // Pairs nearer than kappa of those seen so far have to be evaluated, whatever bounds them.
        const double due = 2.0 * static_cast<double>(problem_.kappa) / static_cast<double>(seen_);
        // An evaluation costs about as much as a fixed number of channels, and its vectors' way to the processor.
        const double worth = due + (mode_ == Mode::int8 ? left_by_int8 : left_by_int16) * channels / (channels + 64.0);
        if (integers() && !first && static_cast<double>(counts.evaluated) > worth * pairs)
            panels_ = mode_ == Mode::int8 ? wider_ : Mode::float32;
        if (several_)
            probed(static_cast<double>(counts.left) / pairs);
        else if (seen_ >= enough_for_limit * problem_.kappa)
            mode_ = panels_;
    }

    Mode mode() const { return mode_; }
    bool integers() const { return mode_ == Mode::int8 || mode_ == Mode::int16; }
    bool first_chunk() const { return chunks_ == 0; }
    // Whether some chunk may evaluate pairs one by one, which needs vectors as rows.
    bool may_evaluate() const { return several_ || panels_ != Mode::float32; }
    bool bounds_cells() const { return bounds_cells_; }
    bool bounds_patches() const { return bounds_patches_; }
    // Whether all but the coarsest level are multiplied only where a tile needs them.
    bool directly() const { return directly_ && mode_ == Mode::per_pair && (bounds_patches_ || windowed(problem_)); }

    // Whether the chunk at hand should be tried on a few tiles first: the first one and, where panels are bounded in integers,
    // the second, when limits are known, and one now and then. Then the share of pairs that coarse levels leave.
    bool wants_probe() const {
        if (!several_ || windowed(problem_)) return false;
        return first_chunk() ? mode_ == Mode::per_pair : integers() && chunks_ % probe_every == 1;
    }

    void probed(double left) {
        mode_ = left > (panels_ == Mode::float32 ? float32_share : integer_share) ? panels_ : Mode::per_pair;
    }

  private:
    const Problem& problem_;
    const int64_t channels_;
    const bool several_;  // levels
    const Mode wider_;    // that follows int8
    Mode mode_ = Mode::per_pair;
    Mode panels_ = Mode::float32;    // the best mode of whole panels; what proved worse is not tried again
    int64_t chunks_ = 0, seen_ = 0;  // of this block: chunks searched, and their gallery pixels
    bool bounds_cells_ = false, bounds_patches_ = false, directly_ = false;
};

}  // namespace fastspade::cpu

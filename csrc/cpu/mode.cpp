#include "cpu/mode.hpp"

#include "cpu/quantised.hpp"

namespace fastspade::cpu {

namespace {

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
constexpr double directly_share = 0.4;

}  // namespace

ModeChooser::ModeChooser(const Setting& setting)
    : problem_(setting.problem), channels_(setting.groups[0].channels), several_(setting.several()) {
    if (problem_.prune && setting.kernels.integer_hits[0])
        panels_ = channels_ <= Quantised::most_int8_channels ? Mode::int8 : Mode::int16;
}

// With one level the first chunk is computed whole, so that there is a limit; with several, the coarse levels give one.
void ModeChooser::start_block() {
    mode_ = several_ && problem_.prune ? Mode::per_pair : Mode::float32;
    chunks_ = seen_ = 0;
    bounds_cells_ = bounds_patches_ = false;
    directly_ = windowed(problem_);
}

double ModeChooser::most_per_pair() const { return panels_ == Mode::float32 ? float32_share : integer_share; }

// How well bounds prune, the last chunk tells. For the first one a few tiles are tried, and where panels are bounded in integers
// again for the second, when limits are known, and now and then.
bool ModeChooser::wants_probe() const {
    if (!several_ || windowed(problem_)) return false;
    return first_chunk() ? mode_ == Mode::per_pair : integers() && chunks_ % probe_every == 1;
}

void ModeChooser::next(const ChunkCounts& counts) {
    const bool first = first_chunk();
    // Where bounding did not pay, it is tried again now and then.
    const bool retried = first || chunks_ % retry_bounds == 0;
    const double cells = static_cast<double>(counts.cells);
    directly_ = (bounds_patches_ || windowed(problem_)) && static_cast<double>(counts.cells_by_coarsest) < directly_share * cells;
    bounds_patches_ = retried || (bounds_patches_ && static_cast<double>(counts.cells_bounded) < patches_share * cells);
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
        panels_ = mode_ == Mode::int8 ? Mode::int16 : Mode::float32;
    if (several_)
        probed(static_cast<double>(counts.left) / pairs);
    else if (seen_ >= enough_for_limit * problem_.kappa)
        mode_ = panels_;
}

}  // namespace fastspade::cpu

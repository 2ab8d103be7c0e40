#include "cuda/plan.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace fastspade::cuda {

namespace {

constexpr int64_t operand_budget = 128ll << 20;   // query operands at a time
constexpr int64_t workspace_budget = 48ll << 20;  // candidates at a time
constexpr int64_t redo_budget = 16ll << 20;       // lists of rows being redone
constexpr int64_t alignment = 256;

int64_t place(int64_t& end, int64_t bytes) {
    const int64_t at = end;
    end += (bytes + alignment - 1) / alignment * alignment;
    return at;
}

Mixing mixing_of(int height, int width, const OperandLayout& layout) {
    return mixing(AxisTaps(height, layout.height, layout.upsample), AxisTaps(width, layout.width, layout.upsample));
}

std::vector<Mixing> mixing_of(const OperandLayout& layout) {
    std::vector<Mixing> found;
    for (const LevelShape& level : layout.levels) found.push_back(mixing_of(level.height, level.width, layout));
    return found;
}

// Without a gap after it.
int64_t append(int64_t& end, int64_t bytes) {
    end += bytes;
    return end - bytes;
}

int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }
int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows of operands are multiples of 128 bytes and terms of 16: in this order everything is aligned without gaps, so that
// preparing a gallery writes every byte of its memory. torch's checks of operators compare such results byte by byte.
void lay_out(OperandLayout& layout, bool gallery) {
    static_assert(step_channels * 2 % 128 == 0 && sizeof(Terms) == 16);
    int64_t end = 0;
    const int64_t pixels = static_cast<int64_t>(layout.height) * layout.width;
    for (size_t g = 0; g < layout.groups.size(); ++g) {
        const Group& group = layout.groups[g];
        layout.group_offset[g] = append(end, layout.images * group.height * group.width * group.channels * 2);
    }
    layout.terms_offset = append(end, layout.images * pixels * static_cast<int64_t>(sizeof(Terms)));
    if (layout.projected) {
        layout.projected_offset = append(end, layout.images * pixels * projected_channels * 2);
        layout.projected_terms_offset = append(end, layout.images * pixels * static_cast<int64_t>(sizeof(Terms)));
        if (gallery) layout.directions_offset = append(end, int64_t{8} * layout.groups[0].channels * projected_channels);
    }
    if (gallery) layout.equals_offset = append(end, layout.images * pixels * static_cast<int64_t>(sizeof(Equals)));
    layout.scale_offset = append(end, layout.images * 4);
    layout.largest_offset = append(end, layout.images * static_cast<int64_t>(layout.levels.size()) * 4);
    int64_t channels = 0;
    for (const LevelShape& level : layout.levels) channels += level.channels;
    layout.centre_offset = append(end, channels * 4);
    if (layout.projected && gallery) layout.told_offset = append(end, 4);
    layout.bytes = end;
}

// Shared memory without candidate lists; fills in offsets where a plan is given.
int64_t shared_need(const OperandLayout& layout, int row_tiles, int channels, SearchPlan* plan) {
    const int rows = 32 * row_tiles;
    int64_t end = static_cast<int64_t>(pipeline_stages) * (rows + tile_columns) * channels * 2;
    for (size_t g = 1; g < layout.groups.size(); ++g) {
        if (plan) {
            plan->stride[g] = layout.groups[g].stride;
            plan->ring[g] = layout.groups[g].ring;
            plan->ring_offset[g] = static_cast<int>(end);
        }
        end += static_cast<int64_t>(layout.groups[g].ring) * rows * 2;
    }
    end = (end + 15) / 16 * 16;
    if (plan) plan->column_offset = static_cast<int>(end);
    end += tile_columns * (16 + 24 * (static_cast<int64_t>(layout.groups.size()) - 1));
    if (plan) plan->row_offset = static_cast<int>(end);
    end += rows * row_bytes;
    if (plan) plan->list_offset = static_cast<int>(end);
    return end;
}

Group finest_group(const std::vector<LevelShape>& levels) { return Group{levels[0].height, levels[0].width, 0, {}}; }

void count_channels(OperandLayout& layout) {
    for (Group& group : layout.groups) {
        group.channels = 0;
        for (int level : group.levels) group.channels += layout.levels[static_cast<size_t>(level)].channels;
        group.channels = round_up(group.channels, step_channels);
    }
}

// The tallest query tile that fits, still leaves every multiprocessor a block, and is not half empty for every image: a tile
// streams the whole gallery, so the taller, the less traffic per pair. Steps of 32 channels make room for a taller one.
void lay_out_sm80(const OperandLayout& gallery, const Device& device, int64_t kappa, int64_t small_tiles, int64_t units,
                  SearchPlan& plan) {
    plan.tiling = {gallery.width, gallery.height, false};
    for (const bool on_chip : {true, false}) {
        if (on_chip && kappa > most_kappa_on_chip) continue;
        for (const int row_tiles : {4, 2, 1})
            for (const int channels : {step_channels, short_step}) {
                const int64_t left = device.shared_bytes - shared_need(gallery, row_tiles, channels, nullptr);
                const int capacity = on_chip ? list_capacity(plan.keep, 32 * row_tiles, left) : plan.capacity;
                const bool enough = ceil_divide(small_tiles, row_tiles) * units >= device.multiprocessors;
                const bool half_empty = small_tiles <= row_tiles / 2;
                if (left < 0 || capacity == 0 || (row_tiles > 1 && (!enough || half_empty))) continue;
                plan.row_tiles = row_tiles;
                plan.step_channels = channels;
                plan.capacity = capacity;
                plan.lists_on_chip = on_chip;
                plan.shared_bytes = static_cast<int>(shared_need(gallery, row_tiles, channels, &plan)) +
                                    (on_chip ? 32 * row_tiles * capacity * 8 : 0);
                return;
            }
    }
}

}  // namespace

int list_capacity(int keep, int rows, int64_t bytes) {
    const int64_t room = bytes / (static_cast<int64_t>(rows) * 8), least = keep + std::max(12, keep / 4),
                  most = keep + std::max(12, keep / 2);
    return room < least ? 0 : static_cast<int>(std::min(room, most));
}

OperandLayout plan_gallery(const std::vector<LevelShape>& levels, int64_t images, Upsample upsample, bool bfloat16,
                           const Device& device) {
    OperandLayout layout;
    layout.levels = levels;
    layout.height = levels[0].height;
    layout.width = levels[0].width;
    layout.upsample = upsample;
    layout.bfloat16 = bfloat16;
    layout.images = images;
    const int64_t pixels = static_cast<int64_t>(layout.height) * layout.width;

    const Tiling tiling{layout.width, layout.height, false};
    Group finest = finest_group(levels);
    std::vector<Group> coarse;
    for (size_t l = 0; l < levels.size(); ++l) {
        const LevelShape& level = levels[l];
        if (static_cast<int64_t>(level.height) * level.width * 2 > pixels) {
            finest.levels.push_back(static_cast<int>(l));
            continue;
        }
        if (coarse.empty() || coarse.back().height != level.height || coarse.back().width != level.width)
            coarse.push_back(Group{level.height, level.width, 0, {}});
        coarse.back().levels.push_back(static_cast<int>(l));
    }
    for (Group& group : coarse) {
        group.stride = coarse_stride(tiling, group.height, group.width, upsample);
        group.ring = ring_length(tiling, {group.height, group.width, group.stride}, upsample);
    }
    const int64_t shared_bytes = std::min(device.shared_bytes, 1 << 18);  // as far as GramRing's places reach
    // Too many groups, or rings too long for the smallest tile: the longest ring gives way.
    for (;;) {
        layout.groups = coarse;
        layout.groups.insert(layout.groups.begin(), finest);
        if (layout.groups.size() <= max_groups && shared_need(layout, 1, step_channels, nullptr) <= shared_bytes) break;
        if (coarse.empty()) throw std::runtime_error("this device's shared memory is too small for the search");
        auto longest =
            std::max_element(coarse.begin(), coarse.end(), [](const Group& a, const Group& b) { return a.ring < b.ring; });
        finest.levels.insert(finest.levels.end(), longest->levels.begin(), longest->levels.end());
        coarse.erase(longest);
    }
    count_channels(layout);
    layout.projected = layout.groups[0].channels >= 4 * projected_channels;
    layout.mixing = mixing_of(layout);
    for (Group& group : layout.groups) group.mixing = mixing_of(group.height, group.width, layout);
    lay_out(layout, true);
    return layout;
}

OperandLayout plan_query(const OperandLayout& gallery, const std::vector<LevelShape>& levels, int64_t images) {
    OperandLayout layout;
    layout.groups = gallery.groups;
    layout.projected = gallery.projected;
    layout.levels = levels;
    layout.height = levels[0].height;
    layout.width = levels[0].width;
    layout.upsample = gallery.upsample;
    layout.bfloat16 = gallery.bfloat16;
    layout.images = images;
    for (Group& group : layout.groups) {
        group.height = layout.height;
        group.width = layout.width;
        group.stride = tile_columns;
        group.ring = 0;
        group.mixing = Mixing::none;
    }
    layout.mixing = mixing_of(layout);
    lay_out(layout, false);
    return layout;
}

SearchPlan plan_search(const OperandLayout& gallery, const std::vector<LevelShape>& query, int64_t query_images, int64_t slots,
                       int64_t kappa, bool chosen, const Device& device, Path path) {
    const int64_t pixels = static_cast<int64_t>(gallery.height) * gallery.width, pairs = slots * pixels;
    const int64_t query_pixels = static_cast<int64_t>(query[0].height) * query[0].width;
    if (pairs >= 0xffffffffll)
        throw std::invalid_argument("a query is searched against " + std::to_string(pairs) +
                                    " gallery pixels; the CUDA engine numbers at most 2^32 - 2: search the gallery in parts");
    SearchPlan plan;
    // A margin beyond kappa, so that the certificate rarely fails; and room beyond that, so that lists are rarely cut back.
    plan.keep = static_cast<int>(std::min(kappa + std::max<int64_t>(8, kappa / 2), pairs));
    plan.capacity = plan.keep + std::max(12, plan.keep / 2);
    plan.stride[0] = tile_columns;

    for (size_t l = 1; l < query.size(); ++l) {
        const auto alike = [&](const std::vector<LevelShape>& side) {
            return side[l].height == side[l - 1].height && side[l].width == side[l - 1].width;
        };
        plan.before[l] = alike(query) && alike(gallery.levels) ? plan.before[l - 1] + query[l - 1].channels : 0;
    }

    plan.repeat_words = static_cast<int>(ceil_divide(pixels, 32));
    const int64_t repeats = slots * plan.repeat_words * 4;
    const int64_t image_bytes = plan_query(gallery, query, 1).bytes + (chosen ? repeats : 0);
    plan.batch = std::clamp<int64_t>(operand_budget / image_bytes, 1, query_images);
    plan.query = plan_query(gallery, query, plan.batch);

    // One level may be cut anywhere; several are searched image by image, because rings start anew with each.
    const bool one_group = gallery.groups.size() == 1;
    const auto segments = [&](const Tiling& tiling) { return one_group ? ceil_divide(finest_tiles(tiling), 16) : 1; };

    // The sm90a kernel has tiles of 128 queries: where they are few, smaller tiles keep more multiprocessors busy.
    const bool enough =
        ceil_divide(query_pixels, 128) * query_images * slots * segments({gallery.width, gallery.height, !one_group}) >=
        device.multiprocessors;
    if (path == Path::sm90a || (path == Path::automatic && device.sm90a && enough && query_pixels > 64)) {
        const std::string obstacle = lay_out_sm90(gallery, device, kappa, plan);
        if (obstacle.empty())
            plan.path = Path::sm90a;
        else if (path == Path::sm90a)
            throw std::invalid_argument("the sm90a search was asked for, but " + obstacle);
    }
    if (plan.path == Path::sm80)
        lay_out_sm80(gallery, device, kappa, ceil_divide(query_pixels, 32),
                     query_images * slots * segments({gallery.width, gallery.height, false}), plan);
    int64_t jobs = finest_tiles(plan.tiling);
    plan.segments = static_cast<int>(segments(plan.tiling));
    for (size_t g = 1; g < gallery.groups.size(); ++g)
        jobs += coarse_tiles_needed(plan.tiling, finest_tiles(plan.tiling) - 1,
                                    {gallery.groups[g].height, gallery.groups[g].width, plan.stride[g]}, gallery.upsample);
    plan.job_count = static_cast<int>(jobs);
    const int64_t units = slots * plan.segments;
    plan.tile_rows = 32 * plan.row_tiles;
    plan.query_tiles = static_cast<int>(ceil_divide(query_pixels, plan.tile_rows));

    // Splits: what finishes first, counting whole waves of blocks; each extra split costs a list to fill and to merge. For
    // very large kappa they are as many as the workspace holds for one tile.
    const auto bytes_a_tile = [&](int64_t splits) {
        const int64_t kept = static_cast<int64_t>(plan.tile_rows) * (splits + 1) * plan.keep * 8;
        const int64_t lists = plan.lists_on_chip ? 0 : static_cast<int64_t>(plan.tile_rows) * splits * plan.capacity * 8;
        return std::pair{kept, lists};
    };
    const auto both = [](std::pair<int64_t, int64_t> bytes) { return bytes.first + bytes.second; };
    const int64_t tiles = plan.query_tiles * plan.batch;
    double best = 1e300;
    for (int64_t splits = 1; splits <= std::min<int64_t>(units, 64); ++splits) {
        if (splits > 1 && both(bytes_a_tile(splits)) > workspace_budget) break;
        const double waves = static_cast<double>(ceil_divide(tiles * splits, device.multiprocessors));
        const double time = waves * (static_cast<double>(ceil_divide(units, splits)) * plan.job_count / plan.segments + 4.0);
        if (time < best * 0.98) {
            best = time;
            plan.splits = static_cast<int>(splits);
        }
    }
    const auto [kept_a_tile, lists_a_tile] = bytes_a_tile(plan.splits);
    plan.launch_tiles = static_cast<int>(std::clamp<int64_t>(workspace_budget / (kept_a_tile + lists_a_tile), 1, tiles));

    plan.redo_capacity = static_cast<int>(2 * kappa + redo_pairs);
    plan.redo_blocks = static_cast<int>(std::clamp<int64_t>(redo_budget / (8 * static_cast<int64_t>(plan.redo_capacity)), 1,
                                                            static_cast<int64_t>(device.multiprocessors) * 4));
    int64_t end = 0;
    place(end, plan.query.bytes);
    const int64_t rows = static_cast<int64_t>(plan.launch_tiles) * plan.tile_rows;
    plan.kept_offset = place(end, plan.launch_tiles * kept_a_tile);
    plan.lists_offset = place(end, plan.launch_tiles * lists_a_tile);
    plan.limits_offset = place(end, rows * 4);
    plan.failed_offset = place(end, rows * 4);
    plan.failures_offset = place(end, 4);
    plan.redo_offset = place(end, static_cast<int64_t>(plan.redo_blocks) * plan.redo_capacity * 8);
    plan.jobs_offset = place(end, one_group && !gallery.projected ? 0 : jobs * 4);
    const int64_t taps = static_cast<int64_t>(gallery.groups.size() - 1) * (gallery.width + gallery.height);
    plan.taps_offset = place(end, taps * static_cast<int64_t>(sizeof(AxisTap)));
    plan.repeats_offset = place(end, (chosen ? plan.batch : 1) * repeats);
    plan.available_offset = place(end, (chosen ? plan.batch : 1) * 8);
    plan.workspace_bytes = end;
    return plan;
}

}  // namespace fastspade::cuda

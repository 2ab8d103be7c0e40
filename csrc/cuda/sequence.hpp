// The kernels of a preparation and of a search, in order, for any launcher of kernels: the CUDA runtime (engine.cu) and
// the host emulation run this same code. A launcher has
//   launch(kernel, blocks, threads, shared_bytes, parameters),   fill(address, byte, bytes),
//   tensor_map(box)   and   launch_sm90(bfloat16, tile_rows, blocks, shared_bytes, parameters).
// Nothing here waits for the device or allocates.
#pragma once

#include <algorithm>

#include "cuda/prepare.cuh"
#include "cuda/project.cuh"
#include "cuda/redo.cuh"
#include "cuda/repeats.cuh"
#include "cuda/request.hpp"
#include "cuda/schedule.cuh"
#include "cuda/search.cuh"

namespace fastspade::cuda {

inline int64_t blocks_for(int64_t items, int64_t a_block) { return (items + a_block - 1) / a_block; }

// `before`: as LevelView's, for exact distances; or null.
inline PyramidView pyramid_view(const std::vector<TensorView>& levels, int64_t first_image, const OperandLayout& layout,
                                const int* before) {
    PyramidView pyramid{};
    pyramid.level_count = static_cast<int>(levels.size());
    pyramid.height = static_cast<int>(levels[0].height());
    pyramid.width = static_cast<int>(levels[0].width());
    pyramid.upsample = layout.upsample;
    for (size_t l = 0; l < levels.size(); ++l) {
        const TensorView& from = levels[l];
        LevelView& to = pyramid.levels[l];
        const int64_t element = from.dtype == DType::float32 ? 4 : 2;
        to.data = static_cast<const char*>(from.data) + first_image * from.stride[0] * element;
        std::copy(from.stride, from.stride + 4, to.stride);
        to.dtype = from.dtype;
        to.channels = static_cast<int>(from.channels());
        to.height = static_cast<int>(from.height());
        to.width = static_cast<int>(from.width());
        to.mixing = layout.mixing[l];
        to.before = before ? before[l] : 0;
    }
    return pyramid;
}

inline PrepareParameters prepare_parameters(const OperandLayout& layout, const std::vector<TensorView>& levels,
                                            int64_t first_image, int64_t images, char* base, const OperandLayout& stored,
                                            char* stored_base) {
    PrepareParameters p{};
    p.pyramid = pyramid_view(levels, first_image, layout, nullptr);
    p.images = images;
    p.group_count = static_cast<int>(layout.groups.size());
    int centre_offset = 0;
    for (size_t l = 0; l < levels.size(); ++l) {
        p.centre_offset[l] = centre_offset;
        centre_offset += layout.levels[l].channels;
    }
    for (size_t g = 0; g < layout.groups.size(); ++g) {
        const Group& group = layout.groups[g];
        p.groups[g] = {reinterpret_cast<uint16_t*>(base + layout.group_offset[g]), group.channels, group.height, group.width,
                       group.mixing};
        int offset = 0;
        for (int level : group.levels) {
            p.level_group[level] = static_cast<int>(g);
            p.level_offset[level] = offset;
            offset += layout.levels[static_cast<size_t>(level)].channels;
        }
    }
    const bool gallery = base == stored_base;
    p.centre = reinterpret_cast<float*>(stored_base + stored.centre_offset);
    if (layout.projected) {
        p.projected = {reinterpret_cast<uint16_t*>(base + layout.projected_offset), projected_channels, layout.height,
                       layout.width, Mixing::none};
        p.projected_terms = reinterpret_cast<Terms*>(base + layout.projected_terms_offset);
        p.directions = reinterpret_cast<double*>(stored_base + stored.directions_offset);
        p.told = reinterpret_cast<int*>(stored_base + stored.told_offset);
    }
    p.largest = reinterpret_cast<uint32_t*>(base + layout.largest_offset);
    p.scale = reinterpret_cast<float*>(base + layout.scale_offset);
    p.terms = reinterpret_cast<Terms*>(base + layout.terms_offset);
    p.hashes = gallery ? reinterpret_cast<uint64_t*>(base + layout.equals_offset) : nullptr;
    p.gallery = gallery;
    p.bfloat16 = layout.bfloat16;
    return p;
}

// Scales, operands, terms and projections, once the centre is known.
template <class Launcher>
void prepare(Launcher& launcher, const PrepareParameters& p) {
    constexpr int warps = prepare_threads / 32;
    int64_t native = 0, operands = 0;
    for (int l = 0; l < p.pyramid.level_count; ++l) native += p.images * p.pyramid.levels[l].height * p.pyramid.levels[l].width;
    for (int g = 0; g < p.group_count; ++g) operands += p.images * p.groups[g].height * p.groups[g].width;
    launcher.fill(p.largest, 0, p.images * p.pyramid.level_count * 4);
    launcher.launch(largest_kernel, blocks_for(native, warps), prepare_threads, 0, p);
    launcher.launch(scale_kernel, blocks_for(p.images, prepare_threads), prepare_threads, 0, p);
    launcher.launch(operand_kernel, blocks_for(operands, warps), prepare_threads, 0, p);
    const int64_t pixels = p.images * p.pyramid.height * p.pyramid.width;
    launcher.launch(terms_kernel, blocks_for(pixels, warps), prepare_threads, 0, p);
    if (!p.projected.data) return;
    if (p.gallery) {
        launcher.launch(direction_kernel, projected_channels, prepare_threads, direction_samples * 8, p);
        launcher.launch(orthonormal_kernel, 1, orthonormal_threads, (orthonormal_threads + projected_channels) * 8, p);
    }
    launcher.launch(project_kernel, blocks_for(pixels, warps * pixels_a_warp), prepare_threads, 0, p);
    if (!p.gallery) return;
    launcher.fill(p.told, 0, 4);
    launcher.launch(told_kernel, told_pairs / warps, prepare_threads, 0, p);
}

template <class Launcher>
void prepare_gallery(Launcher& launcher, const OperandLayout& layout, const std::vector<TensorView>& levels, char* base) {
    const PrepareParameters p = prepare_parameters(layout, levels, 0, layout.images, base, layout, base);
    int channels = 0;
    for (const LevelShape& level : layout.levels) channels += level.channels;
    launcher.launch(centre_kernel, channels, prepare_threads, prepare_threads * 8, p);
    prepare(launcher, p);
}

template <class Launcher>
void compare_equals(Launcher& launcher, const OperandLayout& layout, const std::vector<TensorView>& levels, const int64_t* hashes,
                    const int64_t* order, uint8_t* same) {
    const int64_t count = layout.images * layout.height * layout.width;
    const EqualParameters p{pyramid_view(levels, 0, layout, nullptr), count, hashes, order, same};
    launcher.launch(equal_kernel, blocks_for(count * 8, repeat_threads), repeat_threads, 0, p);
}

template <class Operand, int StepChannels, class Launcher>
void launch_search(Launcher& launcher, const SearchParameters& p, const SearchPlan& plan, int64_t blocks) {
    switch (plan.row_tiles) {
        case 4:
            return launcher.launch(search_kernel<Operand, 4, StepChannels>, blocks, search_threads, plan.shared_bytes, p);
        case 2:
            return launcher.launch(search_kernel<Operand, 2, StepChannels>, blocks, search_threads, plan.shared_bytes, p);
        default:
            return launcher.launch(search_kernel<Operand, 1, StepChannels>, blocks, search_threads, plan.shared_bytes, p);
    }
}
template <class Operand, class Launcher>
void launch_search(Launcher& launcher, const SearchParameters& p, const SearchPlan& plan, int64_t blocks) {
    if (plan.step_channels == short_step) return launch_search<Operand, short_step>(launcher, p, plan, blocks);
    launch_search<Operand, step_channels>(launcher, p, plan, blocks);
}

// Tensor maps of the operands: queries and coarse levels in runs of pixels, the finest level as the tiling has it.
template <class Launcher>
Sm90Parameters sm90_parameters(Launcher& launcher, const OperandLayout& gallery, const SearchPlan& plan,
                               const SearchParameters& p, char* base) {
    Sm90Parameters wide{};
    const auto run = [&](const uint16_t* data, int64_t channels, int64_t pixels, int rows) {
        return launcher.tensor_map(
            TensorBox{data, gallery.bfloat16, 2, {channels, pixels}, {1, channels}, {step_channels, rows}});
    };
    for (int g = 0; g <= max_groups; ++g) {
        const SearchGroup& group = p.groups[g];
        if (!group.query) continue;
        const int64_t channels = group.channels, width = group.width, height = group.height;
        wide.query[g] = run(group.query, channels, plan.query.images * plan.query.height * plan.query.width, plan.tile_rows);
        if ((g == 0 || g == projected_group) && plan.tiling.patched)
            wide.gallery[g] = launcher.tensor_map(TensorBox{group.gallery,
                                                            gallery.bfloat16,
                                                            4,
                                                            {channels, width, height, gallery.images},
                                                            {1, channels, channels * width, channels * width * height},
                                                            {step_channels, patch_width, patch_height, 1}});
        else
            wide.gallery[g] = run(group.gallery, channels, gallery.images * width * height, group.stride);
    }
    wide.stages = plan.stages;
    wide.barrier_offset = plan.barrier_offset;
    wide.patched = plan.tiling.patched;
    return wide;
}

template <class Launcher>
void search(Launcher& launcher, const OperandLayout& gallery, const SearchPlan& plan, const SearchRequest& request) {
    char *const base = request.workspace, *const stored = request.prepared;
    auto* const jobs = reinterpret_cast<uint32_t*>(base + plan.jobs_offset);
    const int groups = static_cast<int>(gallery.groups.size());
    const int pixels = gallery.height * gallery.width;
    const int query_pixels = plan.query.height * plan.query.width;
    const bool sm90 = plan.path == Path::sm90a;
    const bool scheduled = groups > 1 || gallery.projected;
    if (scheduled) {
        ScheduleParameters s{};
        if (gallery.projected) s.told = reinterpret_cast<int*>(stored + gallery.told_offset);
        s.jobs = jobs;
        s.taps = reinterpret_cast<AxisTap*>(base + plan.taps_offset);
        s.tiles = static_cast<int>(finest_tiles(plan.tiling));
        s.tiling = plan.tiling;
        s.group_count = groups;
        s.upsample = gallery.upsample;
        for (int g = 0; g < groups; ++g) {
            s.group_height[g] = gallery.groups[static_cast<size_t>(g)].height;
            s.group_width[g] = gallery.groups[static_cast<size_t>(g)].width;
            s.group_stride[g] = plan.stride[g];
        }
        launcher.launch(schedule_kernel, 1, search_threads, 0, s);
    }

    SearchParameters p{};
    p.group_count = groups;
    for (int g = 0; g < groups; ++g) {
        const Group& group = gallery.groups[static_cast<size_t>(g)];
        p.groups[g] = {reinterpret_cast<uint16_t*>(base + plan.query.group_offset[g]),
                       reinterpret_cast<uint16_t*>(stored + gallery.group_offset[g]),
                       group.channels / plan.step_channels,
                       group.channels,
                       group.height,
                       group.width,
                       plan.stride[g],
                       plan.ring[g],
                       plan.ring_offset[g]};
    }
    if (gallery.projected) {
        p.groups[projected_group] = p.groups[0];
        p.groups[projected_group].query = reinterpret_cast<uint16_t*>(base + plan.query.projected_offset);
        p.groups[projected_group].gallery = reinterpret_cast<uint16_t*>(stored + gallery.projected_offset);
        p.groups[projected_group].steps = 1;
        p.groups[projected_group].channels = projected_channels;
        p.query_terms[1] = reinterpret_cast<Terms*>(base + plan.query.projected_terms_offset);
        p.gallery_terms[1] = reinterpret_cast<Terms*>(stored + gallery.projected_terms_offset);
        p.told = reinterpret_cast<int*>(stored + gallery.told_offset);
    }
    p.taps = reinterpret_cast<const AxisTap*>(base + plan.taps_offset);
    p.bfloat16 = gallery.bfloat16;
    p.repeats = reinterpret_cast<const uint32_t*>(base + plan.repeats_offset);
    p.repeat_words = plan.repeat_words;
    p.query_terms[0] = reinterpret_cast<Terms*>(base + plan.query.terms_offset);
    p.gallery_terms[0] = reinterpret_cast<Terms*>(stored + gallery.terms_offset);
    p.query_scale = reinterpret_cast<float*>(base + plan.query.scale_offset);
    p.gallery_scale = reinterpret_cast<float*>(stored + gallery.scale_offset);
    p.gallery_images = gallery.images;
    p.slots = static_cast<int>(request.slots);
    p.segments = plan.segments;
    p.query_pixels = query_pixels;
    p.query_tiles = plan.query_tiles;
    p.height = gallery.height;
    p.width = gallery.width;
    p.jobs = scheduled ? jobs : nullptr;
    p.job_count = plan.job_count;
    p.splits = plan.splits;
    p.kappa = static_cast<int>(request.kappa);
    p.keep = plan.keep;
    p.capacity = plan.capacity;
    p.kept = reinterpret_cast<uint64_t*>(base + plan.kept_offset);
    p.limits = reinterpret_cast<uint32_t*>(base + plan.limits_offset);
    p.counters = request.counters;
    p.lists = plan.lists_on_chip ? nullptr : reinterpret_cast<uint64_t*>(base + plan.lists_offset);
    p.list_offset = plan.list_offset;
    p.column_offset = plan.column_offset;
    p.row_offset = plan.row_offset;

    Sm90Parameters wide{};
    if (sm90) wide = sm90_parameters(launcher, gallery, plan, p, base);

    RepeatParameters r{};
    r.equals = reinterpret_cast<const Equals*>(stored + gallery.equals_offset);
    r.gallery_images = gallery.images;
    r.slots = p.slots;
    r.pixels = pixels;
    r.kappa = static_cast<int>(request.kappa);
    r.words = plan.repeat_words;
    r.repeats = reinterpret_cast<uint32_t*>(base + plan.repeats_offset);
    r.available = reinterpret_cast<int64_t*>(base + plan.available_offset);

    RedoParameters again{};
    again.lists = reinterpret_cast<uint64_t*>(base + plan.redo_offset);
    again.capacity = plan.redo_capacity;
    FinishParameters& f = again.finish;
    f.gallery = pyramid_view(request.gallery, 0, gallery, plan.before);
    f.gallery_images = gallery.images;
    f.query_scale = p.query_scale;
    f.tile_rows = plan.tile_rows;
    f.query_tiles = plan.query_tiles;
    f.query_pixels = query_pixels;
    f.pixels = pixels;
    f.slots = p.slots;
    f.kappa = static_cast<int>(request.kappa);
    f.keep = plan.keep;
    f.splits = plan.splits;
    f.available = r.available;
    f.kept = p.kept;
    f.limits = p.limits;
    f.told = p.told;
    f.failed = reinterpret_cast<int*>(base + plan.failed_offset);
    f.failures = reinterpret_cast<int*>(base + plan.failures_offset);
    f.counters = request.counters;

    const int64_t images = request.query[0].images();
    for (int64_t first = 0; first < images; first += plan.batch) {
        const int64_t count = std::min(plan.batch, images - first);
        prepare(launcher, prepare_parameters(plan.query, request.query, first, count, base, gallery, stored));
        p.gallery_index = f.gallery_index = r.gallery_index =
            request.gallery_index ? request.gallery_index + first * request.slots : nullptr;
        if (first == 0 || request.gallery_index) {
            r.rows = request.gallery_index ? static_cast<int>(count) : 1;
            launcher.fill(r.available, 0, static_cast<int64_t>(r.rows) * 8);
            launcher.launch(repeat_kernel, blocks_for(static_cast<int64_t>(r.rows) * r.slots * r.words * 32, repeat_threads),
                            repeat_threads, 0, r);
        }
        f.query = pyramid_view(request.query, first, plan.query, plan.before);
        f.distances = request.distances + first * query_pixels * request.kappa;
        f.indices = request.indices + first * query_pixels * request.kappa;
        const int64_t tiles = count * plan.query_tiles;
        for (int64_t tile = 0; tile < tiles; tile += plan.launch_tiles) {
            const int64_t now = std::min<int64_t>(plan.launch_tiles, tiles - tile);
            p.first_tile = f.first_tile = static_cast<int>(tile);
            f.rows = static_cast<int>(now * plan.tile_rows);
            launcher.fill(p.limits, 0xff, static_cast<int64_t>(f.rows) * 4);
            launcher.fill(f.failures, 0, 4);
            if (sm90) {
                wide.search = p;
                launcher.launch_sm90(gallery.bfloat16, plan.tile_rows, now * plan.splits, plan.shared_bytes, wide);
            } else if (gallery.bfloat16)
                launch_search<BFloat16Operand>(launcher, p, plan, now * plan.splits);
            else
                launch_search<HalfOperand>(launcher, p, plan, now * plan.splits);
            launcher.launch(finish_kernel, blocks_for(f.rows, finish_threads / 32), finish_threads, 0, f);
            if (!request.redo) continue;
            again.search = p;
            launcher.launch(redo_kernel, plan.redo_blocks, redo_threads, static_cast<int>(sizeof(RedoBlock)), again);
        }
    }
}

}  // namespace fastspade::cuda

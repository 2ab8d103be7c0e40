// The CUDA engine's functions in Python, over any backend with the functions of cuda/engine.hpp: the engine itself, or its
// emulation on the host.
#pragma once

#include "bindings/described.hpp"
#include "cuda/request.hpp"

namespace fastspade {

template <class Backend>
void define_cuda(pybind11::module_& module) {
    namespace py = pybind11;
    using namespace fastspade::cuda;
    using Shapes = std::vector<std::array<int, 3>>;  // (channels, height, width) a level

    static const auto shapes_of = [](const Shapes& shapes) {
        std::vector<LevelShape> levels;
        require(!shapes.empty() && shapes.size() <= max_levels, "a pyramid must hold 1 to 16 levels on CUDA");
        for (const auto& [channels, height, width] : shapes) {
            require(channels >= 1 && height >= 1 && width >= 1, "a level must not be empty");
            levels.push_back({channels, height, width});
        }
        return levels;
    };
    static const auto shapes_of_views = [](const std::vector<TensorView>& views) {
        std::vector<LevelShape> levels;
        require(views.size() <= max_levels, "a pyramid must hold 1 to 16 levels on CUDA");
        for (const TensorView& view : views)
            levels.push_back({static_cast<int>(view.channels()), static_cast<int>(view.height()), static_cast<int>(view.width())});
        return levels;
    };
    static const auto plan = [](int device, const Shapes& gallery, int64_t images, int upsample, bool bfloat16) {
        require(images >= 1, "the gallery must hold at least one image");
        check_choice(upsample, 2, "upsample");
        return plan_gallery(shapes_of(gallery), images, static_cast<Upsample>(upsample), bfloat16, Backend::limits(device));
    };

    module.def("cuda_gallery_bytes", [](int device, const Shapes& gallery, int64_t images, int upsample, bool bfloat16) {
        return plan(device, gallery, images, upsample, bfloat16).bytes;
    }, py::arg("device"), py::arg("gallery"), py::arg("images"), py::arg("upsample"), py::arg("bfloat16"));

    module.def("cuda_search_plan", [](int device, const Shapes& gallery, int64_t images, int upsample, bool bfloat16,
                                      const Shapes& query, int64_t query_images, int64_t slots, int64_t kappa, int path) {
        const OperandLayout layout = plan(device, gallery, images, upsample, bfloat16);
        require(query.size() == gallery.size(), "query and gallery need the same number of levels");
        require(query_images >= 1 && slots >= 1 && kappa >= 1, "query_images, slots and kappa must be at least 1");
        const SearchPlan search = plan_search(layout, shapes_of(query), query_images, slots, kappa, Backend::limits(device),
                                               static_cast<Path>(path));
        py::dict result;
        result["path"] = search.path == Path::sm90a ? "sm90a" : "sm80";
        result["stages"] = search.stages;
        result["step_channels"] = search.step_channels;
        result["jobs"] = search.job_count;
        result["workspace_bytes"] = search.workspace_bytes;
        result["groups"] = layout.groups.size();
        result["tile_rows"] = search.tile_rows;
        result["splits"] = search.splits;
        result["segments"] = search.segments;
        result["keep"] = search.keep;
        result["capacity"] = search.capacity;
        result["shared_bytes"] = search.shared_bytes;
        result["launch_tiles"] = search.launch_tiles;
        result["lists_on_chip"] = search.lists_on_chip;
        std::vector<int> rings, strides;
        for (size_t g = 0; g < layout.groups.size(); ++g) {
            rings.push_back(search.ring[g]);
            strides.push_back(search.stride[g]);
        }
        result["rings"] = rings;
        result["strides"] = strides;
        return result;
    }, py::arg("device"), py::arg("gallery"), py::arg("images"), py::arg("upsample"), py::arg("bfloat16"), py::arg("query"),
       py::arg("query_images"), py::arg("slots"), py::arg("kappa"), py::arg("path"));

    module.def("cuda_prepare_gallery", [](int device, uintptr_t stream, const std::vector<Described>& gallery, int upsample,
                                          bool bfloat16, uintptr_t prepared) {
        const std::vector<TensorView> levels = checked_pyramid(gallery, "gallery");
        check_choice(upsample, 2, "upsample");
        require(prepared != 0, "prepared has no memory");
        const OperandLayout layout = plan_gallery(shapes_of_views(levels), levels[0].images(), static_cast<Upsample>(upsample),
                                                  bfloat16, Backend::limits(device));
        py::gil_scoped_release release;
        Backend::prepare_gallery(device, reinterpret_cast<void*>(stream), layout, levels, reinterpret_cast<char*>(prepared));
    }, py::arg("device"), py::arg("stream"), py::arg("gallery"), py::arg("upsample"), py::arg("bfloat16"), py::arg("prepared"));

    module.def("cuda_search", [](int device, uintptr_t stream, const std::vector<Described>& query,
                                 const std::vector<Described>& gallery, uintptr_t prepared, uintptr_t gallery_index, int64_t slots,
                                 int64_t kappa, int upsample, bool bfloat16, bool redo, uintptr_t distances, uintptr_t indices,
                                 uintptr_t counters, uintptr_t workspace, int path) {
        SearchRequest request{};
        request.query = checked_pyramid(query, "query");
        request.gallery = checked_pyramid(gallery, "gallery");
        check_pair(request.query, request.gallery);
        check_outputs(request.query, request.gallery, slots, kappa, distances, indices);
        check_choice(upsample, 2, "upsample");
        require(prepared != 0 && counters != 0 && workspace != 0, "prepared, counters and workspace need memory");
        require(gallery_index % alignof(int64_t) == 0, "gallery_index is not aligned to its elements");
        require(gallery_index != 0 || slots <= request.gallery[0].images(), "slots is larger than the gallery");
        request.prepared = reinterpret_cast<char*>(prepared);
        request.gallery_index = reinterpret_cast<const int64_t*>(gallery_index);
        request.slots = slots;
        request.kappa = kappa;
        request.redo = redo;
        request.distances = reinterpret_cast<float*>(distances);
        request.indices = reinterpret_cast<int64_t*>(indices);
        request.counters = reinterpret_cast<int64_t*>(counters);
        request.workspace = reinterpret_cast<char*>(workspace);
        const Device limits = Backend::limits(device);
        const OperandLayout layout = plan_gallery(shapes_of_views(request.gallery), request.gallery[0].images(),
                                                  static_cast<Upsample>(upsample), bfloat16, limits);
        const SearchPlan search = plan_search(layout, shapes_of_views(request.query), request.query[0].images(), slots, kappa, limits,
                                               static_cast<Path>(path));
        py::gil_scoped_release release;
        Backend::search(device, reinterpret_cast<void*>(stream), layout, search, request);
    }, py::arg("device"), py::arg("stream"), py::arg("query"), py::arg("gallery"), py::arg("prepared"), py::arg("gallery_index"),
       py::arg("slots"), py::arg("kappa"), py::arg("upsample"), py::arg("bfloat16"), py::arg("redo"), py::arg("distances"),
       py::arg("indices"), py::arg("counters"), py::arg("workspace"), py::arg("path"));
}

}  // namespace fastspade

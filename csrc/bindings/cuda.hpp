// The CUDA engine's functions in Python, over any backend with the functions of cuda/engine.hpp: the engine itself, or its
// emulation on the host.
#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "bindings/described.hpp"
#include "cuda/request.hpp"

namespace fastspade {

// One search's layout, planned once for all calls of the same shapes.
struct CudaPlan {
    int64_t images, slots, kappa;  // images: of the gallery
    int64_t query_images;
    bool chosen;
    std::vector<cuda::LevelShape> query;
    cuda::OperandLayout gallery;
    cuda::SearchPlan search;
};

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
            levels.push_back(
                {static_cast<int>(view.channels()), static_cast<int>(view.height()), static_cast<int>(view.width())});
        return levels;
    };
    static const auto check_shapes = [](const std::vector<TensorView>& views, const std::vector<LevelShape>& planned,
                                        const char* name) {
        require(views.size() == planned.size(), name, " has another number of levels than planned");
        for (size_t l = 0; l < views.size(); ++l)
            require(views[l].channels() == planned[l].channels && views[l].height() == planned[l].height &&
                        views[l].width() == planned[l].width,
                    name, "[", std::to_string(l), "] has another shape than planned");
    };
    static const auto plan = [](int device, const std::vector<LevelShape>& gallery, int64_t images, int upsample, bool bfloat16) {
        require(images >= 1, "the gallery must hold at least one image");
        check_choice(upsample, 2, "upsample");
        return plan_gallery(gallery, images, static_cast<Upsample>(upsample), bfloat16, Backend::limits(device));
    };

    module.def(
        "cuda_gallery_layout",
        [](int device, const Shapes& gallery, int64_t images, int upsample, bool bfloat16) {
            const OperandLayout layout = plan(device, shapes_of(gallery), images, upsample, bfloat16);
            return std::pair{layout.bytes, layout.equals_offset};
        },
        py::arg("device"), py::arg("gallery"), py::arg("images"), py::arg("upsample"), py::arg("bfloat16"));

    py::class_<CudaPlan, std::shared_ptr<CudaPlan>>(module, "CudaPlan", py::module_local())
        .def("__getitem__", [](const CudaPlan& at, const std::string& name) -> py::object {
            const SearchPlan& search = at.search;
            const auto of_groups = [&](const int* values) {
                return py::cast(std::vector<int>(values, values + at.gallery.groups.size()));
            };
            const std::map<std::string, std::function<py::object()>> fields{
                {"path", [&] { return py::cast(search.path == Path::sm90a ? "sm90a" : "sm80"); }},
                {"stages", [&] { return py::cast(search.stages); }},
                {"step_channels", [&] { return py::cast(search.step_channels); }},
                {"jobs", [&] { return py::cast(search.job_count); }},
                {"workspace_bytes", [&] { return py::cast(search.workspace_bytes); }},
                {"groups", [&] { return py::cast(at.gallery.groups.size()); }},
                {"tile_rows", [&] { return py::cast(search.tile_rows); }},
                {"splits", [&] { return py::cast(search.splits); }},
                {"segments", [&] { return py::cast(search.segments); }},
                {"keep", [&] { return py::cast(search.keep); }},
                {"capacity", [&] { return py::cast(search.capacity); }},
                {"shared_bytes", [&] { return py::cast(search.shared_bytes); }},
                {"launch_tiles", [&] { return py::cast(search.launch_tiles); }},
                {"lists_on_chip", [&] { return py::cast(search.lists_on_chip); }},
                {"rings", [&] { return of_groups(search.ring); }},
                {"strides", [&] { return of_groups(search.stride); }},
            };
            const auto found = fields.find(name);
            if (found == fields.end()) throw py::key_error(name);
            return found->second();
        });

    module.def(
        "cuda_search_plan",
        [](int device, const Shapes& gallery, int64_t images, int upsample, bool bfloat16, const Shapes& query,
           int64_t query_images, int64_t slots, int64_t kappa, bool chosen, int path) {
            const Device limits = Backend::limits(device);
            using Key = std::tuple<std::array<int, 4>, Shapes, Shapes, std::array<int64_t, 4>, std::array<int, 4>>;
            static std::mutex guard;
            static std::map<Key, std::shared_ptr<CudaPlan>> known;
            constexpr size_t most_known = 256;
            const Key key{{device, limits.shared_bytes, limits.multiprocessors, limits.sm90a},
                          gallery,
                          query,
                          {images, query_images, slots, kappa},
                          {upsample, bfloat16, chosen, path}};
            const std::lock_guard<std::mutex> hold(guard);
            if (const auto found = known.find(key); found != known.end()) return found->second;
            const OperandLayout layout = plan(device, shapes_of(gallery), images, upsample, bfloat16);
            require(query.size() == gallery.size(), "query and gallery need the same number of levels");
            require(query_images >= 1 && slots >= 1 && kappa >= 1, "query_images, slots and kappa must be at least 1");
            const std::vector<LevelShape> levels = shapes_of(query);
            auto planned = std::make_shared<CudaPlan>(
                CudaPlan{images, slots, kappa, query_images, chosen, levels, layout,
                         plan_search(layout, levels, query_images, slots, kappa, chosen, limits, static_cast<Path>(path))});
            if (known.size() >= most_known) known.clear();
            return known[key] = planned;
        },
        py::arg("device"), py::arg("gallery"), py::arg("images"), py::arg("upsample"), py::arg("bfloat16"), py::arg("query"),
        py::arg("query_images"), py::arg("slots"), py::arg("kappa"), py::arg("chosen"), py::arg("path"));

    module.def(
        "cuda_prepare_gallery",
        [](int device, uintptr_t stream, const std::vector<Described>& gallery, int upsample, bool bfloat16, uintptr_t prepared) {
            const std::vector<TensorView> levels = checked_pyramid(gallery, "gallery");
            require(prepared != 0, "prepared has no memory");
            const OperandLayout layout = plan(device, shapes_of_views(levels), levels[0].images(), upsample, bfloat16);
            py::gil_scoped_release release;
            Backend::prepare_gallery(device, reinterpret_cast<void*>(stream), layout, levels, reinterpret_cast<char*>(prepared));
        },
        py::arg("device"), py::arg("stream"), py::arg("gallery"), py::arg("upsample"), py::arg("bfloat16"), py::arg("prepared"));

    module.def(
        "cuda_compare_equals",
        [](int device, uintptr_t stream, const std::vector<Described>& gallery, int upsample, bool bfloat16, uintptr_t hashes,
           uintptr_t order, uintptr_t same) {
            const std::vector<TensorView> levels = checked_pyramid(gallery, "gallery");
            require(hashes != 0 && order != 0 && same != 0, "hashes, order and same need memory");
            const OperandLayout layout = plan(device, shapes_of_views(levels), levels[0].images(), upsample, bfloat16);
            py::gil_scoped_release release;
            Backend::compare_equals(device, reinterpret_cast<void*>(stream), layout, levels,
                                    reinterpret_cast<const int64_t*>(hashes), reinterpret_cast<const int64_t*>(order),
                                    reinterpret_cast<uint8_t*>(same));
        },
        py::arg("device"), py::arg("stream"), py::arg("gallery"), py::arg("upsample"), py::arg("bfloat16"), py::arg("hashes"),
        py::arg("order"), py::arg("same"));

    module.def(
        "cuda_search",
        [](int device, const CudaPlan& plan, uintptr_t stream, const std::vector<Described>& query,
           const std::vector<Described>& gallery, uintptr_t prepared, uintptr_t gallery_index, bool redo, uintptr_t distances,
           uintptr_t indices, uintptr_t counters, uintptr_t workspace) {
            SearchRequest request{};
            request.query = checked_pyramid(query, "query");
            request.gallery = checked_pyramid(gallery, "gallery");
            check_pair(request.query, request.gallery);
            check_shapes(request.query, plan.query, "query");
            check_shapes(request.gallery, plan.gallery.levels, "gallery");
            require(request.query[0].images() == plan.query_images && request.gallery[0].images() == plan.images,
                    "query or gallery holds another number of images than planned");
            check_outputs(request.query, request.gallery, plan.slots, plan.kappa, distances, indices);
            require(prepared != 0 && counters != 0 && workspace != 0, "prepared, counters and workspace need memory");
            require(gallery_index % alignof(int64_t) == 0, "gallery_index is not aligned to its elements");
            require((gallery_index != 0) == plan.chosen, "gallery_index is not as planned");
            require(gallery_index != 0 || plan.slots <= plan.images, "slots is larger than the gallery");
            request.prepared = reinterpret_cast<char*>(prepared);
            request.gallery_index = reinterpret_cast<const int64_t*>(gallery_index);
            request.slots = plan.slots;
            request.kappa = plan.kappa;
            request.redo = redo;
            request.distances = reinterpret_cast<float*>(distances);
            request.indices = reinterpret_cast<int64_t*>(indices);
            request.counters = reinterpret_cast<int64_t*>(counters);
            request.workspace = reinterpret_cast<char*>(workspace);
            py::gil_scoped_release release;
            Backend::search(device, reinterpret_cast<void*>(stream), plan.gallery, plan.search, request);
        },
        py::arg("device"), py::arg("plan"), py::arg("stream"), py::arg("query"), py::arg("gallery"), py::arg("prepared"),
        py::arg("gallery_index"), py::arg("redo"), py::arg("distances"), py::arg("indices"), py::arg("counters"),
        py::arg("workspace"));
}

}  // namespace fastspade

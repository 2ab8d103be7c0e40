// fastspade._engine: plain addresses, shapes and strides in, results written in place. Nothing here knows torch. Errors
// for users are Python's (fastspade.search); the checks here keep memory safe whoever calls.
#include <chrono>

#include "bindings/described.hpp"
#include "core/problem.hpp"
#include "cpu/kernels.hpp"
#include "cpu/search.hpp"

namespace py = pybind11;
using namespace fastspade;

#ifdef FASTSPADE_WITH_CUDA
namespace fastspade {
void define_cuda_engine(py::module_& module);  // cuda.cpp
}
#endif

namespace {

// True when Python has a signal waiting that raises (Ctrl-C). Looks at most twenty times per second: it takes the GIL.
std::function<bool()> signal_check() {
    auto next = std::make_shared<std::chrono::steady_clock::time_point>(std::chrono::steady_clock::now());
    return [next] {
        const auto now = std::chrono::steady_clock::now();
        if (now < *next) return false;
        *next = now + std::chrono::milliseconds(50);
        py::gil_scoped_acquire hold;
        return PyErr_CheckSignals() != 0;
    };
}

py::dict search_cpu(const std::vector<Described>& query, const std::vector<Described>& gallery, uintptr_t gallery_index,
                    int64_t gallery_count, int64_t kappa, int upsample, uintptr_t distances, uintptr_t indices, int threads,
                    bool prune, int64_t row_radius, int64_t column_radius) {
    Problem problem;
    problem.query = checked_pyramid(query, "query");
    problem.gallery = checked_pyramid(gallery, "gallery");
    check_pair(problem.query, problem.gallery);
    check_outputs(problem.query, problem.gallery, gallery_count, kappa, distances, indices);
    check_choice(upsample, 2, "upsample");
    require(threads >= 1, "threads must be at least 1");
    require((row_radius < 0) == (column_radius < 0), "a window needs two radii");
    if (row_radius >= 0)
        for (size_t l = 0; l < problem.query.size(); ++l)
            require(problem.query[l].height() == problem.gallery[l].height() &&
                        problem.query[l].width() == problem.gallery[l].width(),
                    "a window needs query and gallery of one size");
    problem.row_radius = std::min(row_radius, problem.query[0].height());
    problem.column_radius = std::min(column_radius, problem.query[0].width());
    const int64_t images = problem.gallery[0].images();
    if (gallery_index == 0) {
        require(gallery_count <= images, "gallery_count is larger than the gallery");
    } else {
        require(gallery_index % alignof(int64_t) == 0, "gallery_index is not aligned to its elements");
        const auto* chosen = reinterpret_cast<const int64_t*>(gallery_index);
        const int64_t count = checked_product({problem.query[0].images(), gallery_count}, "gallery_index");
        for (int64_t i = 0; i < count; ++i)
            require(chosen[i] >= 0 && chosen[i] < images, "gallery_index names an image outside the gallery");
    }
    problem.gallery_index = reinterpret_cast<const int64_t*>(gallery_index);
    problem.gallery_count = gallery_count;
    problem.kappa = kappa;
    problem.upsample = static_cast<Upsample>(upsample);
    problem.distances = reinterpret_cast<float*>(distances);
    problem.indices = reinterpret_cast<int64_t*>(indices);
    problem.threads = threads;
    problem.prune = prune;
    problem.interrupted = signal_check();
    Statistics statistics;
    try {
        py::gil_scoped_release release;
        statistics = cpu::search(problem);
    } catch (const Interrupted&) {
        throw py::error_already_set();  // the signal handler's own exception
    }
    py::dict result;
    result["pairs"] = statistics.pairs;
    result["fine_pairs"] = statistics.fine_pairs;
    result["int8_pairs"] = statistics.int8_pairs;
    result["int16_pairs"] = statistics.int16_pairs;
    result["exact_pairs"] = statistics.exact_pairs;
    return result;
}

}  // namespace

PYBIND11_MODULE(_engine, module) {
    module.doc() = "The compiled search engines; use fastspade.search.";
    py::register_exception<NonFinite>(module, "NonFinite", PyExc_ValueError);
    module.def("search_cpu", &search_cpu, py::arg("query"), py::arg("gallery"), py::arg("gallery_index"),
               py::arg("gallery_count"), py::arg("kappa"), py::arg("upsample"), py::arg("distances"), py::arg("indices"),
               py::arg("threads"), py::arg("prune"), py::arg("row_radius") = -1, py::arg("column_radius") = -1);
    module.def("simd", [] { return std::string(cpu::kernels().name); });
    module.attr("compiler") = FASTSPADE_COMPILER;
    module.attr("cuda_architectures") = FASTSPADE_CUDA_ARCHITECTURES;
#ifdef FASTSPADE_WITH_CUDA
    define_cuda_engine(module);
#endif
}

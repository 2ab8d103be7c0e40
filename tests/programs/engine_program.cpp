// The CPU engine without Python: searches fixed problems and prints the bits of every result. Built for the host and for
// another processor, both programs must print the same (see test_cpu_cross.py).
#include <cstdio>
#include <cstring>
#include <vector>

#include "cpu/kernels.hpp"
#include "cpu/search.hpp"

using namespace fastspade;

namespace {

struct Level {
    int64_t channels, height, width;
};

uint64_t state = 1;

std::vector<float> features(int64_t count) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        value = static_cast<float>(static_cast<int32_t>(state >> 32)) * 0x1p-30f;
    }
    return values;
}

// vectors: channels lie side by side, as in plain lists of vectors; else planes, as networks give them.
TensorView view(const std::vector<float>& data, int64_t images, const Level& level, bool vectors) {
    TensorView view;
    view.data = data.data();
    const auto [c, h, w] = level;
    const int64_t shape[4] = {images, c, h, w};
    const int64_t planes[4] = {c * h * w, h * w, w, 1}, rows[4] = {c * h * w, 1, w * c, c};
    std::copy(shape, shape + 4, view.shape);
    std::copy(vectors ? rows : planes, (vectors ? rows : planes) + 4, view.stride);
    return view;
}

void search(const std::vector<Level>& levels, int64_t query_height, int64_t images, int64_t kappa, Upsample upsample,
            bool vectors, bool prune) {
    Problem problem;
    std::vector<std::vector<float>> storage;
    storage.reserve(2 * levels.size());
    for (const Level& level : levels) {
        const Level asked{level.channels, query_height ? query_height : level.height, level.width};
        storage.push_back(features(asked.channels * asked.height * asked.width));
        problem.query.push_back(view(storage.back(), 1, asked, vectors));
        storage.push_back(features(images * level.channels * level.height * level.width));
        problem.gallery.push_back(view(storage.back(), images, level, vectors));
    }
    const int64_t rows = problem.query[0].pixels();
    std::vector<float> distances(static_cast<size_t>(rows * kappa));
    std::vector<int64_t> indices(distances.size());
    problem.gallery_count = images;
    problem.kappa = kappa;
    problem.upsample = upsample;
    problem.distances = distances.data();
    problem.indices = indices.data();
    problem.threads = 2;
    problem.prune = prune;
    cpu::search(problem);
    for (size_t i = 0; i < distances.size(); ++i) {
        uint32_t bits;
        std::memcpy(&bits, &distances[i], sizeof(bits));
        std::printf("%08x %lld\n", bits, static_cast<long long>(indices[i]));
    }
}

}  // namespace

int main() {
    std::fprintf(stderr, "%s\n", cpu::kernels().name);
    for (bool prune : {true, false})
        for (Upsample upsample : {Upsample::nearest, Upsample::bilinear}) {
            search({{30, 16, 16}, {24, 8, 8}, {40, 4, 4}}, 0, 2, 3, upsample, false, prune);
            search({{9, 13, 11}, {17, 7, 5}, {33, 3, 2}}, 0, 3, 1, upsample, false, prune);
            search({{21, 9, 7}, {5, 9, 7}, {130, 1, 1}}, 0, 2, 20, upsample, true, prune);
        }
    search({{131, 700, 1}}, 3, 1, 5, Upsample::nearest, true, true);   // few vectors: streamed
    search({{37, 700, 1}}, 90, 1, 2, Upsample::nearest, true, true);   // many: laid out
    search({{37, 700, 1}}, 90, 1, 2, Upsample::nearest, false, true);  // the same as planes
    return 0;
}

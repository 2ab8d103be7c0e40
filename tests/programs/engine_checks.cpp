// The CPU engine without Python over awkward tensors, for sanitizers: every tensor fills its memory to the byte, and every
// layout of the same values must give the same bits. Prints what it did; ends with 1 at a difference.
//
//     engine_checks name           the instruction set in use (FASTSPADE_SIMD asks for one) and nothing else
//     engine_checks layouts        tensors of odd shapes, strides and alignment; searches that are interrupted or fail
//     engine_checks concurrent     several threaded searches at once, compared with the same searches one by one
//     engine_checks lying-shape, odd-address, shared-output      the engine misused: a sanitizer must end the program
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "cpu/kernels.hpp"
#include "cpu/search.hpp"
#include "engine_tensors.hpp"

using namespace fastspade;

namespace {

struct Case {
    const char* name;
    std::vector<Level> levels;
    int64_t queries, images, kappa;
    Upsample upsample;
    int64_t chosen = 0;        // images each query sees, by an index; 0: all, without one
    int64_t query_height = 0;  // of the finest level, where it differs from the gallery's
};

const std::vector<Case>& cases() {
    static const std::vector<Case> all = {
        {"one pixel", {{3, 1, 1}}, 1, 2, 1, Upsample::bilinear},
        {"one level", {{5, 7, 9}}, 2, 3, 3, Upsample::bilinear, 2},
        {"pyramid", {{30, 13, 11}, {17, 7, 5}, {33, 3, 2}}, 2, 3, 3, Upsample::bilinear, 2},
        {"pyramid, nearest", {{30, 13, 11}, {17, 7, 5}, {33, 3, 2}}, 1, 3, 1, Upsample::nearest},
        {"shared resolutions", {{21, 9, 7}, {5, 9, 7}, {130, 1, 1}}, 1, 2, 20, Upsample::bilinear},
        {"one row", {{6, 1, 40}, {5, 1, 13}}, 1, 2, 2, Upsample::bilinear},
        {"one column", {{6, 33, 1}, {5, 7, 1}}, 1, 2, 2, Upsample::nearest},
        {"many levels",
         {{3, 12, 12},
          {2, 11, 11},
          {3, 10, 9},
          {2, 9, 8},
          {1, 8, 8},
          {1, 7, 7},
          {1, 6, 6},
          {1, 5, 5},
          {1, 4, 4},
          {1, 3, 3},
          {1, 2, 2},
          {1, 1, 1}},
         1,
         2,
         2,
         Upsample::bilinear},
        {"several bands", {{24, 27, 41}, {16, 14, 21}, {8, 7, 11}}, 1, 2, 2, Upsample::bilinear},
        {"few vectors", {{131, 301, 1}}, 1, 1, 5, Upsample::nearest, 0, 3},
        {"few short vectors", {{3, 301, 1}}, 1, 1, 1, Upsample::nearest, 0, 1},
        {"many neighbours", {{48, 9, 8}, {20, 5, 4}}, 1, 2, 64, Upsample::bilinear},
        {"many vectors", {{37, 301, 1}}, 1, 1, 2, Upsample::nearest, 0, 90},
        {"all vectors", {{17, 101, 1}}, 1, 1, 101, Upsample::nearest, 0, 70},
    };
    return all;
}

struct Found {
    std::vector<float> distances;
    std::vector<int64_t> indices;
    int64_t ruled_out = 0;  // pairs whose finest level was never looked at
    bool operator==(const Found& other) const {
        return indices == other.indices && distances.size() == other.distances.size() &&
               std::memcmp(distances.data(), other.distances.data(), distances.size() * sizeof(float)) == 0;
    }
};

struct Inputs {
    std::vector<Tensor> query, gallery;
    std::vector<int64_t> index;
};

Inputs inputs(const Case& c, DType dtype, Layout layout) {
    Inputs result;
    for (size_t l = 0; l < c.levels.size(); ++l) {
        Level asked = c.levels[l];
        if (c.query_height) asked.height = c.query_height;
        const Layout of_query = repeats(layout) ? Layout::planes : layout;
        result.query.push_back(tensor(2 * l + 1, c.queries, asked, dtype, of_query));
        result.gallery.push_back(tensor(2 * l + 2, c.images, c.levels[l], dtype, layout));
    }
    for (int64_t i = 0; i < c.queries * c.chosen; ++i) result.index.push_back((i * 2 + 1) % c.images);
    return result;
}

Problem problem_of(const Case& c, const Inputs& in, int threads, bool prune, Found& found) {
    Problem problem;
    for (const Tensor& level : in.query) problem.query.push_back(level.view);
    for (const Tensor& level : in.gallery) problem.gallery.push_back(level.view);
    problem.gallery_index = in.index.empty() ? nullptr : in.index.data();
    problem.gallery_count = c.chosen ? c.chosen : c.images;
    problem.kappa = c.kappa;
    problem.upsample = c.upsample;
    problem.threads = threads;
    problem.prune = prune;
    const size_t rows = static_cast<size_t>(problem.query[0].images() * problem.query[0].pixels() * c.kappa);
    found.distances.resize(rows);
    found.indices.resize(rows);
    problem.distances = found.distances.data();
    problem.indices = found.indices.data();
    return problem;
}

Found search(const Case& c, const Inputs& in, int threads, bool prune) {
    Found found;
    const Statistics counts = cpu::search(problem_of(c, in, threads, prune, found));
    found.ruled_out = counts.pairs - counts.fine_pairs;
    return found;
}

int check_failures() {
    int searches = 0, wrong = 0;
    for (const Case& c : cases()) {
        for (int patience : {0, 1}) {
            const Inputs in = inputs(c, DType::float32, Layout::planes);
            Found found;
            Problem problem = problem_of(c, in, 3, true, found);
            bool told = false, ended = false;
            int polls = 0;
            problem.interrupted = [&] { return told = polls++ >= patience; };
            try {
                cpu::search(problem);
            } catch (const Interrupted&) {
                ended = true;
            }
            ++searches, wrong += ended != told || (patience == 0 && !told);
        }
        for (const bool of_query : {true, false}) {
            Inputs in = inputs(c, DType::float32, Layout::padded);
            const TensorView& level = (of_query ? in.query : in.gallery).back().view;
            const int64_t place = level.offset(in.index.empty() ? 0 : in.index[0], level.channels() - 1, level.height() - 1, 0);
            const float bad = of_query ? std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
            static_cast<float*>(const_cast<void*>(level.data))[of_query ? level.offset(0, 0, 0, 0) : place] = bad;
            bool refused = false;
            try {
                search(c, in, 3, true);
            } catch (const NonFinite&) {
                refused = true;
            }
            ++searches, wrong += !refused;
        }
    }
    std::printf("%d searches that fail, %d otherwise than they should\n", searches, wrong);
    return wrong != 0;
}

int check_layouts() {
    int searches = 0, wrong = 0;
    int64_t ruled_out = 0;
    for (const Case& c : cases()) {
        Found wanted;
        for (Layout layout : layouts) {
            if (layout == Layout::planes || repeats(layout))  // repeated values are others
                wanted = search(c, inputs(c, DType::float32, layout), 1, false);
            for (DType dtype : {DType::float32, DType::float16, DType::bfloat16}) {
                const Inputs in = inputs(c, dtype, layout);
                for (bool prune : {true, false}) {
                    ++searches;
                    const Found found = search(c, in, prune ? 2 : 1, prune);
                    ruled_out += found.ruled_out;
                    if (found == wanted) continue;
                    ++wrong;
                    std::printf("differs: %s, layout %d, dtype %d, prune %d\n", c.name, static_cast<int>(layout),
                                static_cast<int>(dtype), prune);
                }
            }
        }
    }
    std::printf("%d searches, %d wrong; %lld pairs ruled out\n", searches, wrong, static_cast<long long>(ruled_out));
    return wrong != 0 || ruled_out == 0;
}

// Of every number of neighbours the first are the same.
int check_neighbours() {
    int searches = 0, wrong = 0;
    for (Upsample upsample : {Upsample::bilinear, Upsample::nearest}) {
        Case c = {"neighbours", {{48, 9, 8}, {20, 5, 4}}, 1, 2, 64, upsample};
        const Inputs in = inputs(c, DType::float32, Layout::planes);
        const Found all = search(c, in, 1, false);
        for (c.kappa = 1; c.kappa <= 64; ++c.kappa) {
            const Found found = search(c, in, 2, true);
            const size_t kappa = static_cast<size_t>(c.kappa);
            bool same = true;
            for (size_t i = 0; i < found.indices.size(); ++i) {
                const size_t place = i / kappa * 64 + i % kappa;
                same = same && found.indices[i] == all.indices[place] && found.distances[i] == all.distances[place];
            }
            ++searches, wrong += !same;
        }
    }
    std::printf("%d searches for 1 to 64 neighbours, %d wrong\n", searches, wrong);
    return wrong != 0;
}

int check_concurrent() {
    constexpr int callers = 3, rounds = 2;
    int searches = 0, wrong = 0;
    for (const Case& c : cases()) {
        const Inputs in = inputs(c, DType::float32, Layout::planes);
        const Found wanted = search(c, in, 1, true);
        std::vector<int> different(callers, 0);
        std::vector<std::thread> threads;
        for (int caller = 0; caller < callers; ++caller)
            threads.emplace_back([&, caller] {
                for (int round = 0; round < rounds; ++round)
                    different[static_cast<size_t>(caller)] += !(search(c, in, 2 + caller % 2, round == 0) == wanted);
            });
        for (std::thread& thread : threads) thread.join();
        for (int count : different) wrong += count;
        searches += callers * rounds;
    }
    std::printf("%d searches at once, %d wrong\n", searches, wrong);
    return wrong != 0;
}

// What a sanitizer must see inside the engine: a tensor with one row fewer in memory than it says, one at an odd address,
// and two searches that write to the same place.
int misuse(const std::string& how) {
    const Case& c = cases()[2];
    Inputs in = inputs(c, DType::float32, Layout::planes);
    TensorView& view = in.gallery[0].view;
    if (how == "lying-shape") view.shape[2] += 1;
    if (how == "odd-address") view.shape[2] -= 1, view.data = static_cast<const char*>(view.data) + 1;
    Found found;
    // One thread each: teams wait through atomics that all of a process share, and those can order the two by accident.
    const Problem problem = problem_of(c, in, 1, true, found);
    std::thread other([&] {
        if (how == "shared-output") cpu::search(problem);
    });
    cpu::search(problem);
    other.join();
    return 0;
}

}  // namespace

int main(int count, char** words) {
    std::printf("%s\n", cpu::kernels().name);
    const std::string what = count > 1 ? words[1] : "layouts";
    if (what == "name") return 0;
    if (what == "concurrent") return check_concurrent();
    if (what != "layouts") return misuse(what);
    return check_layouts() + check_neighbours() + check_failures();
}

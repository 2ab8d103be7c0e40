// The CPU engine without Python over awkward tensors, for sanitizers and guard pages: every tensor ends where memory
// ends, and every layout of the same values must give the same bits. Prints what it did; ends with 1 at a difference.
//
//     engine_checks layouts          tensors of odd shapes and strides between pages that may not be touched
//     engine_checks concurrent       several threaded searches at once, compared with the same searches one by one
//     engine_checks overrun, race    faults on purpose: whatever watches must end the program
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "cpu/kernels.hpp"
#include "cpu/search.hpp"

using namespace fastspade;

namespace {

// Bytes with a forbidden page on either side, at the very end or the very start of what lies between. With a sanitizer
// the heap instead, whose surroundings it watches to the byte.
class Guarded {
  public:
    Guarded(size_t bytes, bool at_end) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FASTSPADE_WATCHED
        (void)at_end;
        heap_ = std::make_unique<char[]>(bytes);
        data_ = heap_.get();
#else
        const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
        const size_t inside = (bytes + page - 1) / page * page;
        size_ = inside + 2 * page;
        base_ = static_cast<char*>(mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (base_ == MAP_FAILED || mprotect(base_ + page, inside, PROT_READ | PROT_WRITE) != 0) std::abort();
        data_ = base_ + page + (at_end ? inside - bytes : 0);
#endif
    }
    ~Guarded() {
        if (base_) munmap(base_, size_);
    }
    Guarded(const Guarded&) = delete;
    Guarded& operator=(const Guarded&) = delete;
    char* data() const { return data_; }

  private:
    std::unique_ptr<char[]> heap_;
    char *base_ = nullptr, *data_ = nullptr;
    size_t size_ = 0;
};

struct Level {
    int64_t channels, height, width;
};

// one_image: every image is the same memory; one_pixel: every pixel of every image. Both make crowds of ties.
enum class Layout { planes, vectors, padded, transposed, one_image, one_pixel };
constexpr Layout layouts[] = {Layout::planes,     Layout::vectors,   Layout::padded,
                              Layout::transposed, Layout::one_image, Layout::one_pixel};
bool repeats(Layout layout) { return layout == Layout::one_image || layout == Layout::one_pixel; }

// Values that bfloat16 and float16 hold exactly, so that the element type changes nothing.
float value_of(uint64_t seed, int64_t i) {
    uint64_t x = (seed * 0x9e3779b97f4a7c15ull + static_cast<uint64_t>(i)) * 0xbf58476d1ce4e5b9ull;
    x ^= x >> 31;
    return static_cast<float>(static_cast<int64_t>(x * 0x94d049bb133111ebull >> 57) - 64) / 16.0f;
}

uint16_t half_of(float value) {  // exact for the values above
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffffu) == 0) return static_cast<uint16_t>(bits >> 16);
    return static_cast<uint16_t>((bits >> 16 & 0x8000u) | (((bits >> 23 & 0xff) - 112) << 10) | (bits >> 13 & 0x3ffu));
}

void write(char* to, DType dtype, float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const uint16_t narrow = dtype == DType::float16 ? half_of(value) : static_cast<uint16_t>(bits >> 16);
    if (dtype == DType::float32) std::memcpy(to, &value, 4);
    else std::memcpy(to, &narrow, 2);
}

struct Tensor {
    std::unique_ptr<Guarded> memory;
    TensorView view;
};

// What lies between the elements of `padded` is NaN: no result may see it.
Tensor tensor(uint64_t seed, int64_t images, const Level& level, DType dtype, Layout layout, bool at_end) {
    const auto [c, h, w] = level;
    int64_t stride[4] = {c * h * w, h * w, w, 1};
    if (layout == Layout::vectors) stride[0] = c * h * w, stride[1] = 1, stride[2] = w * c, stride[3] = c;
    if (layout == Layout::padded) stride[3] = 3, stride[2] = 3 * w + 1, stride[1] = h * stride[2] + 5, stride[0] = c * stride[1] + 7;
    if (layout == Layout::transposed) stride[2] = 1, stride[3] = h;
    if (repeats(layout)) stride[0] = 0;
    if (layout == Layout::one_pixel) stride[1] = 1, stride[2] = stride[3] = 0;
    const int64_t shape[4] = {images, c, h, w}, element = dtype == DType::float32 ? 4 : 2;
    int64_t last = 0;
    for (int axis = 0; axis < 4; ++axis) last += (shape[axis] - 1) * stride[axis];
    Tensor result;
    result.memory = std::make_unique<Guarded>(static_cast<size_t>((last + 1) * element), at_end);
    char* data = result.memory->data();
    std::memset(data, 0xff, static_cast<size_t>((last + 1) * element));
    for (int64_t n = 0; n < images; ++n)
        for (int64_t i = 0; i < c; ++i)
            for (int64_t y = 0; y < h; ++y)
                for (int64_t x = 0; x < w; ++x)
                    write(data + (n * stride[0] + i * stride[1] + y * stride[2] + x * stride[3]) * element, dtype,
                          layout == Layout::one_pixel ? value_of(seed, i)
                                                      : value_of(seed, (((repeats(layout) ? 0 : n) * c + i) * h + y) * w + x));
    result.view.data = data;
    result.view.dtype = dtype;
    std::copy(shape, shape + 4, result.view.shape);
    std::copy(stride, stride + 4, result.view.stride);
    return result;
}

struct Case {
    const char* name;
    std::vector<Level> levels;
    int64_t queries, images, kappa;
    Upsample upsample;
    int64_t chosen = 0;          // images each query sees, by an index; 0: all, without one
    int64_t query_height = 0;    // of the finest level, where it differs from the gallery's
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
        {"many levels", {{3, 12, 12}, {2, 11, 11}, {3, 10, 9}, {2, 9, 8}, {1, 8, 8}, {1, 7, 7}, {1, 6, 6}, {1, 5, 5}, {1, 4, 4},
                         {1, 3, 3}, {1, 2, 2}, {1, 1, 1}}, 1, 2, 2, Upsample::bilinear},
        {"several bands", {{24, 40, 41}, {16, 20, 21}, {8, 10, 11}}, 1, 2, 2, Upsample::bilinear},
        {"few vectors", {{131, 301, 1}}, 1, 1, 5, Upsample::nearest, 0, 3},
        {"few short vectors", {{3, 301, 1}}, 1, 1, 1, Upsample::nearest, 0, 1},
        {"many vectors", {{37, 301, 1}}, 1, 1, 2, Upsample::nearest, 0, 90},
        {"all vectors", {{17, 101, 1}}, 1, 1, 101, Upsample::nearest, 0, 70},
    };
    return all;
}

struct Found {
    std::vector<float> distances;
    std::vector<int64_t> indices;
    bool operator==(const Found& other) const {
        return indices == other.indices && distances.size() == other.distances.size() &&
               std::memcmp(distances.data(), other.distances.data(), distances.size() * sizeof(float)) == 0;
    }
};

struct Inputs {
    std::vector<Tensor> query, gallery;
    std::vector<int64_t> index;
};

Inputs inputs(const Case& c, DType dtype, Layout layout, bool at_end) {
    Inputs result;
    for (size_t l = 0; l < c.levels.size(); ++l) {
        Level asked = c.levels[l];
        if (c.query_height) asked.height = c.query_height;
        const Layout of_query = repeats(layout) ? Layout::planes : layout;
        result.query.push_back(tensor(2 * l + 1, c.queries, asked, dtype, of_query, at_end));
        result.gallery.push_back(tensor(2 * l + 2, c.images, c.levels[l], dtype, layout, at_end));
    }
    for (int64_t i = 0; i < c.queries * c.chosen; ++i) result.index.push_back((i * 2 + 1) % c.images);
    return result;
}

Found search(const Case& c, const Inputs& in, int threads, bool prune, std::function<bool()> interrupted = nullptr) {
    Problem problem;
    for (const Tensor& level : in.query) problem.query.push_back(level.view);
    for (const Tensor& level : in.gallery) problem.gallery.push_back(level.view);
    problem.gallery_index = in.index.empty() ? nullptr : in.index.data();
    problem.gallery_count = c.chosen ? c.chosen : c.images;
    problem.kappa = c.kappa;
    problem.upsample = c.upsample;
    problem.threads = threads;
    problem.prune = prune;
    problem.interrupted = std::move(interrupted);
    const size_t rows = static_cast<size_t>(problem.query[0].images() * problem.query[0].pixels() * c.kappa);
    const Guarded distances(rows * sizeof(float), true), indices(rows * sizeof(int64_t), true);
    problem.distances = reinterpret_cast<float*>(distances.data());
    problem.indices = reinterpret_cast<int64_t*>(indices.data());
    cpu::search(problem);
    return {{problem.distances, problem.distances + rows}, {problem.indices, problem.indices + rows}};
}

// A search that must end with an exception, whichever thread meets the reason.
template <class Expected>
bool ends_with(const Case& c, const Inputs& in, int polls) {
    int left = polls;
    try {
        search(c, in, 3, true, [&] { return polls >= 0 && left-- <= 0; });
    } catch (const Expected&) {
        return true;
    }
    return false;
}

int check_failures() {
    int searches = 0, wrong = 0;
    for (const Case& c : cases()) {
        for (int polls : {0, 1}) ++searches, wrong += !ends_with<Interrupted>(c, inputs(c, DType::float32, Layout::planes, true), polls);
        for (const bool of_query : {true, false}) {
            Inputs in = inputs(c, DType::float32, Layout::padded, true);
            const TensorView& level = (of_query ? in.query : in.gallery).back().view;
            const int64_t place = level.offset(in.index.empty() ? 0 : in.index[0], level.channels() - 1, level.height() - 1, 0);
            const float bad = of_query ? std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
            static_cast<float*>(const_cast<void*>(level.data))[of_query ? level.offset(0, 0, 0, 0) : place] = bad;
            ++searches, wrong += !ends_with<NonFinite>(c, in, -1);
        }
    }
    std::printf("%d searches that fail, %d otherwise than they should\n", searches, wrong);
    return wrong != 0;
}

int check_layouts() {
    int searches = 0, wrong = 0;
    for (const Case& c : cases())
        for (Layout layout : layouts) {
            const Layout plain = repeats(layout) ? layout : Layout::planes;  // repeated values are others
            const Found wanted = search(c, inputs(c, DType::float32, plain, true), 1, false);
            for (DType dtype : {DType::float32, DType::float16, DType::bfloat16})
                for (bool at_end : {true, false}) {
#if defined(FASTSPADE_WATCHED)
                    if (!at_end) continue;
#endif
                    const Inputs in = inputs(c, dtype, layout, at_end);
                    for (bool prune : {true, false}) {
                        ++searches;
                        if (search(c, in, prune ? 2 : 1, prune) == wanted) continue;
                        ++wrong;
                        std::printf("differs: %s, layout %d, dtype %d, prune %d\n", c.name, static_cast<int>(layout),
                                    static_cast<int>(dtype), prune);
                    }
                }
        }
    std::printf("%d searches, %d wrong\n", searches, wrong);
    return wrong != 0;
}

int check_concurrent() {
    constexpr int callers = 4, rounds = 3;
    int searches = 0, wrong = 0;
    for (const Case& c : cases()) {
        const Inputs in = inputs(c, DType::float32, Layout::planes, true);
        const Found wanted = search(c, in, 1, true);
        std::vector<int> different(callers, 0);
        std::vector<std::thread> threads;
        for (int caller = 0; caller < callers; ++caller)
            threads.emplace_back([&, caller] {
                for (int round = 0; round < rounds; ++round)
                    different[static_cast<size_t>(caller)] += !(search(c, in, 2 + caller % 3, round != 1) == wanted);
            });
        for (std::thread& thread : threads) thread.join();
        for (int count : different) wrong += count;
        searches += callers * rounds;
    }
    std::printf("%d searches, %d wrong\n", searches, wrong);
    return wrong != 0;
}

}  // namespace

int main(int count, char** words) {
    std::printf("%s\n", cpu::kernels().name);
    const std::string what = count > 1 ? words[1] : "layouts";
    if (what == "concurrent") return check_concurrent();
    if (what == "overrun") {
        const Guarded memory(40, true);
        volatile char* const end = memory.data() + 40;
        return *end + 100;
    }
    if (what == "race") {
        volatile int shared = 0;
        std::thread other([&] { shared = shared + 1; });
        shared = shared + 1;
        other.join();
        return 0;
    }
    return check_layouts() + check_failures();
}

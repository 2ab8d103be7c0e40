// What simt.cpp and simt_hopper.cpp share: the machine's state and its scheduler's hooks. Kernels do not see this.
#pragma once

#include <array>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "fibre.hpp"
#include "simt_hopper.hpp"

namespace fastspade::emulate {

// --- the units that work on their own on sm_90 (simt_hopper.cpp)

// One warp's quarter of a warpgroup's product, not yet carried out.
struct Product {
    bool bfloat16, accumulate;
    int columns;
    uint64_t left, right;  // operand descriptors
    std::array<float*, 32> accumulators;
};

struct WarpgroupWork {
    std::vector<Product> products;  // not yet waited for, oldest first
    size_t done = 0;                // how many of them have been carried out
    std::vector<size_t> groups;
    size_t open = 0;
    bool fenced = false;
    int64_t issued = 0;
};

struct Mbarrier {
    uint32_t arrivals = 0;  // a phase's
    int64_t missing = 0;    // arrivals
    int64_t bytes = 0;      // expected and not yet landed
    uint32_t phases = 0;    // completed
    bool fenced = false;
};

struct TensorLoad {
    char* to;
    TensorMap map;
    std::array<int32_t, 4> corner;
    size_t mbarrier;
};

struct GroupBarrier {
    int threads = 0, arrived = 0;
    bool voting = false, any = false, any_result = false;
};

struct AsyncUnits {
    std::map<size_t, Mbarrier> mbarriers;  // by offset into shared memory
    std::vector<TensorLoad> loads;         // in flight, oldest first
    std::array<GroupBarrier, 16> groups;
    std::vector<std::vector<std::array<uint64_t, 2>>> issued;  // descriptors by warpgroup, to compare its warps
};

// --- the machine

struct Copy {
    char* to;
    const char* from;  // null: zeros
    bool landed;

    void land() {
        if (landed) return;
        if (from)
            std::memcpy(to, from, 16);
        else
            std::memset(to, 0, 16);
        landed = true;
    }
};

// paused: lets other warps run before it goes on.
enum class State { ready, at_warp, at_block, at_group, at_mbarrier, paused, ended };

struct Fibre {
    Context context;
    std::unique_ptr<char[]> stack;
    int thread = 0;
    State state = State::ready;
    Slot slot;
    std::vector<Copy> copies;    // not yet waited for, oldest first
    std::vector<size_t> groups;  // sizes of the committed groups among them
    size_t open = 0;             // copies since the last commit
    int group = 0;               // the named barrier it waits at
    size_t mbarrier = 0;         // the mbarrier it waits at, as an offset into shared memory, and the parity
    uint32_t parity = 0;
};

struct Warp {
    Collective kind = Collective::none;
    int arrived = 0;
    WarpgroupWork work;
};

struct Machine {
    const std::function<void()>* body = nullptr;
    int block = 0, blocks = 0, threads = 0;
    std::vector<std::unique_ptr<Fibre>> fibres;
    std::vector<Warp> warps;
    Fibre* current = nullptr;
    int warp = 0;               // its
    std::array<int, 32> lanes;  // of a warp, in the order in which they run
    size_t next_lane = 0;       // place in that order
    Context scheduler;
    std::vector<char> memory;
    char* shared = nullptr;
    size_t shared_bytes = 0;
    int alive = 0, at_barrier = 0;
    bool voting = false, any = false, any_result = false;
    AsyncUnits async;
    uint64_t seed = 0;
    std::mt19937_64 random;
    std::exception_ptr error;
};

extern Machine machine;

std::string where(const Fibre& fibre);
bool lands_at_once();  // whether something asynchronous happens as soon as it is issued, and not as late as its wait allows
void give_way();
void check_shared(const void* address, size_t bytes, size_t alignment, const char* what);

// --- the scheduler's hooks into simt_hopper.cpp
void reset_async();
void run_async();                         // whatever may happen now, by seed
bool finish_one_load();                   // when nothing else can go on
std::string waiting(const Fibre& fibre);  // what a stuck fibre waits for
void check_async_done();                  // at the end of a block
void check_warp_done(const Warp& warp, const Fibre& fibre);
void perform_products(Warp& warp, int first_thread, Slot* const (&slots)[32], Collective kind);
float operand_value(bool bfloat16, uint32_t bits);

}  // namespace fastspade::emulate
